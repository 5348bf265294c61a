"""Which host writes a folder: on a network file system a claim beside each lock keeps other hosts out.

The kernel's locks are the truth on a local disk. On a network file system they may not reach other hosts, and SQLite's
write-ahead log must not be shared between hosts at all. There, whoever holds a lock also holds `LOCK.host`, made with
O_EXCL, which says on which host, boot and process. A claim of this boot whose kernel lock is free was left by a killed
process and is taken over; one of another host cannot be judged from here and is refused. Source: ours.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairsight.errors import LockedError, RunError
from pairsight.store.durable import cannot_write, sync, write_all

MOUNTS = Path("/proc/self/mounts")
NETWORK = frozenset((
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs",
    "orangefs", "pvfs2", "ocfs2", "gfs", "gfs2", "9p", "virtiofs", "davfs", "davfs2", "coda", "panfs", "wekafs",
    "vastfs", "prl_fs", "vboxsf", "vmhgfs",
))  # fmt: skip
"""Types of file systems that other hosts, or other kernels, can write at the same time."""
LOCAL_FUSE = frozenset(("fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.ext2", "fuse.squashfuse", "fuse.bindfs"))
SECONDS_BETWEEN_LOOKS = 0.1


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
            time.sleep(SECONDS_BETWEEN_LOOKS)
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


def _is_this_host(note: dict[str, Any]) -> bool:
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


def _writer(note: dict[str, Any]) -> str:
    return f"process {note.get('pid', 'unknown')} on host {note.get('host', 'unknown')}"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read(claim: Path) -> dict[str, Any]:
    try:
        content = json.loads(claim.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
