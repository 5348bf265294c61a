"""Remembered SHA-256 hashes of checked images, by path, size and modification time, so that a resumed run reads none.

One text file a folder of images, in the user's cache folder: a JSON line `[name, size, mtime_ns, sha256]` per image,
only ever appended to, later lines winning. It is no truth: a torn line is skipped, a lost file costs time only.
"""

import hashlib
import json
import os
import time
from pathlib import Path

SETTLED_NS = 2_000_000_000
"""A file changed within this time is not remembered: it could change again unnoticed (2 s: FAT's clock)."""


def cache_folder() -> Path:
    """Where remembered hashes live: `$XDG_CACHE_HOME/pairsight`, or `~/.cache/pairsight`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pairsight"


class HashCache:
    """The hashes of one folder's images that were decoded without error before."""

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(str(root).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self._file = cache_folder() / "image-hashes" / f"{name}.jsonl"
        self._known = _read(self._file)
        self._new: list[str] = []

    def get(self, name: str, status: os.stat_result) -> str | None:
        """The hash of the file when it is unchanged since it was remembered."""
        known = self._known.get(name)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            return None
        return known[2]

    def put(self, name: str, status: os.stat_result, sha256: str, *, settled: bool = False) -> None:
        """Remember a checked image; kept on disk by the next `flush`.

        Args:
            name: relative to the root.
            status: of the file, from before it was read.
            sha256: of its bytes.
            settled: nobody changes the file any more, however new it is.
        """
        if not settled and time.time_ns() - status.st_mtime_ns < SETTLED_NS:
            return
        self._known[name] = (status.st_size, status.st_mtime_ns, sha256)
        self._new.append(json.dumps([name, status.st_size, status.st_mtime_ns, sha256]) + "\n")

    def flush(self) -> None:
        """Append what is new to the file; a folder that cannot be written is no error."""
        if not self._new:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as out:
                out.write("".join(self._new))
        except OSError:
            return
        self._new = []


def _read(file: Path) -> dict[str, tuple[int, int, str]]:
    known: dict[str, tuple[int, int, str]] = {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            name, size, mtime_ns, sha256 = json.loads(line)
            known[str(name)] = (int(size), int(mtime_ns), str(sha256))
        except (ValueError, TypeError):
            continue
    return known
