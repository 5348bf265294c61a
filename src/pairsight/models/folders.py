"""Model folders: found by a model's name (a folder or a hub name), read, checked and identified; needs no torch."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairsight.bounded import read_json, read_tensors_header
from pairsight.errors import ModelError, one_line
from pairsight.images.source import SETTLED_NS, cache_folder
from pairsight.models.pickled import PICKLES, convert_command

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
    if path.name in _OURS:  # what they hold is written again, into other folders
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ModelError(f"{path} holds half a surrogate pair, which is not a character; correct it") from None
    return values


PROMPT_SUFFIX_FILE = "inference.json"
"""Beside a model's or an adapter's weights: the line that must end every question asked of it, SteerLM's scores, and
the profile that it was trained with."""
_OURS = ("pairsight.json", PROMPT_SUFFIX_FILE)


def prompt_suffix_json(line: str) -> bytes:
    """The content of `PROMPT_SUFFIX_FILE`, to which a training adds its profile."""
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


_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def check_model(model_name: str | Path, adapter: str | Path | None = None, *, template: bool = True) -> None:
    """Refuse a folder that cannot be a model, without loading it; a hub name is not looked up here.

    Looked at: `config.json`, safetensors weights (complete, by their headers), processor and tokenizer files, the chat
    template, and whether an adapter is one and belongs to this base.

    Args:
        model_name: a folder, or a hub name.
        adapter: an adapter's folder.
        template: whether the folder must have a chat template.

    Raises:
        ModelError: what is missing or wrong, and how to fix it.
    """
    folder = local_folder(model_name)
    if folder is not None:
        _check_config(folder)
        _check_weights(folder)
        _check_words(folder)
        if template:
            check_template(folder)
    if adapter is not None:
        check_adapter(adapter, model_name)


def check_adapter(adapter: str | Path, base: str | Path) -> None:
    """Refuse a folder that is not a PEFT adapter of safetensors, or was trained on another base.

    The base is compared by fingerprint with `base_fingerprint` in the adapter's `pairsight.json` (ours have it), else
    with the folder its `base_model_name_or_path` names, if that is here; at least the model classes must agree.

    Raises:
        ModelError: what is missing or wrong.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        raise ModelError(f"there is no adapter folder {adapter}")
    if not (folder / "adapter_config.json").is_file():
        hint = (
            "it is a full model: give it as --model"
            if (folder / "config.json").is_file()
            else "it is not a PEFT adapter"
        )
        raise ModelError(f"adapter {folder} has no adapter_config.json; {hint}")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        how = f"only pickled weights; convert them: {convert_command(folder)}" if pickled else "no weights at all"
        raise ModelError(f"adapter {folder} has no adapter_model.safetensors but {how}")
    if read_model_json(folder / "adapter_config.json").get("megatron_config"):
        raise ModelError(f"adapter {folder} names a module to import (megatron_core), which is not done: remove it")
    check_tensors(weights)
    if local_folder(base) is not None:
        _check_base(folder, base)


def is_text_only(folder: Path) -> bool:
    """Whether a folder holds a model that does not see: neither its config nor its files speak of images."""
    return not _reads_images(read_model_json(folder / "config.json")) and not _has_processor(folder)


def _reads_images(config: Mapping[str, object]) -> bool:
    return any(key in config for key in ("vision_config", "vision_tower", "mm_vision_tower", "visual"))


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _PROCESSOR_FILES)


def check_tensors(weights: Path) -> None:
    """Refuse a safetensors file that is not complete, by its header.

    Raises:
        ModelError: the file is cut short or is not a safetensors file.
    """
    try:
        _, expected = read_tensors_header(weights)
        size = weights.stat().st_size
    except OSError as error:
        raise ModelError(f"{weights} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ModelError(f"{weights} is not a complete safetensors file; copy it again") from None
    if size < expected:
        raise ModelError(f"{weights} is cut short: {size} bytes of {expected}; copy it again")


def _check_base(adapter: Path, base: str | Path) -> None:
    config, note = read_model_json(adapter / "adapter_config.json"), adapter / "pairsight.json"
    named = config.get("base_model_name_or_path")
    expected = read_model_json(note).get("base_fingerprint") if note.is_file() else None
    if (
        expected is None
        and isinstance(named, str)
        and "\0" not in named
        and Path(named).joinpath("config.json").is_file()
    ):
        expected = fingerprint(named)
    wrong = expected is not None and fingerprint(base) != expected
    mapping = config.get("auto_mapping")
    wanted = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    classes = read_model_json(Path(base).expanduser() / "config.json").get("architectures") or []
    if wrong or (expected is None and wanted and classes and wanted not in classes):
        raise ModelError(
            f"adapter {adapter} was trained on another model than {base} (on {named}): give that as --model"
        )


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"model {folder} is an adapter: give it as --adapter and its base as --model")
        raise ModelError(f"model folder {folder} has no config.json; give a folder that transformers saved")
    config = read_model_json(folder / "config.json")
    if "mm_vision_tower" in config and "text_config" not in config:
        raise ModelError(
            f"model {folder} is in the layout of LLaVA's authors; convert it for transformers: "
            f"{convert_command(folder, 'transformers')}"
        )
    if not config.get("model_type"):
        raise ModelError(f"{folder / 'config.json'} names no model_type; give a folder that transformers saved")


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        listed = read_model_json(index).get("weight_map", {})
        named = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if any(Path(name).name != name or "\0" in name for name in named) or not isinstance(listed, dict):
            raise ModelError(f"{index}: 'weight_map' must name files of this folder; copy the model again")
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"model {folder} lacks {len(missing)} of {len(named)} weight files: {', '.join(missing[:3])}"
            )
        files = [folder / name for name in named]
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ModelError(
                f"model {folder} has only pickled weights ({pickles[0]}), which could run code when loaded; convert "
                f"them, which runs none of it: {convert_command(folder)}"
            )
        raise ModelError(f"model folder {folder} has no *.safetensors weights")
    for file in files:
        check_tensors(file)


def _check_words(folder: Path) -> None:
    """The processor and the tokenizer."""
    if _reads_images(read_model_json(folder / "config.json")) and not _has_processor(folder):
        raise ModelError(
            f"model {folder} has no processor ({' or '.join(_PROCESSOR_FILES)}): copy it from the model it was made "
            "from, or save it there with processor.save_pretrained"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"model {folder} has no tokenizer (tokenizer.json): copy it from the model it was made from, or save it "
            "there with tokenizer.save_pretrained"
        )


def check_template(folder: Path) -> None:
    """Refuse a folder without a chat template.

    Raises:
        ModelError: it says how one is given.
    """
    if not has_template(folder):
        raise ModelError(
            f"model {folder} has no chat template: put the file chat_template.jinja of its family into the folder, or "
            "give --chat-template NAME (vicuna_v1, llama-2, plain) or FILE"
        )


def has_template(folder: Path) -> bool:
    """Whether a folder has a chat template."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    if (folder / "additional_chat_templates").is_dir():
        return True
    named = ("tokenizer_config.json", "processor_config.json")
    return any(
        (folder / name).is_file() and bool(read_model_json(folder / name).get("chat_template")) for name in named
    )
