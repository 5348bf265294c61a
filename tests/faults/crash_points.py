"""Stop a process before or after any write, fsync, rename or commit. Used in children only; production has no hooks.

Every durable step of the toolkit goes through `pairsight.store.durable` or through SQLite's COMMIT, so wrapping these
names all of them: a point is "before" or "after" the n-th call of one of them.
"""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pairsight.store import blobs, durable, journal, lock, repair, replay, run_folder, sealed

STEPS = ("write_all", "sync", "replace", "sync_folder")
NUMBER_OF = {"points": 0}
"""How many points were passed since `crash_at`."""


@contextmanager
def crash_at(point: int | None, names: list[str] | None = None, also: Sequence[tuple[Any, str]] = ()) -> Iterator[None]:
    """Kill this process with SIGKILL at the given point (counted from 0); None only counts, and lists names.

    Args:
        also: further functions that are points, as (module, name).
    """
    NUMBER_OF["points"] = 0

    def passing(name: str) -> None:
        if names is not None:
            names.append(name)
        if NUMBER_OF["points"] == point:
            os.kill(os.getpid(), signal.SIGKILL)
        NUMBER_OF["points"] += 1

    def wrapped(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            passing(f"before {name}")
            result = function(*arguments, **named)
            passing(f"after {name}")
            return result

        return step

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql != "COMMIT":
                return super().execute(sql, *arguments)
            passing("before commit")
            cursor = super().execute(sql)
            passing("after commit")
            return cursor

    modules = (blobs, durable, journal, lock, repair, replay, run_folder, sealed)
    originals = [(module, name, getattr(module, name)) for module in modules
                 for name in STEPS if hasattr(module, name)]  # fmt: skip
    originals += [(module, name, getattr(module, name)) for module, name in also]
    connect = sqlite3.connect
    for module, name, function in originals:
        setattr(module, name, wrapped(function, name))
    sqlite3.connect = lambda *arguments, **named: connect(*arguments, factory=Connection, **named)  # type: ignore[assignment]
    try:
        yield
    finally:
        sqlite3.connect = connect
        for module, name, function in originals:
            setattr(module, name, function)
