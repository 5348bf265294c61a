"""The journal beside a ledger: every result and paid call once more, append-only, so that a lost ledger is rebuilt.

`journal/00001.journal`, `00002.journal`…: one file for each process that wrote the ledger, so that none is ever
written by two and only the end of one can be torn. A record is

    b"PSJ1" | length of the body, u32 | CRC-32 of the body, u32 | body = a JSON object, "\\n", the raw answer's bytes

in little-endian order. A reader that meets damage looks for the next intact record. Source: ours; write-ahead logs work
like this.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsight.store.durable import cannot_write, make_folder, sync, sync_folder, write_all

MAGIC = b"PSJ1"
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_HEAD = struct.Struct("<4sII")
AHEAD = 1 << 18
"""Zeros in bytes (ours) that are written ahead where records are synced one by one; cut off when the file is closed."""
TAIL = 1 << 16
"""Bytes at the end of a file in which its last record is looked for first."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: what happened, and the bytes of the raw answer if it holds one."""

    about: Mapping[str, Any]
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a file that are not a record; `torn` when they end it, as after a crash."""

    start: int
    stop: int
    torn: bool


class Journal:
    """The journal of one ledger, for its writer; its file is made by the first record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder
        self._descriptor: int | None = None
        self._end = self._filled = 0

    def append(self, about: Mapping[str, object], raw: bytes = b"", *, durably: bool = False) -> None:
        """Write a record after the others.

        Args:
            about: what happened, as JSON values.
            raw: the bytes of a raw answer.
            durably: return only when it is on disk; else the operating system writes it in its own time.

        Raises:
            RunError: the disk is full, or failed; the record is then not in the file.
        """
        body = _JSON.encode(about).encode() + b"\n" + raw
        data = _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body
        try:
            if self._descriptor is None:
                self._descriptor = self._begin()
            if durably and self._end + len(data) > self._filled:
                self._fill(self._descriptor, len(data) + AHEAD)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            write_all(self._descriptor, data)
            if durably:
                sync(self._descriptor)
        except OSError as error:
            self._cut()
            raise cannot_write(self._path, error) from None
        self._end += len(data)

    def close(self) -> None:
        """Put what was written on disk; a later record begins a new file."""
        if self._descriptor is not None:
            try:
                self._cut()
                sync(self._descriptor)
            except OSError as error:
                raise cannot_write(self._path, error) from None
            finally:
                os.close(self._descriptor)
                self._descriptor, self._end, self._filled = None, 0, 0

    def _fill(self, descriptor: int, length: int) -> None:
        """Write zeros ahead of the end: syncing a file that need not grow is several times cheaper."""
        os.lseek(descriptor, self._end, os.SEEK_SET)
        with suppress(OSError):  # a disk that is nearly full may still take the record
            write_all(descriptor, bytes(length))
            self._filled = self._end + length

    def _cut(self) -> None:
        """Leave nothing after the last record."""
        self._filled = 0
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)

    def _begin(self) -> int:
        make_folder(self.folder)
        files = journal_files(self.folder)
        number = int(files[-1].stem) + 1 if files else 1
        while True:
            self._path = self.folder / f"{number:05d}.journal"
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                number += 1
                continue
            sync_folder(self.folder)
            return descriptor


def journal_files(folder: Path) -> list[Path]:
    """The files of a journal, in the order of their writing."""
    return sorted((path for path in folder.glob("*.journal") if path.stem.isdecimal()), key=lambda path: int(path.stem))


def read_journal(file: Path) -> Iterator[Record | Gap]:
    """All records of a file in order, with a `Gap` where bytes between them, or at the end, are not records.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            position, size = 0, len(data)
            while position < size:
                found = _record(data, position)
                if found is None:
                    start, position = position, _next(data, position + 1)
                    yield Gap(start, position, position == size)
                else:
                    record, position = found
                    yield record


def last_record(file: Path) -> Record | None:
    """The last intact record of a file, found from its end."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = TAIL
        while True:
            length = min(length, size)
            opened.seek(size - length)
            data = opened.read(length)
            position = data.rfind(MAGIC)
            while position >= 0:
                if found := _record(data, position):
                    return found[0]
                position = data.rfind(MAGIC, 0, position)
            if length == size:
                return None
            length *= 16


def journal_problems(folder: Path) -> tuple[int, list[str]]:
    """The number of records, and one line a problem; a torn end is what a crash leaves, and not a problem."""
    count, problems = 0, []
    files = journal_files(folder)
    numbers = [int(file.stem) for file in files]
    problems += [
        f"{folder}: file {n:05d}.journal is missing" for n in sorted({*range(1, max(numbers, default=0))} - {*numbers})
    ]
    for file in files:
        try:
            for found in read_journal(file):
                if isinstance(found, Record):
                    count += 1
                elif not found.torn:
                    problems.append(f"{file}: bytes {found.start} to {found.stop} are damaged")
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")
    return count, problems


def _record(data: "bytes | mmap.mmap", position: int) -> tuple[Record, int] | None:
    """The record at a position and where it ends; None when there is no intact one."""
    head = data[position : position + _HEAD.size]
    if len(head) < _HEAD.size:
        return None
    magic, length, checksum = _HEAD.unpack(head)
    stop = position + _HEAD.size + length
    if magic != MAGIC or stop > len(data):
        return None
    body = data[position + _HEAD.size : stop]
    if zlib.crc32(body) != checksum:
        return None
    about, _, raw = body.partition(b"\n")
    try:
        content = json.loads(about)
    except (ValueError, RecursionError):
        return None
    return (Record(content, raw), stop) if isinstance(content, dict) else None


def _next(data: "mmap.mmap", position: int) -> int:
    """Where the next intact record begins; the data's length when there is none."""
    while (position := data.find(MAGIC, position)) >= 0:
        if _record(data, position) is not None:
            return position
        position += 1
    return len(data)
