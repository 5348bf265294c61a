"""Arrays in one safetensors file that holds its own checksum, so that a changed byte is noticed without a marker."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsight.bounded import as_object, load_json
from pairsight.errors import one_line
from pairsight.store.durable import write_file

Tensors = dict[str, NDArray[Any]]


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write arrays with notes about them, replacing the file in one step; equal content gives equal bytes.

    Raises:
        RunError: the disk is full or failed.
    """
    from safetensors.numpy import save

    write_file(path, _ordered(save(tensors, metadata={**metadata, "sha256": _digest(tensors)})))


def read_tensors(path: Path) -> tuple[Tensors, Mapping[str, object]]:
    """The arrays of a file that `write_tensors` wrote, and its notes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut short, damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = path.read_bytes()
    try:
        metadata = as_object(load_json(_header(data))["__metadata__"])
        tensors: Tensors = load(data)
        digest = _digest(tensors)
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise ValueError(one_line(error, 100)) from None
    if metadata.get("sha256") != digest:
        raise ValueError("its checksum differs")
    return tensors, metadata


def _header(data: bytes) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its header's keys in order: safetensors writes metadata in no fixed order."""
    old = _header(data)
    header = json.dumps(json.loads(old), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at multiples of 8 bytes
    return len(header).to_bytes(8, "little") + header + data[8 + len(old) :]


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
