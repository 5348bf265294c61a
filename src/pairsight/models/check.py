"""Whether a model or adapter folder can be used, found out cheaply, before torch is imported."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from pairsight.errors import ModelError
from pairsight.models.folders import local_folder, read_model_json

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_model(model_name: str | Path, adapter: str | Path | None = None) -> None:
    """Refuse a folder that cannot be a model, without loading it; a hub name is not looked up here.

    Looked at: `config.json`, safetensors weights (complete, by their headers), processor and tokenizer files, the chat
    template, and whether an adapter is one and belongs to this base.

    Raises:
        ModelError: what is missing or wrong, and how to fix it.
    """
    folder = local_folder(model_name)
    if folder is not None:
        _check_config(folder)
        _check_weights(folder)
        _check_words(folder)
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
        raise ModelError(f"adapter {folder} has no adapter_model.safetensors (pickled weights are not loaded)")
    if read_model_json(folder / "adapter_config.json").get("megatron_config"):
        raise ModelError(f"adapter {folder} names a module to import (megatron_core), which is not done: remove it")
    read_header(weights)
    if local_folder(base) is not None:
        _check_base(folder, base)


def is_text_only(folder: Path) -> bool:
    """Whether a folder holds a model that does not see: neither its config nor its files speak of images."""
    return not _reads_images(read_model_json(folder / "config.json")) and not _has_processor(folder)


def _reads_images(config: Mapping[str, object]) -> bool:
    return any(key in config for key in ("vision_config", "vision_tower", "mm_vision_tower", "visual"))


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _PROCESSOR_FILES)


def read_header(weights: Path) -> dict[str, object]:
    """The tensors' names, types and shapes in a safetensors file, which must be complete.

    Raises:
        ModelError: the file is cut short or is not a safetensors file.
    """
    try:
        size = weights.stat().st_size
        with weights.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            header = json.loads(file.read(length)) if 0 <= length <= size - 8 else None
    except OSError as error:
        raise ModelError(f"{weights} cannot be read: {error.strerror}") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ModelError(f"{weights} is not a complete safetensors file; copy it again")
    header.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in header.values()]
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ModelError(f"{weights} is cut short: {size} bytes of {expected}; copy it again")
    return header


def _check_base(adapter: Path, base: str | Path) -> None:
    from pairsight.models.folders import fingerprint

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
    if not config.get("model_type"):
        raise ModelError(f"{folder / 'config.json'} names no model_type; give a folder that transformers saved")


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        named = sorted(set(read_model_json(index).get("weight_map", {}).values()))
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"model {folder} lacks {len(missing)} of {len(named)} weight files: {', '.join(missing[:3])}"
            )
        files = [folder / name for name in named]
    if not files:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"model {folder} has only pickled weights ({pickles[0]}), which can run code when loaded; if you trust "
                'them, convert them: python -c "from transformers import AutoModelForImageTextToText as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        raise ModelError(f"model folder {folder} has no *.safetensors weights")
    for file in files:
        read_header(file)


def _check_words(folder: Path) -> None:
    """The processor, the tokenizer and the chat template."""
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
    if not _has_template(folder):
        raise ModelError(
            f"model {folder} has no chat template: put the file chat_template.jinja of its family into the folder"
        )


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    if (folder / "additional_chat_templates").is_dir():
        return True
    named = ("tokenizer_config.json", "processor_config.json")
    return any(
        (folder / name).is_file() and bool(read_model_json(folder / name).get("chat_template")) for name in named
    )
