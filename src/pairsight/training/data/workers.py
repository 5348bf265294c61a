"""Processes that tokenise parts of the records: started, given a part each, and heard.

A process is started as a fresh interpreter that imports this module, never as a copy of this one, whose libraries run
threads, and without the user's program, which would run again. It loads the processor; the model is not loaded, and
where a family computes positions by a method of its model, one without weights is made. The first message to it is
what all parts need, each further one a part's path, first number and records; its own say how far it is, that a part is
done, or why it failed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pairsight.errors import MissingExtraError, PairsightError, RunError, one_line
from pairsight.training.data.table import Catalogue, TableWriter
from pairsight.training.examples import Ingredients, Record, Tokeniser, prepare

_PROGRAM = "import sys; sys.path[:] = {path!r}; from pairsight.training.data.workers import work; work({descriptor})"
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # a GPU's memory is for the training
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_EVERY = 64
"""Records after which a process says how far it is."""
_SECONDS_TO_END = 5.0


Block = tuple[int, int, Sequence[Record]]
"""The number of a part, that of its first record, and its records."""


def write_part(  # noqa: PLR0917
    path: Path,
    first: int,
    records: Sequence[Record],
    tokeniser: Tokeniser,
    made_from: Ingredients,
    advance: Callable[[], None],
) -> None:
    """Tokenise the records of a part, from number `first` on, into its file."""
    writer = TableWriter(path, made_from.family)
    prepare(records, tokeniser.into(writer), made_from.rules, writer, advance, first=first)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process and our end of the pipe to it."""

    process: "subprocess.Popen[bytes]"
    pipe: "Connection[Any, Any]"

    @classmethod
    def start(cls, made_from: Ingredients) -> "_Worker":
        here, there = Pipe()
        program = _PROGRAM.format(path=sys.path, descriptor=there.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
            pass_fds=[there.fileno()],
        )
        there.close()
        worker = cls(process, here)
        worker.send(made_from)
        return worker

    def send(self, message: object) -> None:
        """Send; of a process that is gone, its pipe says so when it is read."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def lost(self) -> RunError:
        """The error of a process that is gone."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_SECONDS_TO_END)
        status = self.process.returncode
        how = f"ended with status {status}"
        if status is not None and status < 0:
            how = f"was ended by signal {signal.Signals(-status).name}, maybe for too little memory"
        return RunError(
            f"a process that tokenises {how}; what is finished is kept: run the same command again, if need be with a "
            "smaller dataset_num_proc"
        )

    def end(self) -> None:
        """Let it end, or end it."""
        self.send(None)
        self.pipe.close()
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def tokenise(
    parts: Sequence[Path], blocks: Iterator[Block], made_from: Ingredients, count: int, advance: Callable[[int], None]
) -> None:
    """Write the parts of some blocks of records by `count` processes.

    Args:
        parts: the file of each part, by its number.
        blocks: number and records of the parts to write.
        made_from: all else.
        count: processes.
        advance: called with numbers of records that were tokenised.

    Raises:
        PairsightError: what the first bad record is an error of, as one process would find it.
        RunError: a process was killed.
    """
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker.start(made_from) for _ in range(count))
        _hand_out(workers, parts, blocks, advance)
    except BaseException:
        for worker in workers:
            worker.process.kill()
        raise
    finally:
        for worker in workers:
            worker.end()


def _hand_out(
    workers: Sequence[_Worker], parts: Sequence[Path], blocks: Iterator[Block], advance: Callable[[int], None]
) -> None:
    failed: dict[float, BaseException] = {}
    busy: dict[Connection[Any, Any], tuple[_Worker, int]] = {}

    def give(worker: _Worker) -> None:
        if failed:
            return
        try:
            block = next(blocks, None)
        except PairsightError as error:  # of a record after all that were given out
            failed[float("inf")] = error
            return
        if block is not None:
            number, *job = block
            busy[worker.pipe] = worker, number
            worker.send((parts[number], *job))

    for worker in workers:
        give(worker)
    while busy and any(number < min(failed, default=float("inf")) for _, number in busy.values()):
        for pipe in wait(list(busy)):
            worker, number = busy[pipe]  # type: ignore[index]
            try:
                what, value = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                raise worker.lost() from None
            if what == "advance":
                advance(value)
                continue
            del busy[worker.pipe]
            if what == "failed":
                failed[number] = value
            give(worker)
    if failed:
        raise failed[min(failed)]


def work(descriptor: int) -> None:
    """A process's life: read what all parts need, then write part after part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's to handle
    serve(Connection(descriptor))


def serve(pipe: "Connection[Any, Any]") -> None:
    """Write parts as they are given, until there are no more."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the training is gone
        made_from = pipe.recv()
        tokeniser: Tokeniser | None = None
        while (job := pipe.recv()) is not None:
            try:
                said, tokeniser = _Said(pipe), tokeniser or _tokeniser(made_from)
                path, first, records = job
                write_part(path, first, records, tokeniser, made_from, said.advance)
                said.rest()
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - raised again by the training
                pipe.send(("failed", _sendable(error)))
            else:
                pipe.send(("done", None))


class _Said:
    """Says from time to time how many records were tokenised."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe, self._waiting = pipe, 0

    def advance(self) -> None:
        """Count a record."""
        self._waiting += 1
        if self._waiting == _EVERY:
            self.rest()

    def rest(self) -> None:
        """Say what was not said yet."""
        self._pipe.send(("advance", self._waiting))
        self._waiting = 0


def _tokeniser(made_from: Ingredients) -> Tokeniser:
    """What tokenises in this process."""
    import torch

    from pairsight.models.load import from_config
    from pairsight.models.local.processor import load_processor

    torch.set_num_threads(1)
    processor = load_processor(made_from.model)
    model: Any = SimpleNamespace(generation_config=made_from.generation_config)
    if made_from.family.rope_index:
        with torch.device("meta"):
            model = from_config(made_from.model)
        model.generation_config = made_from.generation_config
    return Tokeniser(processor, model, made_from.family, made_from.images, 0, catalogue=Catalogue())


def _sendable(error: Exception) -> Exception:
    """The error if it survives the way to the training, else its text."""
    if isinstance(error, MissingExtraError):
        return RunError(str(error))
    if isinstance(error, PairsightError):
        return error
    return RunError(f"tokenising failed: {type(error).__name__}: {one_line(error)}")
