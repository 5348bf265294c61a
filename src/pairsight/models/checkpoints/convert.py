"""A folder of pickled weights as one of safetensors, complete or absent; no code of it runs or is copied."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pairsight.errors import ModelError, RunError
from pairsight.models.checkpoints.files import WeightFiles, weight_files, write_weights
from pairsight.models.folders import NO_PART, read_model_json
from pairsight.models.pickled import PICKLES
from pairsight.store.durable import copy_file, make_folder, publish_folder
from pairsight.store.lock import exclusive_lock

COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "chat_templates/*.jinja")
"""What is copied beside weights: configs, tokenizer, processor and templates; never code."""
_OWN_INDEX = ".index.json"
_STEMS = ("adapter_model", "diffusion_pytorch_model")
"""How weights are called that are not `model.safetensors`: an adapter's, and those of diffusers."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A folder that was written.

    Args:
        folder: where.
        num_tensors: in its weights.
        num_bytes: of its weights.
        notes: what the user should know, a sentence each.
    """

    folder: Path
    num_tensors: int
    num_bytes: int
    notes: tuple[str, ...] = ()


def to_safetensors(source: Path, target: Path) -> Converted:
    """Convert pickled weights, file by file: of a model, an adapter, a pipeline of diffusers, or one file.

    Args:
        source: a folder, or one pickled file, whose folder's configs and tokenizer are copied.
        target: a folder that is new or empty.

    Raises:
        ModelError: weights that are missing or damaged, or a pickle that names code.
        RunError: the target is not empty, or cannot be written.
    """
    if source.is_file() and source.suffix not in PICKLES:
        raise ModelError(f"{source} is not a pickle ({', '.join(PICKLES)}); give a folder, or one such file")
    if not source.exists():
        raise ModelError(f"there is no folder or file {source}")
    folder = source if source.is_dir() else source.parent

    def write(draft: Path) -> tuple[int, int]:
        parts = _parts(folder) if source.is_dir() else []
        copy_files(folder, draft)
        if not parts:
            return _convert(weight_files(folder) if source.is_dir() else [source], draft)
        counts = [_convert(weight_files(part), draft / part.name) for part in parts if _has_weights(part)]
        if not counts:
            raise ModelError(f"no part of the pipeline {folder} has weights")
        for part in parts:
            copy_files(part, draft / part.name)
        return sum(count for count, _ in counts), sum(size for _, size in counts)

    with written_folder(target) as draft:
        count, size = write(draft)
    return Converted(target, count, size, tuple(_notes(folder)))


@contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """A draft of a folder to write into; when the block ends without an error the folder has its name.

    Raises:
        RunError: the target is not empty.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise RunError(f"{target} is not empty; choose another folder for the converted checkpoint")
    draft = target.with_name(f".{target.name}.draft")
    with exclusive_lock(target.with_name(f".{target.name}.lock"), f"converting into {target}"):
        if draft.is_dir():
            shutil.rmtree(draft)
        make_folder(draft)
        try:
            yield draft
            publish_folder(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def copy_files(source: Path, target: Path, keep: Callable[[str], bool] = lambda _: True) -> None:
    """Copy a model's configs, tokenizer, processor and templates; not weights, indices, notes of trainings or code.

    Args:
        source: the folder.
        target: where to.
        keep: whether a file of this name is copied.
    """
    for path in sorted({path for pattern in COPIED for path in source.glob(pattern) if path.is_file()}):
        name = path.relative_to(source)
        if name.name not in NO_PART and not name.name.endswith(_OWN_INDEX) and keep(name.name):
            copy_file(path, target / name)


def _convert(files: list[Path], folder: Path) -> tuple[int, int]:
    """Write the weights of some files; how many tensors and bytes."""
    stem = next((stem for stem in _STEMS if all(file.name.startswith(stem) for file in files)), "model")
    tensors = list(WeightFiles(files).planned.values())
    write_weights(folder, tensors, stem)
    return len(tensors), sum(one.num_bytes for one in tensors)


def _parts(folder: Path) -> list[Path]:
    """The parts of a pipeline of diffusers; none for a model."""
    if not (folder / "model_index.json").is_file():
        return []
    return [folder / name for name in read_model_json(folder / "model_index.json") if (folder / name).is_dir()]


def _has_weights(part: Path) -> bool:
    return any(path.suffix in (".safetensors", *PICKLES) for path in part.iterdir())


def _notes(folder: Path) -> Iterator[str]:
    code = sorted(path.name for path in folder.glob("*.py"))
    if code:
        yield f"not copied, because it is code: {', '.join(code[:3])}{' …' if len(code) > 3 else ''}"
    config = folder / "config.json"
    if config.is_file() and read_model_json(config).get("auto_map"):
        yield "its config.json names code (auto_map): it loads only with trust_remote_code and those files beside it"
