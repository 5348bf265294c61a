"""What identifies a model: a hash of the contents of its files, so that a moved or renamed folder stays the same."""

import hashlib
import json
import os
import time
from pathlib import Path

from pairsight.images.hashes import SETTLED_NS, cache_folder
from pairsight.models.reference import resolve

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


def fingerprint(reference: str | Path, adapter: str | Path | None = None) -> str:
    """`sha256:…` of a model's weights, configs, tokenizer, processor and chat template, and of an adapter's.

    Not part of it: the folder's name and place, its README, and notes of our own. Hashes of files are kept in the
    user's cache by path, size and time of change, so that large weights are read once.

    Raises:
        ModelError: no such model.
    """
    contents = {"model": _contents(resolve(reference))}
    if adapter is not None:
        contents["adapter"] = _contents(resolve(adapter))
    canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _contents(folder: Path) -> dict[str, str]:
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): _file_hash(path) for path in files if path.name not in NO_PART}


def _file_hash(path: Path) -> str:
    status = path.stat()
    place = str(path.resolve())
    state = [place, status.st_size, status.st_mtime_ns]
    name = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
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
