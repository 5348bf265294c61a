"""The engine of a Ray cluster, or of Ray started on this machine: one actor a worker, the same stage inside."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairsight.engine.pool import PoolWorkers, Reply
from pairsight.engine.stage import Stage
from pairsight.errors import MissingExtraError, PairsightError, RunError, one_line
from pairsight.registry import load_files, loaded_files

LOCAL_OBJECT_STORE_BYTES = 200_000_000
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, Ray (2.60) uses the loopback address on every system; its option `_node_ip_address` no longer does that."""


class RayEngine:
    """Runs batches in `workers` actors, each with the CPUs and GPUs that the stage asks for. Use it as a context.

    The environment's RAY_ADDRESS names a running cluster ("auto", "host:port", "ray://host:port"), as for all of Ray.
    Without it Ray starts on this machine, on the loopback address only, with a token of its own and without a
    dashboard. (Ray reads where to listen when it is imported: a program that imported it before has it listen on all
    addresses, with the token.)

    Args:
        workers: number of actors a stage.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._address = os.environ.get("RAY_ADDRESS")
        self._started = False
        self._pool: ActorPool | None = None

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_actors()
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    @contextmanager
    def open(self, stage: Stage[Any, Any]) -> Iterator[PoolWorkers]:
        """Set the stage up in all actors; those of the stage before are used again if they have what it asks for."""
        self._connect()
        import ray

        share = _share(stage, self._workers, ray.cluster_resources())
        if self._pool is not None and self._pool.share != share:
            self._end_actors()
        pool = self._pool = self._pool or ActorPool(self._workers, share)
        try:
            pool.set_up(stage)
            yield PoolWorkers(pool)
        except BaseException:
            self._end_actors()
            raise
        pool.close_stage()

    def _end_actors(self) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool = None

    def _connect(self) -> None:
        if self._address is None:
            os.environ.setdefault(LOOPBACK_ONLY, "0")
            if "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
                os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        try:
            import ray
        except ImportError:
            raise MissingExtraError("--engine ray", "ray") from None
        if ray.is_initialized():
            return
        options: dict[str, object] = {"log_to_driver": False, "logging_level": "error"}
        if self._address:
            options["address"] = self._address
        else:
            options |= {
                "num_cpus": max(self._workers, os.cpu_count() or 1),
                "include_dashboard": False,
                "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            }
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = self._address or "this machine"
            hint = "; does it run, and is RAY_AUTH_TOKEN its token?" if self._address else ""
            raise RunError(f"Ray at {where} cannot be used: {one_line(error)}{hint}") from None
        self._started = True


class StageActor:
    """What runs inside an actor."""

    def __init__(self) -> None:
        self._stage: Stage[Any, Any] | None = None

    def load(self, files: Sequence[Path]) -> None:
        """Load plug-ins, before anything comes that they define; they lie at the same paths on all nodes."""
        load_files(files)

    def set_up(self, stage: Stage[Any, Any]) -> None:
        """Load a stage's weights."""
        self.close_stage()
        self._stage = stage
        stage.setup()

    def process(self, items: Sequence[Any]) -> tuple[list[Any], str | PairsightError | None]:
        """The results of a batch, and the error that cut it short."""
        assert self._stage is not None
        results: list[Any] = []
        try:
            for result in self._stage.process(items):
                results.append(result)
        except PairsightError as error:
            return results, error
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            return results, f"a worker failed: {type(error).__name__}: {one_line(error)}"
        return results, None

    def close_stage(self) -> None:
        """Free what the stage loaded."""
        if self._stage is not None:
            self._stage.close()
            self._stage = None


class ActorPool:
    """Actors and the answers they owe."""

    def __init__(self, size: int, share: Mapping[str, float]) -> None:
        import ray

        self.size = size
        self.share = share
        self._ray = ray
        self._stage: Any = None
        self._name = ""
        self._actor = ray.remote(StageActor).options(**share, max_restarts=0)
        self._owed: dict[Any, tuple[int, int]] = {}
        self._came: list[Reply] = []
        self._actors = [self._actor.remote() for _ in range(size)]

    def set_up(self, stage: Stage[Any, Any]) -> None:
        """Have all actors load the stage."""
        self._stage, self._name = self._ray.put(stage), stage.name
        self._set_up(self._actors)

    def close_stage(self) -> None:
        """Have all actors free what the stage loaded."""
        for actor in self._actors:
            actor.close_stage.remote()

    def send(self, worker: int, job: int, items: Sequence[Any]) -> None:
        """Ask an actor for the results of a job."""
        self._owed[self._actors[worker].process.remote(items)] = (worker, job)

    def wait(self) -> Reply:
        """The next reply, or the loss of an actor after all that it finished before."""
        if not self._came:
            ready, _ = self._ray.wait(list(self._owed), num_returns=1)
            reply = self._fetch(ready[0])
            if reply.lost:
                finished = [self._fetch(answer) for answer, owed in list(self._owed.items()) if owed[0] == reply.worker]
                self._came += [one for one in finished if not one.lost]
            self._came.append(reply)
        return self._came.pop(0)

    def _fetch(self, answer: Any) -> Reply:
        worker, job = self._owed.pop(answer)
        try:
            results, error = self._ray.get(answer)
        except self._ray.exceptions.RayActorError as lost:
            return Reply(worker, lost=True, detail=one_line(lost))
        except self._ray.exceptions.RayError as failure:
            return Reply(worker, job, error=RunError(f"a worker failed: {one_line(failure)}"))
        return Reply(worker, job, results, RunError(error) if isinstance(error, str) else error)

    def restart(self, worker: int) -> None:
        """Replace a dead actor by a new one."""
        self._actors[worker] = self._actor.remote()
        self._set_up([self._actors[worker]])

    def end(self) -> None:
        """End all actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _set_up(self, actors: Sequence[Any]) -> None:
        """Load weights in all of them at once."""
        try:
            self._ray.get([actor.load.remote(loaded_files()) for actor in actors])
            self._ray.get([actor.set_up.remote(self._stage) for actor in actors])
        except self._ray.exceptions.RayActorError as error:
            raise RunError(f"a worker of stage '{self._name}' ended while loading: {one_line(error)}") from None
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PairsightError):
                raise error.cause from None
            raise RunError(f"a worker failed: {type(error.cause).__name__}: {one_line(error.cause)}") from None


def _share(stage: Stage[Any, Any], size: int, cluster: Mapping[str, float]) -> dict[str, float]:
    """What each actor gets; RunError when the cluster does not have that for all of them, and would wait for ever.

    An actor with a part of a GPU has it of one GPU: of 0.6 there is room for one on each.
    """
    share = {"num_cpus": stage.resources.num_cpus, "num_gpus": stage.resources.num_gpus if cluster.get("GPU") else 0.0}
    part = share["num_gpus"]
    on_one = int(1 / part) * part if 0 < part < 1 else 1.0
    of_one = f", on each of which {int(1 / part)} fit" if 0 < part < 1 else ""
    usable = {"CPU": cluster.get("CPU", 0.0), "GPU": cluster.get("GPU", 0.0) * on_one}
    for wanted, kind in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if share[wanted] * size > usable[kind] + 1e-6:
            raise RunError(
                f"{size} workers of stage '{stage.name}' need {share[wanted] * size:g} {kind}s, Ray has "
                f"{cluster.get(kind, 0.0):g}{of_one if kind == 'GPU' else ''}; use fewer --workers"
            )
    return share
