"""Writes that survive a crash: temporary file in the same folder, fsync, rename, fsync of the folder.

A marker is a JSON file that says "complete" of its folder: it is written after everything that it names is on disk, and
names each file with its size and SHA-256, so that a file that was cut short or changed later is recognised.

Every step goes through a function of this module, so that a test can stop a process before or after any of them.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

from pairsight.bounded import read_json
from pairsight.errors import PairsightError, RunError, one_line

DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""A disk that is full, broken or read-only: not a fault of the program, so no traceback."""


MANY = 1_000
"""Files of a folder above which the kernel is asked once to bring all to disk: a call for each would take minutes."""
_LONGEST_NAME = 255
"""Bytes of a file's name: what file systems allow."""


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one, never a part.

    Raises:
        RunError: the disk is full, the folder is read-only or the device failed; nothing is lost.
    """
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file as `write_file` does, of pieces that need not all be in memory."""
    temporary = temporary_path(path)
    try:
        make_folder(path.parent)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for piece in pieces:
                write_all(descriptor, piece)
            sync(descriptor)
        finally:
            os.close(descriptor)
        replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise cannot_write(path, error) from None


def publish(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its name: fsync it, rename it, fsync the folder."""
    try:
        sync_file(temporary)
        replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise cannot_write(path, error) from None


def publish_folder(draft: Path, folder: Path) -> None:
    """Give a finished folder its name: fsync all that is in it, rename it, fsync the folder around it.

    Args:
        draft: the folder as it was written, beside `folder`.
        folder: its name from now on; an empty folder of that name is replaced.
    """
    try:
        paths = list(islice(draft.rglob("*"), MANY + 1))
        if len(paths) > MANY:
            os.sync()
        else:
            for path in sorted(paths):
                sync_folder(path) if path.is_dir() else sync_file(path)
        sync_folder(draft)
        replace(draft, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from None


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file, so that a crash leaves the old target or the new one.

    Raises:
        RunError: the disk is full, the folder is read-only or the device failed.
    """
    draft = temporary_path(target)
    try:
        make_folder(target.parent)
        shutil.copyfile(source, draft)
    except OSError as error:
        _discard(draft)
        raise cannot_write(target, error) from None
    publish(draft, target)


def temporary_path(path: Path) -> Path:
    """Where `path` is written before it gets its name: hidden, in the same folder, one per process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def name_aside(path: Path) -> Path:
    """Where something damaged is kept: `path` with ".damaged", or ".damaged-2"…, whichever is not taken yet."""
    names = (path.with_name(f"{path.name}.damaged{'' if n == 1 else f'-{n}'}") for n in count(1))
    return next(name for name in names if not name.exists())


def _discard(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()


def remove_temporaries(folder: Path, prefix: str) -> None:
    """Remove what a killed process left of files that begin with `prefix`."""
    for path in folder.glob(f".{prefix}*.tmp"):
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and make their names durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however little the device takes at once."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if written == 0:
            raise OSError(5, "the device took no bytes")
        view = view[written:]


def sync(descriptor: int) -> None:
    """Make a file's bytes durable."""
    os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable that something else wrote."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Give `source` the name `target` in one step."""
    source.replace(target)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error of a write that failed, and what to do."""
    reason = error.strerror or str(error)
    return RunError(
        f"cannot write {path}: {reason}; fix that and run the same command again, which continues from here"
    )


@contextmanager
def written_by_a_library(path: Path) -> Iterator[None]:
    """While libraries write to `path` or below it: a disk that refuses is one clear error, whatever they raise.

    They hide the system's error: safetensors in its message, `torch.save` behind the zip writer's own check; and
    TensorBoard's thread, which ends on it with a traceback, raises it again at its next line.

    Raises:
        RunError: the disk is full, may not be written or failed.
    """
    before = threading.excepthook

    def of_a_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or _refusal(args.exc_value) is None:
            before(args)

    threading.excepthook = of_a_thread
    try:
        yield
    except PairsightError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise cannot_write(Path(refusal.filename or path), refusal) from None
    finally:
        threading.excepthook = before


def _refusal(error: BaseException) -> OSError | None:
    """The disk's refusal behind an error: itself, what it came from, or what a library wrote into its own class."""
    if isinstance(error, OSError):
        return error if error.errno in DISK_ERRORS else None
    rust = re.search(r"\(os error (\d+)\)", str(error))
    if rust and int(rust[1]) in DISK_ERRORS:
        return OSError(int(rust[1]), os.strerror(int(rust[1])))
    if re.search("inline_container|PytorchStreamWriter|file write failed", str(error)):
        return OSError(errno.ENOSPC, "the device takes no more bytes, most likely no space is left")
    behind = error.__cause__ or error.__context__
    return None if behind is None else _refusal(behind)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_marker(marker: Path, values: Mapping[str, object], names: Iterable[str], *, checksum: bool = False) -> None:
    """Bring files to disk, then write the marker that lists them.

    Args:
        marker: the file to write; its folder holds the files.
        values: what else it says.
        names: the files, relative to the marker's folder.
        checksum: also keep the marker's own checksum, for one that nobody edits by hand.

    Raises:
        RunError: the disk is full or failed.
    """
    folder, listed = marker.parent, sorted(names)
    try:
        for name in listed:
            sync_file(folder / name)
        for parent in sorted({folder.parent, folder, *((folder / name).parent for name in listed)}):
            sync_folder(parent)
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in listed
        }
    except OSError as error:
        raise cannot_write(folder, error) from None
    content: dict[str, object] = {**values, "files": files}
    if checksum:
        content["sha256"] = _checksum(content)
    write_file(marker, json.dumps(content, indent=2, ensure_ascii=False).encode())


def read_marker(marker: Path, *, checksum: bool = False) -> dict[str, Any]:
    """What a marker says; its files are not looked at. One of an earlier version has no `files`.

    Args:
        checksum: the marker must have its own checksum.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        content = read_json(marker)
    except OSError as error:
        raise RunError(f"{marker.name} cannot be read: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not _is_listing(content.get("files", {})):
        raise RunError(f"{marker.name} is damaged: it is not what was written")
    if checksum and content.pop("sha256", None) != _checksum(content):
        earlier = "lists no files: an earlier version of Pairsight wrote it"
        raise RunError(f"{marker.name} {'is damaged: its checksum differs' if 'files' in content else earlier}")
    return content


def damaged_file(folder: Path, files: Mapping[str, Mapping[str, object]]) -> str:
    """The first listed file that is not as its marker says, and why; "" when all are.

    Args:
        folder: the marker's.
        files: name -> {"bytes", "sha256"}, as in the marker.
    """
    for name, listed in files.items():
        if not (folder / name).is_file():
            return f"{one_line(name)} is missing"
        if (size := (folder / name).stat().st_size) != listed["bytes"]:
            return f"{one_line(name)} has {size} bytes instead of {listed['bytes']}"
    changed = (name for name, listed in files.items() if file_sha256(folder / name) != listed["sha256"])
    return next((f"{one_line(name)} was changed" for name in changed), "")


def _is_listing(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(listed, dict)
        and isinstance(listed.get("bytes"), int)
        and isinstance(listed.get("sha256"), str)
        and ".." not in Path(name).parts
        and not Path(name).is_absolute()
        and all(len(part.encode("utf-8", "replace")) <= _LONGEST_NAME for part in Path(name).parts)
        for name, listed in files.items()
    )


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
