"""What a folder is that names an aligned model: a PEFT adapter of some base, or a full model."""

from pathlib import Path

from pairsight.errors import ModelError
from pairsight.models.reference import local_folder, read_json


def base_of_adapter(reference: str | Path) -> str | None:
    """The base model that an adapter's folder names, or None for anything that is no adapter's folder.

    The base is what its `adapter_config.json` calls `base_model_name_or_path`: a folder seen from the adapter's own, a
    folder seen from here, or a hub name.

    Raises:
        ModelError: the adapter names no base, or a folder that is not there.
    """
    folder = local_folder(reference)
    if folder is None or not (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
        return None
    named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
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
    return str(read_json(note).get("base_fingerprint", "")) if note.is_file() else ""
