"""Locks that die with their process: one process a phase of a run, one writer a folder at a time (see `hosts`)."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsight.errors import LockedError
from pairsight.store.durable import cannot_write, make_folder
from pairsight.store.hosts import host_claim, network_type, no_locks

LOOKS = 5
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_FOR_ANOTHER_HOST = 30.0
"""How long a host waits for another one to end a short piece of writing."""


@contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, or fail at once; the kernel frees it when the process ends, however it ends.

    Args:
        path: the lock file; made if it is not there, and left there.
        what: what is locked, for the error, e.g. "build of runs/first".

    Raises:
        LockedError: another process holds it, or another host may; the message says which.
        RunError: the file system has no locks.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        if not _lock(path, descriptor):
            holder = _read(path)
            pid, host = holder.get("pid", "unknown"), holder.get("host", "this machine")
            raise LockedError(f"{what}: process {pid} on {host} is working on it; wait until it ends, or stop it")
        with host_claim(path, what):
            note = {"pid": os.getpid(), "host": socket.gethostname(), "since_s": time.time()}
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(note).encode(), 0)
            except OSError as error:
                raise cannot_write(path, error) from None
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, and since when (seconds since 1970)."""

    pid: int
    since_s: float


def lock_holder(path: Path) -> Holder | None:
    """Who holds a lock file; None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for an instant: see `_lock`
    except BlockingIOError:
        note = _read(path)
        try:
            return Holder(int(note["pid"]), float(note["since_s"]))
        except (KeyError, TypeError, ValueError):
            return None
    finally:
        os.close(descriptor)
    return None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Wait for and hold a folder (made if it is not there) for one short piece of writing."""
    try:
        make_folder(folder)
        # a folder cannot be locked through a network, a file in it can
        lock = folder / ".folder-lock" if network_type(folder) else folder
        descriptor = os.open(folder, os.O_RDONLY) if lock == folder else os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise no_locks(lock, error) from None
        with host_claim(lock, f"writing in {folder}", SECONDS_FOR_ANOTHER_HOST) if lock != folder else nullcontext():
            yield
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> bool:
    """Take the lock if nobody has it; somebody who only looks whether it is taken has it for an instant."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        except OSError as error:
            raise no_locks(path, error) from None
        else:
            return True
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
