"""Model folders: found by a model's name (a folder or a hub name), read, and identified by their content."""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.bounded import read_json
from pairsight.errors import ModelError, one_line
from pairsight.images.source import SETTLED_NS, cache_folder

if TYPE_CHECKING:
    import torch


_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SNAPSHOT_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"]


def local_folder(model_name: str | Path) -> Path | None:
    """The folder that a model's name is, None for a hub name.

    Raises:
        ModelError: a path that does not exist or is not a folder.
    """
    path = Path(model_name).expanduser()
    if path.is_dir():
        return path
    text = str(model_name)
    if path.exists():
        raise ModelError(f"model {text} is a file; give the folder that holds config.json and *.safetensors")
    in_a_folder_here = path.parent != Path() and path.parent.is_dir()
    if _HUB_NAME.fullmatch(text) and not text.startswith(".") and not in_a_folder_here:
        return None
    raise ModelError(f"there is no model folder {text}; give a folder, or a hub name such as owner/name")


def resolve(model_name: str | Path) -> Path:
    """The local folder of a model; a hub name is downloaded (safetensors only) or found in the hub's cache.

    Raises:
        ModelError: no such folder, or the hub has or gives no such model.
    """
    folder = local_folder(model_name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model_name), allow_patterns=_SNAPSHOT_FILES))
    except Exception as error:  # noqa: BLE001 - the hub client raises a dozen unrelated classes
        raise ModelError(f"model {model_name} is not a folder here and the hub gives none: {one_line(error)}") from None


def read_model_json(path: Path) -> dict[str, Any]:
    """A JSON object from one of a model folder's files; ModelError when it is missing or not one."""
    try:
        values = read_json(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold a JSON object, found {type(values).__name__}")
    return values


PROMPT_SUFFIX_FILE = "inference.json"
"""Beside a model's or an adapter's weights: the line that must end every question asked of it, SteerLM's scores."""


def prompt_suffix_json(line: str) -> bytes:
    """The content of `PROMPT_SUFFIX_FILE`."""
    return json.dumps({"prompt_suffix": line}, ensure_ascii=False).encode()


def read_prompt_suffix(model_name: str | Path) -> str:
    """The line that a folder asks for; "" where there is none, as with a hub name.

    Raises:
        ModelError: `inference.json` is damaged.
    """
    folder = local_folder(model_name)
    if folder is None or not (folder / PROMPT_SUFFIX_FILE).is_file():
        return ""
    line = read_model_json(folder / PROMPT_SUFFIX_FILE).get("prompt_suffix", "")
    if not isinstance(line, str):
        raise ModelError(f"{folder / PROMPT_SUFFIX_FILE}: 'prompt_suffix' must be text, found {type(line).__name__}")
    return line


def base_of_adapter(model_name: str | Path) -> str | None:
    """The base model that an adapter's folder names, or None for anything that is not an adapter's folder.

    The base is what its `adapter_config.json` calls `base_model_name_or_path`: a folder seen from the adapter's own, a
    folder seen from here, or a hub name.

    Raises:
        ModelError: the adapter names no base, or a folder that is not there.
    """
    folder = local_folder(model_name)
    if folder is None or not (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
        return None
    named = read_model_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ModelError(f"adapter {folder} names no base model: write base_model_name_or_path to adapter_config.json")
    beside = folder / named
    if (beside / "config.json").is_file():
        return str(beside.resolve())
    try:
        local_folder(named)
    except ModelError:
        raise ModelError(
            f"adapter {folder} was trained on {named}, which is not here: put that model there, or write where it is "
            "as base_model_name_or_path to adapter_config.json"
        ) from None
    return named


def is_full_model(folder: str | Path) -> bool:
    """Whether a folder holds a model of its own, as full fine-tuning leaves, and no adapter."""
    path = Path(folder).expanduser()
    return (path / "config.json").is_file() and not (path / "adapter_config.json").is_file()


def trained_from(folder: str | Path) -> str:
    """The fingerprint of the base that a full model was trained from, as our trainings note it; "" where unknown."""
    note = Path(folder).expanduser() / "pairsight.json"
    return str(read_model_json(note).get("base_fingerprint", "")) if note.is_file() else ""


_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "chat_templates/*.jinja")
NO_PART = {
    "pairsight.json",
    "training.json",
    "results.json",
    "trainer_state.json",
    "versions.json",
    "all_results.json",
}
"""Notes of our own and of trainings: they do not identify a model, and are not copied with one."""
_CHUNK = 1 << 22


def fingerprint(model_name: str | Path, adapter: str | Path | None = None) -> str:
    """`sha256:…` of a model's weights, configs, tokenizer, processor and chat template, and of an adapter's.

    Not part of it: the folder's name and location, its README, and notes of our own. Hashes of files are kept in the
    user's cache by path, size and time of change, so that large weights are read once.

    Raises:
        ModelError: no such model.
    """
    contents = {"model": _contents(resolve(model_name))}
    if adapter is not None:
        contents["adapter"] = _contents(resolve(adapter))
    canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _contents(folder: Path) -> dict[str, str]:
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): _file_hash(path) for path in files if path.name not in NO_PART}


def _file_hash(path: Path) -> str:
    status = path.stat()
    location = str(path.resolve())
    state = [location, status.st_size, status.st_mtime_ns]
    name = hashlib.sha256(location.encode("utf-8", "surrogateescape")).hexdigest()
    note = cache_folder() / "model-hashes" / f"{name}.json"
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return str(kept["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    # A file changed again within the clock's tick would keep its time, so only settled files are remembered.
    if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
        _keep(note, {"state": state, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _keep(note: Path, values: dict[str, object]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(values), encoding="utf-8")
        draft.replace(note)
    except OSError:
        pass  # without a cache the next run hashes again


PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
"""Suffixes of weights that are pickles."""


def convert_command(pickle: str | Path, name: str = "model.safetensors") -> str:
    """The shell command that writes safetensors called `name` beside a pickled state dict, running none of its code."""
    file = Path(pickle)
    target = file.parent / name
    code = (
        "from torch import load; from safetensors.torch import save_file; "
        f"state = load('{file}', map_location='cpu', weights_only=True); "
        f"save_file({{k: v.clone() for k, v in state.items()}}, '{target}', {{'format': 'pt'}})"
    )
    return f'python -c "{code}"'


def weights_folder(model_name: str | Path, published_as: str = "pytorch_model.bin") -> Path:
    """The local folder of a model, made sure to hold safetensors.

    Args:
        model_name: a folder, or a hub name.
        published_as: the pickle's usual name, for the message when there is nothing else.

    Raises:
        ModelError: no such model, or none of its weights are safetensors; the message has the conversion command.
    """
    path = Path(model_name).expanduser()
    if path.is_file() and path.suffix in PICKLES:
        raise ModelError(f"{path} is a pickle, which can run code and is not read; convert it: {convert_command(path)}")
    folder = resolve(model_name)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
        found = f"only the pickle {pickles[0].name}, which can run code and is not read" if pickles else "no weights"
        command = convert_command(pickles[0] if pickles else folder / published_as)
        raise ModelError(f"model {model_name} holds no *.safetensors but {found}; convert a pickle by: {command}")
    return folder


def read_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """All tensors of a folder's safetensors files, by name.

    Raises:
        ModelError: a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            state.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"weights {file} cannot be read: {one_line(error)}") from None
    return state
