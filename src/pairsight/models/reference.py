"""What a model reference means: a local folder, or a hub name whose snapshot becomes one."""

import re
from pathlib import Path
from typing import Any

from pairsight.bounded import read_json as read_any_json
from pairsight.errors import ModelError
from pairsight.models.quiet import one_line

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SNAPSHOT_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"]


def local_folder(reference: str | Path) -> Path | None:
    """The folder that a reference names, None for a hub name.

    Raises:
        ModelError: a path that does not exist or is no folder.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    text = str(reference)
    if path.exists():
        raise ModelError(f"model {text} is a file; give the folder that holds config.json and *.safetensors")
    in_a_folder_here = path.parent != Path() and path.parent.is_dir()
    if _HUB_NAME.fullmatch(text) and not text.startswith(".") and not in_a_folder_here:
        return None
    raise ModelError(f"there is no model folder {text}; give a folder, or a hub name such as owner/name")


def resolve(reference: str | Path) -> Path:
    """The local folder of a reference; a hub name is downloaded (safetensors only) or found in the hub's cache.

    Raises:
        ModelError: no such folder, or the hub has or gives no such model.
    """
    folder = local_folder(reference)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(reference), allow_patterns=_SNAPSHOT_FILES))
    except Exception as error:  # noqa: BLE001 - the hub client raises a dozen unrelated classes
        raise ModelError(f"model {reference} is no folder here and the hub gives none: {one_line(error)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from one of a model folder's files; ModelError when it is missing or none."""
    try:
        values = read_any_json(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold a JSON object, found {type(values).__name__}")
    return values
