"""Checkpoints of a training: trained weights by the model's own names, marked when complete, verified before use.

`checkpoint-STEP/` holds what the training resumes from; `complete.json`, written last, lists its files with their
hashes. A checkpoint without it was cut short, and one that differs from it is damaged: both are skipped.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pairsight.bounded import as_object, read_json
from pairsight.errors import RunError, TrainingError, one_line
from pairsight.store.durable import damaged_file, read_marker, write_marker

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

_LOG = logging.getLogger("pairsight.training")

COMPLETE = "complete.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, slots=True)
class Best:
    """The best measurement on held-out examples so far, and how many measurements came after it."""

    margin: float | None = None
    step: int = 0
    since: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        folder: where it is.
        step: optimizer steps done.
        ended: whether the training took no step after it.
        loss_state: running numbers of coupled losses.
        held_out: the best measurement on held-out examples; None without any.
    """

    folder: Path
    step: int
    ended: bool
    loss_state: Mapping[str, float]
    held_out: Best | None


def save_weights(trained: "Mapping[str, Tensor]", path: Path) -> None:
    """Write all trained parameters under the model's own names, in the type they are trained in."""
    from safetensors.torch import save_file

    save_file(dict(trained), path)


def load_weights(model: Any, path: Path, assign: "Callable[[Parameter, Tensor], None]") -> None:
    """Restore trained parameters, each by its name.

    Args:
        model: whose.
        path: written by `save_weights`.
        assign: sets a parameter, of which a process may hold a part.

    Raises:
        TrainingError: a name, shape or type that the model does not have, or a missing parameter.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    own = _trained(model)
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError, MemoryError) as error:
        raise TrainingError(
            f"{path} holds no weights: {one_line(error)}; remove its folder to resume from an earlier one"
        ) from None
    with opened as file:
        names = set(file.keys())
        if different := sorted(names ^ own.keys()):
            raise TrainingError(
                f"{path} is of another model or of other versions of its libraries: {len(different)} of "
                f"{len(names | own.keys())} tensors are in only one of the two, first {different[0]}; use the "
                "versions that wrote it, or remove the training's folder to start over"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                kept = file.get_tensor(name)
                if kept.shape != parameter.shape or kept.dtype != parameter.dtype:
                    raise TrainingError(
                        f"{path}: {name} is {kept.dtype} {list(kept.shape)}, the model trains {parameter.dtype} "
                        f"{list(parameter.shape)}; remove the training's folder to start over"
                    )
                assign(parameter, kept)


def mark_complete(folder: Path, *, ended: bool, loss_state: Mapping[str, float], held_out: Best | None) -> None:
    """Mark a checkpoint as complete, once all of its files are on disk.

    Args:
        folder: named `checkpoint-STEP`.
        ended: whether the training takes no further step.
        loss_state: running numbers of coupled losses.
        held_out: the best measurement on held-out examples.

    Raises:
        RunError: the disk is full or failed.
    """
    best = None if held_out is None else asdict(held_out)
    values = {"schema": 2, "step": _step(folder), "ended": ended, "loss_state": dict(loss_state), "held_out": best}
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE]
    write_marker(folder / COMPLETE, values, names, checksum=True)


def newest_complete(folder: Path) -> Checkpoint | None:
    """The newest undamaged, complete checkpoint; a warning names each newer one that was skipped, and why."""
    for path in sorted(_all(folder), key=_step, reverse=True):
        try:
            return _read(path)
        except RunError as error:
            _LOG.warning("checkpoint %s is skipped: %s", path, error)
    return None


def clear(folder: Path) -> None:
    """Remove a checkpoint, if it is there, its mark first."""
    (folder / COMPLETE).unlink(missing_ok=True)
    if folder.is_dir():
        shutil.rmtree(folder)


def rotate(folder: Path, newest: int, keep: int) -> None:
    """Remove all checkpoints but the last `keep` complete ones; call it when the newest is marked.

    Args:
        folder: of all checkpoints.
        newest: the step of the one just marked; any later one was skipped when the training resumed.
        keep: how many to keep.
    """
    marked = [path for path in _all(folder) if _step(path) <= newest and (path / COMPLETE).is_file()]
    kept = sorted(marked, key=_step)[-keep:]
    for path in _all(folder):
        if path not in kept:
            clear(path)


def _read(path: Path) -> Checkpoint:
    if not (path / COMPLETE).exists():
        raise RunError(f"it was cut short, {COMPLETE} is missing")
    content = read_marker(path / COMPLETE, checksum=True)
    if damage := damaged_file(path, content["files"]):
        raise RunError(f"it is damaged: {damage}")
    try:
        mark = _MARK.validate_python(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RunError(f"{COMPLETE} was not written by Pairsight ({one_line(where)})") from None
    if mark.step != _step(path):
        raise RunError(f"it is of step {mark.step}")
    if not mark.ended and not _is_trainer_state(path / "trainer_state.json", mark.step):
        raise RunError("trainer_state.json is not of this step of a training")
    return Checkpoint(path, mark.step, mark.ended, mark.loss_state, mark.held_out)


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a checkpoint's mark says, besides its files."""

    step: int
    ended: bool
    loss_state: Mapping[str, float]
    held_out: Best | None


_MARK = TypeAdapter(_Mark)


def _is_trainer_state(file: Path, step: int) -> bool:
    """Whether a file holds the Trainer's state after a step, each number a number."""
    from transformers import TrainerState

    try:
        state = as_object(read_json(file))
    except (OSError, ValueError, TypeError):
        return False
    numbers = [field.name for field in fields(TrainerState) if isinstance(field.default, int | float)]
    return (
        state.keys() <= {field.name for field in fields(TrainerState)}
        and state.get("global_step") == step
        and all(isinstance(state.get(name, 0), int | float) for name in numbers)
        and isinstance(state.get("log_history"), list)
    )


def _all(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.is_dir() and _step(path) >= 0]


def _step(path: Path) -> int:
    number = path.name.partition("-")[2]
    return int(number) if number.isdecimal() else -1


def _trained(model: Any) -> "dict[str, Parameter]":
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
