"""The engine of one machine's cores and GPUs: worker processes, each with the stage set up once."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pairsight.engine.pool import PoolWorkers, Reply
from pairsight.engine.stage import Stage
from pairsight.errors import PairsightError, RunError, one_line
from pairsight.registry import load_files, loaded_files

_LOG = logging.getLogger("pairsight.engine")
SECONDS_TO_CLOSE = 10.0
SECONDS_TO_STOP = 0.2
_SET_UP, _CLOSE, _FILES, _BROKEN = -1, -2, -3, -4
"""What is not a batch: the stage to load, its end, plug-in files, and (within a worker) what cannot be unpickled."""


class ProcessEngine:
    """Runs batches in `workers` processes of this machine, each with a GPU where there are any. Use it as a context.

    The GPUs are those that CUDA_VISIBLE_DEVICES names, all where it is not set; each worker sees one of them alone, the
    first worker the first; where there are more workers, they share.

    The processes stay from stage to stage. A program that uses it from Python needs the usual
    `if __name__ == "__main__":`, as the workers import it.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "ProcessEngine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool = None

    @contextmanager
    def open(self, stage: Stage[Any, Any]) -> Iterator[PoolWorkers]:
        """Set the stage up in all workers, and close it afterwards; workers that are interrupted are ended."""
        pool = self._pool = self._pool or ProcessPool(self._workers)
        try:
            pool.set_up(stage)
            yield PoolWorkers(pool)
        except BaseException:
            self._pool = None
            pool.end(SECONDS_TO_STOP)
            raise
        pool.close_stage()


class ProcessPool:
    """Worker processes, a pipe to each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._stage: Stage[Any, Any] | None = None
        self._context = get_context("spawn")
        self._gpus = visible_gpus()
        if 0 < len(self._gpus) < size:
            _LOG.warning("%d workers share %d GPUs; each loads its own weights", size, len(self._gpus))
        elif len(self._gpus) > size:
            _LOG.info("%d of %d visible GPUs are used; --workers %d uses all", size, len(self._gpus), len(self._gpus))
        self._ready = [False] * size
        started = [self._start(worker) for worker in range(size)]
        self._processes = [process for process, _ in started]
        self._pipes = [pipe for _, pipe in started]

    def set_up(self, stage: Stage[Any, Any]) -> None:
        """Have all workers load the stage; whether they could is reported by `wait`."""
        self._stage = stage
        for worker in range(self.size):
            self._send_stage(worker)

    def _send_stage(self, worker: int) -> None:
        self._ready[worker] = False
        self.send(worker, _FILES, loaded_files())
        self.send(worker, _SET_UP, self._stage)

    def close_stage(self) -> None:
        """Have all workers free what the stage loaded."""
        for worker in range(self.size):
            self.send(worker, _CLOSE, None)

    def send(self, worker: int, job: int, items: Any) -> None:
        """Send a job; if the worker is dead, `wait` reports it."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._pipes[worker].send((job, items))

    def wait(self) -> Reply:
        """The next reply, or the loss of a worker."""
        while True:
            pipe = wait(self._pipes)[0]
            worker = self._pipes.index(pipe)  # type: ignore[arg-type]
            try:
                job, results, error = self._pipes[worker].recv()
            except (EOFError, ConnectionResetError):
                self._processes[worker].join(SECONDS_TO_CLOSE)
                detail = _how_it_ended(self._processes[worker].exitcode)
                if not self._ready[worker]:
                    name = "" if self._stage is None else self._stage.name
                    raise RunError(f"a worker of stage '{name}' ended while loading: {detail}") from None
                return Reply(worker, lost=True, detail=detail)
            if job == _SET_UP:
                if error is not None:
                    raise error
                self._ready[worker] = True
                continue
            return Reply(worker, job, results, error)

    def restart(self, worker: int) -> None:
        """Replace a dead process by a new one, with the stage loaded."""
        self._pipes[worker].close()
        self._processes[worker], self._pipes[worker] = self._start(worker)
        self._send_stage(worker)

    def end(self, seconds: float = SECONDS_TO_CLOSE) -> None:
        """Let idle workers end; end those that are still working after this many seconds."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(None)
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join(seconds)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()

    def _start(self, worker: int) -> tuple[Any, "Connection[Any, Any]"]:
        here, there = self._context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self.size)
        gpu = self._gpus[worker % len(self._gpus)] if self._gpus else None
        process = self._context.Process(target=_work, args=(there, threads, gpu), daemon=True)
        process.start()
        there.close()
        return process, here


def visible_gpus(kernel: Path = Path("/")) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without NVIDIA's driver.

    What follows a number below 0 is not visible: CUDA reads the variable so.

    Args:
        kernel: the folder in which `proc` and `dev` are.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        listed = [gpu.strip() for gpu in named.split(",")]
        return list(takewhile(lambda gpu: gpu and not gpu.startswith("-"), listed))
    folder = kernel / "proc/driver/nvidia/gpus"
    cards = folder.iterdir() if folder.is_dir() else (kernel / "dev").glob("nvidia[0-9]*")
    return [str(number) for number, _ in enumerate(cards)]


def _work(pipe: "Connection[Any, Any]", threads: int, gpu: str | None) -> None:
    """A worker's life: set a stage up, work on batches as they come, close it, until there are no more stages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    jobs: SimpleQueue[Any] = SimpleQueue()
    # read all the time, so that neither end of the pipe waits for the other to read first
    threading.Thread(target=_read_jobs, args=(pipe, jobs), daemon=True).start()
    stage: Stage[Any, Any] | None = None
    while (job := jobs.get()) is not None:
        number, items = job
        if number == _BROKEN:
            pipe.send((_SET_UP, (), items))
            return
        if number in (_SET_UP, _CLOSE):
            if stage is not None:
                stage.close()
            stage = None
        if number == _SET_UP:
            try:
                stage = items
                _share_cores(threads)
                stage.setup()
            except BaseException as error:  # noqa: BLE001 - raised again by the driver
                pipe.send((_SET_UP, (), _sendable(error)))
                return
            pipe.send((_SET_UP, (), None))
        elif number >= 0 and stage is not None:
            _process(pipe, stage, number, items)
    if stage is not None:
        stage.close()


def _process(pipe: "Connection[Any, Any]", stage: Stage[Any, Any], number: int, items: Sequence[Any]) -> None:
    """Work on one batch and send what was made of it."""
    results: list[Any] = []
    failure = None
    try:
        for result in stage.process(items):
            results.append(result)
    except BaseException as error:  # noqa: BLE001 - raised again by the driver
        failure = _sendable(error)
    try:
        pipe.send((number, results, failure))
    except Exception as error:  # noqa: BLE001 - results that cannot be pickled: raised again by the driver
        pipe.send((number, (), _sendable(error)))


def _read_jobs(pipe: "Connection[Any, Any]", jobs: "SimpleQueue[Any]") -> None:
    """Pass messages on; files are loaded here, as the messages behind them need what they define."""
    try:
        while (job := pipe.recv()) is not None:
            if job[0] == _FILES:
                load_files(job[1])
            else:
                jobs.put(job)
    except (EOFError, ConnectionResetError):  # the driver is gone
        pass
    except Exception as error:  # noqa: BLE001 - what cannot be loaded or unpickled: raised again by the driver
        jobs.put((_BROKEN, _sendable(error)))
    jobs.put(None)


def _share_cores(threads: int) -> None:
    if "torch" in sys.modules:  # imported with the stage, so the environment variable came too late
        sys.modules["torch"].set_num_threads(threads)


def _sendable(error: BaseException) -> BaseException:
    """The error if it survives the way to the driver, else its text."""
    if isinstance(error, PairsightError):
        return error
    return RunError(f"a worker failed: {type(error).__name__}: {one_line(error)}")


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "killed by the system, most often because memory ran out"
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
