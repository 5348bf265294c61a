"""Weight files of a folder, read one tensor at a time, and safetensors written so: neither needs a model's memory."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.errors import ModelError, one_line
from pairsight.models.checkpoints.pickles import read_pickle
from pairsight.models.folders import check_tensors, read_model_json
from pairsight.models.pickled import PICKLES
from pairsight.store.durable import write_file, write_pieces

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGEST_FILE = 5 * 10**9
"""Bytes of one written file, as transformers divides models."""

_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "trainer_state")
"""How files of trainings begin that lie beside weights and do not belong to them."""
_USUAL = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
"""Stems of a model's only weight file; others may lie beside it, e.g. the same in fewer bits."""
_PART = re.compile(r"-(\d+)-of-(\d+)\.")
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that is to be written: its header is known before its numbers are made."""

    name: str
    shape: tuple[int, ...]
    dtype: "torch.dtype"
    make: "Callable[[], Tensor]"

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.itemsize

    def renamed(self, name: str) -> "Planned":
        """The same tensor under another name."""
        return Planned(name, self.shape, self.dtype, self.make)


class WeightFiles:
    """All tensors of some weight files, pickles or safetensors, of which one file is open at a time.

    Args:
        files: their paths.

    Raises:
        ModelError: a file that cannot be read or names code, or a name that two files hold.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._opened: tuple[Path, dict[str, Tensor]] | None = None
        self.planned: dict[str, Planned] = {}
        where: dict[str, Path] = {}
        for file in self.files:
            for name, tensor in self._open(file).items():
                if name in where:
                    raise ModelError(f"{file} and {where[name].name} both hold '{one_line(name, 80)}': keep one")
                where[name] = file
                self.planned[name] = Planned(name, tuple(tensor.shape), tensor.dtype, self._reader(file, name))

    def _reader(self, file: Path, name: str) -> "Callable[[], Tensor]":
        return lambda: self._open(file)[name]

    def _open(self, file: Path) -> "dict[str, Tensor]":
        if self._opened is None or self._opened[0] != file:
            self._opened = None
            self._opened = file, read_pickle(file) if file.suffix in PICKLES else _mapped(file)
        return self._opened[1]


def _mapped(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, mapped into memory."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_tensors(file)
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights {file} cannot be read: {one_line(error)}") from None


def weight_files(folder: Path, stem: str = "") -> list[Path]:
    """A folder's weight files: those an index names, else safetensors, else pickles, without what trainings leave.

    Args:
        folder: of a model, a part of a pipeline or an adapter.
        stem: how the files' names begin; "" for all of the folder's.

    Raises:
        ModelError: an index that names files that are not there, or no weights at all.
    """
    for kind in (".safetensors", *PICKLES):
        for index in sorted(folder.glob(f"{stem}*{kind}.index.json")):
            listed = read_model_json(index).get("weight_map")
            names = sorted({str(name) for name in listed.values()}) if isinstance(listed, Mapping) else []
            if not names or any(Path(name).name != name or "\0" in name for name in names):
                raise ModelError(f"{index}: 'weight_map' must name files of this folder; copy the model again")
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise ModelError(
                    f"{folder} lacks {len(missing)} of the {len(names)} files that {index.name} names: "
                    f"{', '.join(missing[:3])}"
                )
            return [folder / name for name in names]
    for kind in (".safetensors", *PICKLES):
        paths = [path for path in sorted(folder.glob(f"{stem}*{kind}")) if path.is_file()]
        if found := [path for path in paths if not path.name.startswith(_NO_WEIGHTS)]:
            return _one_set(folder, found)
    raise ModelError(f"{folder} holds no weights ({', '.join(f'*{kind}' for kind in ('.safetensors', *PICKLES))})")


def _one_set(folder: Path, found: list[Path]) -> list[Path]:
    """The files of one model among weight files of one kind: the one with the usual name, else all of its parts."""
    if usual := [path for path in found if path.stem in _USUAL]:
        return usual[:1]
    parts = {path: part for path in found if (part := _PART.search(path.name))}
    if parts:
        expected = {int(part[2]) for part in parts.values()}
        if len(expected) != 1 or {int(part[1]) for part in parts.values()} != set(range(1, max(expected) + 1)):
            raise ModelError(f"{folder} lacks some of its weight files; it has {', '.join(p.name for p in parts)}")
        return list(parts)
    if len(found) > 1:
        raise ModelError(
            f"{folder} holds several weight files ({', '.join(path.name for path in found[:4])}) and no index that "
            "says which belong together: give the one that is meant"
        )
    return found


def write_weights(
    folder: Path, tensors: Sequence[Planned], stem: str = "model", largest: int = LARGEST_FILE
) -> list[Path]:
    """Write tensors as safetensors, in files of bounded size with an index where there are several.

    One tensor is in memory at a time. Tensors that share memory are each written in full, so that every loader finds
    every name.

    Args:
        folder: where to.
        tensors: in the order in which they are made; their names differ.
        stem: `model`, `diffusion_pytorch_model` or `adapter_model`.
        largest: bytes of a file; a larger tensor has a file of its own.

    Returns:
        The weight files.

    Raises:
        RunError: the disk is full or failed.
    """
    groups: list[list[Planned]] = [[]]
    filled = 0
    for one in tensors:
        if groups[-1] and filled + one.num_bytes > largest:
            groups.append([])
            filled = 0
        groups[-1].append(one)
        filled += one.num_bytes
    if len(groups) == 1:
        names = [f"{stem}.safetensors"]
    else:
        names = [f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
        index = {
            "metadata": {"total_size": sum(one.num_bytes for one in tensors)},
            "weight_map": {one.name: name for name, group in zip(names, groups, strict=True) for one in group},
        }
        write_file(folder / f"{stem}.safetensors.index.json", json.dumps(index, indent=2).encode())
    for name, group in zip(names, groups, strict=True):
        write_pieces(folder / name, _pieces(sorted(group, key=lambda one: -one.dtype.itemsize)))  # so each is aligned
    return [folder / name for name in names]


def _pieces(group: Sequence[Planned]) -> Iterator[bytes]:
    """The bytes of a safetensors file."""
    header: dict[str, dict[str, str | list[int]]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for one in group:
        start, end = end, end + one.num_bytes
        header[one.name] = {"dtype": _type_name(one), "shape": list(one.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for one in group:
        yield from _bytes(one)


def _bytes(one: Planned) -> Iterator[bytes]:
    import torch

    tensor = one.make()
    if tuple(tensor.shape) != one.shape or tensor.dtype != one.dtype:
        raise ModelError(f"'{one.name}' changed while it was read: {tuple(tensor.shape)}, {one.shape} before")
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, flat.numel(), _BLOCK):
        yield flat[start : start + _BLOCK].numpy().tobytes()


def _type_name(one: Planned) -> str:
    import torch

    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    }  # fmt: skip
    if one.dtype not in names:
        raise ModelError(f"'{one.name}' is of type {one.dtype}, which safetensors do not hold")
    return names[one.dtype]
