"""Engines by the names that people write: `--engine local|processes|ray --workers N`."""

from collections.abc import Iterator
from contextlib import contextmanager

from pairsight.engine.engine import Engine
from pairsight.errors import ConfigError, did_you_mean

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
        from pairsight.engine.local import LocalEngine

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
