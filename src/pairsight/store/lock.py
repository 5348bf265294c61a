"""Locks that die with their process: one process a phase of a run, one writer a folder at a time, one host.

The kernel's locks are the truth on a local disk. On a network file system they may not reach other hosts, and SQLite's
write-ahead log must not be shared between hosts at all. There, whoever holds a lock also holds `LOCK.host`, made with
O_EXCL, which says on which host, boot and process. A claim of this boot whose kernel lock is free was left by a killed
process and is taken over; one of another host cannot be judged from here and is refused. Source: ours.
"""

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

from pairsight.bounded import read_json
from pairsight.errors import LockedError, RunError
from pairsight.store.durable import cannot_write, make_folder, sync, write_all

MOUNTS = Path("/proc/self/mounts")
NETWORK = frozenset((
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs",
    "orangefs", "pvfs2", "ocfs2", "gfs", "gfs2", "9p", "virtiofs", "davfs", "davfs2", "coda", "panfs", "wekafs",
    "vastfs", "prl_fs", "vboxsf", "vmhgfs",
))  # fmt: skip
"""Types of file systems that other hosts, or other kernels, can write at the same time."""
LOCAL_FUSE = frozenset(("fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.ext2", "fuse.squashfuse", "fuse.bindfs"))
SECONDS_BETWEEN_CLAIM_LOOKS = 0.1


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
    """What a lock file or a claim says of its holder; nothing where it is missing or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def host_claim(lock: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other hosts out while inside, if the lock is on a network file system; hold its kernel lock before.

    Args:
        lock: the lock file.
        what: what is locked, for the error.
        wait_s: how long to wait for another host.

    Raises:
        LockedError: another host holds it, or did when it stopped; the message says what to do.
    """
    kind = network_type(lock.parent)
    if not kind:
        yield
        return
    claim, until = _claim_of(lock), time.monotonic() + wait_s
    while not _make(claim):
        note = _read(claim)
        if _is_this_host(note):  # its kernel lock was free: the process was killed
            claim.unlink(missing_ok=True)
        elif time.monotonic() >= until:
            raise LockedError(
                f"{what}: {_writer(note)} holds it, or did when it stopped; {lock.parent} is on a network file system "
                f"({kind}), through which this host cannot see that: "
                f"continue there, or remove {claim} if that process has ended"
            )
        else:
            time.sleep(SECONDS_BETWEEN_CLAIM_LOOKS)
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def refuse_other_writer(folder: Path) -> None:
    """Refuse to read a ledger that another host may be writing.

    Raises:
        LockedError: the writer's host, and what to do.
    """
    for phase in ("build", "evaluate"):
        claim = _claim_of(folder / ".locks" / phase)
        if claim.is_file() and network_type(folder) and not _is_this_host(note := _read(claim)):
            raise LockedError(
                f"{folder} is written by {_writer(note)}, and a ledger on a network file system can only be read there "
                f"meanwhile: read it there, or remove {claim} if that process has ended"
            )


def _claim_of(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.host")


def _make(claim: Path) -> bool:
    """Make a claim for this process, unless there is one."""
    try:
        descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(claim, error) from None
    note = {**_this_host(), "pid": os.getpid(), "started": _started(), "since_s": time.time()}
    try:
        write_all(descriptor, json.dumps(note).encode())
        sync(descriptor)
    except OSError as error:
        claim.unlink(missing_ok=True)
        raise cannot_write(claim, error) from None
    finally:
        os.close(descriptor)
    return True


def _is_this_host(note: dict[str, object]) -> bool:
    """Whether a claim is of this boot, or of an earlier boot of this machine: no process of either holds it."""
    here = _this_host()
    rebooted = bool(here["machine"]) and (note.get("host"), note.get("machine")) == (here["host"], here["machine"])
    return (bool(here["boot"]) and note.get("boot") == here["boot"]) or rebooted


def _this_host() -> dict[str, str]:
    boot, machine = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
    return {"host": socket.gethostname(), "boot": _text(boot), "machine": _text(machine)}


def _started() -> str:
    """When this process began, in clock ticks since boot: with its number, this identifies it."""
    fields = _text(Path("/proc/self/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _writer(note: dict[str, object]) -> str:
    return f"process {note.get('pid', 'unknown')} on host {note.get('host', 'unknown')}"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _unescaped(mount: str) -> str:
    """A mount point as /proc writes it: space, tab, newline and backslash as octal numbers."""
    for code, text in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mount = mount.replace(code, text)
    return mount


def no_locks(path: Path, error: OSError) -> RunError:
    """The error of a file system that cannot lock."""
    kind = network_type(path)
    where = f"a network file system ({kind})" if kind else "a file system"
    return RunError(
        f"cannot lock {path}: {error.strerror}; it is on {where} without locks, so that two processes could write at "
        f"once: put the run on a local disk, or mount that with locks"
    )


def network_type(path: Path) -> str:
    """The type of the network file system that a path is on, e.g. "nfs4"; "" when it is local or unknown."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real, best, kind = str(path.resolve()), "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = _unescaped(fields[1])
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):  # of two mounts on one folder the later one is visible
            best, kind = mount, fields[2]
    other_fuse = kind.startswith("fuse.") and kind not in LOCAL_FUSE
    return kind if kind in NETWORK or other_fuse else ""
