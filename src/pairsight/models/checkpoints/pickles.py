"""The only module that reads pickled weights: a restricted unpickler that makes tensors and runs nothing else."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import ModelError, one_line

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
"""Under which keys trainings keep the weights beside other things."""

_LFS = b"version https://git-lfs"
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


def read_pickle(path: Path) -> "dict[str, Tensor]":
    """The tensors of a pickled state dict by name, mapped into memory where the file's form allows it.

    Args:
        path: written by `torch.save`: a mapping of tensors, alone or under one of `WRAPPERS`.

    Raises:
        ModelError: a pickle that names code (nothing of it runs), a damaged file, or one that holds something else.
    """
    import torch

    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ModelError(f"{path} is a pointer of Git LFS and no weights: fetch the file itself (git lfs pull)")
    try:
        with warnings.catch_warnings(action="ignore"):
            try:
                content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                content = torch.load(path, map_location="cpu", weights_only=True)  # the form before torch 1.6
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - hostile and damaged pickles fail in as many ways as there are opcodes
        raise ModelError(_why(path, error)) from None
    return _tensors(path, content)


def _why(path: Path, error: Exception) -> str:
    message = str(error)
    if found := _REFUSED.search(message):
        return (
            f"{path} is a pickle that names code ({one_line(found[1], 80)}), not only tensors: it is refused, and "
            "nothing of it ran; weights need no code, so get them from a source you trust"
        )
    if "TorchScript" in message:
        return f"{path} is a TorchScript archive, which is a program: it is refused; get the weights as a state dict"
    reason = one_line(message.replace("\n", " ").split("WeightsUnpickler error:")[-1], 120)
    return f"{path} is damaged, or no checkpoint: it cannot be read as weights, and nothing of it ran ({reason})"


def _tensors(path: Path, content: Any) -> "dict[str, Tensor]":
    """The mapping of names to tensors in what a pickle held."""
    import torch

    def is_state(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(one, torch.Tensor) for one in value.values())

    state = content
    if isinstance(content, Mapping) and not is_state(content):
        state = next((content[key] for key in WRAPPERS if is_state(content.get(key))), None)
    if not is_state(state):
        kind = type(content).__name__
        held = f" with {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else ""
        raise ModelError(f"{path} holds a {one_line(kind + held, 120)} and no weights by name")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            raise ModelError(
                f"{path}: '{one_line(name, 80)}' is a {type(value).__name__}, not a tensor, and would be lost in "
                "safetensors; remove it from the checkpoint"
            )
        if value.layout != torch.strided or value.is_quantized:
            raise ModelError(f"{path}: '{one_line(name, 80)}' is a sparse or quantised tensor; save it densely")
    return dict(state)
