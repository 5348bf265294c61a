"""Arrays in one safetensors file that holds its own checksum, so that a changed byte is noticed without a marker.

What is read is mapped into memory: the system loads the parts that are used, and drops them when memory is short. What
does not fit into memory is written from `Column`s, which grow in nameless files.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pairsight.bounded import as_object, load_json
from pairsight.errors import one_line
from pairsight.store.durable import cannot_write, write_pieces

Tensors = dict[str, NDArray[Any]]

_TYPES = {"I64": "<i8", "F64": "<f8", "I32": "<i4", "F32": "<f4", "U8": "|u1"}
"""The types of arrays that are kept: safetensors' name -> numpy's."""
_NAMES = {numpy: name for name, numpy in _TYPES.items()}
_CHUNK = 1 << 20
_IN_MEMORY = 1 << 20
"""Bytes of a column that are held in memory before it becomes a file."""


class Column:
    """An array that grows at its end.

    Args:
        folder: where its file is, once it is too large for memory; it has no name and is gone with the process.
        dtype: numpy's name of the type, one of those that are kept.
        width: numbers of a row; 0: an array of one dimension.
    """

    def __init__(self, folder: Path, dtype: str, width: int = 0) -> None:
        self.dtype, self._width, self._folder = np.dtype(dtype), width, folder
        self._file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115 - closed with the object
        self._numbers = 0

    def __len__(self) -> int:
        return self._numbers // max(1, self._width)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its rows, and the numbers of a row."""
        return (len(self), self._width) if self._width else (len(self),)

    def append(self, values: ArrayLike) -> None:
        """Add numbers, or complete rows of them.

        Raises:
            RunError: the disk is full or failed.
        """
        data = np.ascontiguousarray(values, self.dtype)
        try:
            self._file.write(data.data if data.size else b"")
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        self._numbers += data.size

    def chunks(self) -> Iterator[bytes]:
        """All its bytes, in order."""
        self._file.seek(0)
        yield from iter(lambda: self._file.read(_CHUNK), b"")
        self._file.seek(0, 2)


@dataclass(frozen=True, slots=True)
class MadeColumn:
    """An array that is made while it is written, piece by piece.

    Args:
        dtype, shape: of all.
        chunks: makes its bytes, in order; called twice.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[bytes]]


def write_columns(path: Path, columns: Mapping[str, Column | MadeColumn], metadata: Mapping[str, str]) -> None:
    """Write columns and notes about them, replacing the file in one step; equal content gives equal bytes.

    Raises:
        RunError: the disk is full or failed.
    """
    _write(path, {name: (c.dtype, c.shape, c.chunks) for name, c in columns.items()}, metadata)


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write arrays and notes about them, as `write_columns` does.

    Raises:
        RunError: the disk is full or failed.
    """

    def all_of(array: NDArray[Any]) -> Callable[[], Iterator[bytes]]:
        return lambda: iter([array.tobytes()])

    _write(path, {name: (a.dtype, a.shape, all_of(a)) for name, a in tensors.items()}, metadata)


def read_tensors(path: Path) -> tuple[Tensors, Mapping[str, object]]:
    """The arrays of a file, read-only and mapped into memory, and its notes; the file is read once, to check it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut short, damaged or something else.
    """
    with path.open("rb") as file:
        try:
            size = path.stat().st_size
            begin, header = _read_header(file, size)
            metadata = as_object(header.pop("__metadata__"))
            entries = {name: _Entry.read(written, begin) for name, written in header.items()}
            bounds = sorted((entry.start, entry.start + entry.num_bytes) for entry in entries.values())
            if [begin, *(end for _, end in bounds)] != [*(start for start, _ in bounds), size]:
                raise ValueError("it is cut short")
            if metadata.get("sha256") != _digest({name: entry.pieces(file) for name, entry in entries.items()}):
                raise ValueError("its checksum differs")
        except (LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(one_line(error, 100)) from None
        used = any(entry.num_bytes for entry in entries.values())
        data = np.memmap(file, np.uint8, "r").view(np.ndarray) if used else np.empty(0, np.uint8)
    return {name: entry.of(data) for name, entry in entries.items()}, metadata


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where an array lies in a file, and its shape."""

    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def read(cls, written: Any, begin: int) -> Self:
        start, end = (int(offset) for offset in written["data_offsets"])
        shape = tuple(int(number) for number in written["shape"])
        entry = cls(begin + start, np.dtype(_TYPES[written["dtype"]]), shape)
        if start < 0 or min(shape, default=0) < 0 or entry.num_bytes != end - start:
            raise ValueError("an array's size differs from its shape")
        return entry

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def of(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        return data[self.start : self.start + self.num_bytes].view(self.dtype).reshape(self.shape)

    def pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        file.seek(self.start)
        left = self.num_bytes
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise ValueError("it is cut short")
            left -= len(piece)
            yield piece


def _read_header(file: IO[bytes], size: int) -> tuple[int, dict[str, Any]]:
    """Where the arrays begin, and what the file says of them."""
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError("no complete header")
    header: dict[str, Any] = load_json(file.read(length))
    return 8 + length, header


Pieces = Callable[[], Iterator[bytes]]


def _write(
    path: Path, arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], Pieces]], notes: Mapping[str, str]
) -> None:
    digest = _digest({name: pieces() for name, (_, _, pieces) in arrays.items()})
    header: dict[str, object] = {"__metadata__": {**notes, "sha256": digest}}
    order = sorted(arrays, key=lambda name: (-arrays[name][0].itemsize, name))  # so that each is aligned
    end = 0
    for name in order:
        dtype, shape, _ = arrays[name]
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype.str], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at multiples of 8 bytes
    pieces = chain([len(text).to_bytes(8, "little") + text], *(arrays[name][2]() for name in order))
    write_pieces(path, _large(pieces))


def _large(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, in pieces that are worth a system call."""
    joined = bytearray()
    for piece in pieces:
        joined += piece
        if len(joined) >= _CHUNK:
            yield bytes(joined)
            joined.clear()
    yield bytes(joined)


def _digest(arrays: Mapping[str, Iterable[bytes]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        for piece in arrays[name]:
            digest.update(piece)
    return digest.hexdigest()
