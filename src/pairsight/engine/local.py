"""The engine in this process: one worker, one batch at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pairsight.engine.stage import Engine, Finished, Stage
from pairsight.errors import ConfigError, did_you_mean
from pairsight.records import ItemError


class LocalEngine:
    """Runs every batch in the calling process, when it is asked for."""

    @contextmanager
    def open(self, stage: Stage[Any, Any]) -> Iterator["LocalWorkers"]:
        """Set the stage up, and close it at the end."""
        stage.setup()
        try:
            yield LocalWorkers(stage)
        finally:
            stage.close()


class LocalWorkers:
    """The one worker of this process."""

    capacity = 1

    def __init__(self, stage: Stage[Any, Any]) -> None:
        self._stage = stage
        self._waiting: list[tuple[int, Sequence[Any]]] = []

    def submit(self, ticket: int, batch: Sequence[Any]) -> None:
        """Keep the batch until `take`."""
        self._waiting.append((ticket, batch))

    def take(self) -> Finished:
        """Work on the oldest batch; what was made before an interruption comes back with it."""
        ticket, batch = self._waiting.pop(0)
        results: list[object | ItemError] = []
        try:
            for result in self._stage.process(batch):
                results.append(result)
        except BaseException as error:  # noqa: BLE001 - handed to the runner, which raises it
            return Finished(ticket, results, error)
        return Finished(ticket, results)


ENGINES = ("local", "processes", "ray")


@contextmanager
def open_engine(name: str, workers: int = 1, address: str | None = None) -> Iterator[Engine]:
    """The engine called `name`, ended at the end.

    Args:
        name: "local" (this process), "processes" (this machine), or "ray" (this machine or a cluster).
        workers: number of workers a stage; "local" has one.
        address: of a running Ray cluster.

    Raises:
        ConfigError: an unknown name, or workers where there is one.
    """
    if name == "local":
        if workers != 1:
            raise ConfigError(f"--engine local has 1 worker, found --workers {workers}; use --engine processes or ray")
        yield LocalEngine()
    elif name == "processes":
        from pairsight.engine.processes import ProcessEngine

        with ProcessEngine(workers) as engine:
            yield engine
    elif name == "ray":
        from pairsight.engine.ray import RayEngine

        with RayEngine(workers, address) as cluster:
            yield cluster
    else:
        raise ConfigError(f"unknown engine '{name}'{did_you_mean(name, ENGINES)}")
