"""Markers: a JSON file that says "complete" of its folder, and lists the files in it with their checksums.

A marker is written after everything that it names is on disk. It names each file with its size and SHA-256, so that a
file that was cut short or changed later is recognised instead of used.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pairsight.errors import RunError
from pairsight.store.durable import cannot_write, file_sha256, sync_file, sync_folder, write_file


def write_marker(marker: Path, values: Mapping[str, Any], names: Iterable[str], *, checksum: bool = False) -> None:
    """Bring files to disk, then write the marker that lists them.

    Args:
        marker: the file to write; its folder holds the files.
        values: what else it says.
        names: the files, relative to the marker's folder.
        checksum: also keep the marker's own checksum, for one that nobody edits by hand.

    Raises:
        RunError: the disk is full or failed.
    """
    folder, listed = marker.parent, sorted(names)
    try:
        for name in listed:
            sync_file(folder / name)
        for parent in sorted({folder.parent, folder, *((folder / name).parent for name in listed)}):
            sync_folder(parent)
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in listed
        }
    except OSError as error:
        raise cannot_write(folder, error) from None
    content: dict[str, Any] = {**values, "files": files}
    if checksum:
        content["sha256"] = _checksum(content)
    write_file(marker, json.dumps(content, indent=2, ensure_ascii=False).encode())


def read_marker(marker: Path, *, checksum: bool = False) -> dict[str, Any]:
    """What a marker says; its files are not looked at. One of an earlier version has no `files`.

    Args:
        checksum: the marker must have its own checksum.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        content = json.loads(marker.read_bytes())
    except OSError as error:
        raise RunError(f"{marker.name} cannot be read: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not _is_listing(content.get("files", {})):
        raise RunError(f"{marker.name} is damaged: it is not what was written")
    if checksum and content.pop("sha256", None) != _checksum(content):
        earlier = "lists no files: an earlier version of Pairsight wrote it"
        raise RunError(f"{marker.name} {'is damaged: its checksum differs' if 'files' in content else earlier}")
    return content


def damaged_file(folder: Path, files: Mapping[str, Any]) -> str:
    """The first listed file that is not as its marker says, and why; "" when all are.

    Args:
        folder: the marker's.
        files: name -> {"bytes", "sha256"}, as in the marker.
    """
    for name, listed in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != listed["bytes"]:
            return f"{name} has {size} bytes instead of {listed['bytes']}"
    return next(
        (f"{name} was changed" for name, listed in files.items() if file_sha256(folder / name) != listed["sha256"]), ""
    )


def _is_listing(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(listed, dict)
        and isinstance(listed.get("bytes"), int)
        and isinstance(listed.get("sha256"), str)
        and ".." not in Path(name).parts
        and not Path(name).is_absolute()
        for name, listed in files.items()
    )


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
