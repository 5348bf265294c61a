"""Images of a run as content-addressed files: `blobs/sha256/ab/cd/<hash>.<ext>`, verified when read."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.errors import DataError
from pairsight.images.source import HashCache, as_seen
from pairsight.records import ImageRef
from pairsight.store.durable import file_sha256, write_file

if TYPE_CHECKING:
    from PIL.Image import Image

_RESTORE = "the same build or evaluate command with --images restores it (a generated image is made again)"


class BlobStore:
    """The blobs of one run; an `ImageSource`. Adding is durable before it returns; the same bytes are kept once.

    A blob that is damaged is replaced when its bytes are added again.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run) / "blobs" / "sha256"
        self._verified: set[str] = set()
        self._hashes: HashCache | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "_verified": set(), "_hashes": None}

    def add_bytes(self, data: bytes, extension: str) -> ImageRef:
        """Keep an image file's bytes; returns its `ImageRef`.

        Args:
            data: the file's bytes, not decoded.
            extension: its suffix, e.g. ".png".
        """
        sha256 = hashlib.sha256(data).hexdigest()
        found = self._find(sha256)
        name = f"{sha256}.{extension.lower().lstrip('.')}" if found is None else found.name
        if found is None or not _holds(found, data):
            write_file(self._folder_of(sha256) / name, data)
        return ImageRef(sha256)

    def add_file(self, path: str | Path) -> ImageRef:
        """Keep a copy of an image file; returns its `ImageRef`."""
        file = Path(path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"image {file}: {error.strerror}", reason="missing_image") from None
        return self.add_bytes(data, file.suffix or ".bin")

    def path(self, ref: ImageRef) -> Path:
        """The file of an image, its bytes verified once by this object.

        Raises:
            DataError: the image is not here, or its bytes are not those that were kept.
        """
        found = self._file(ref)
        if ref.sha256 not in self._verified:
            self._read(ref)
            self._verified.add(ref.sha256)
        return found

    def open(self, ref: ImageRef) -> "Image":
        """The image as RGB, upright, with `ref`'s image-space distortion applied (normalised ones are not)."""
        return as_seen(self._read(ref), ref, ref.sha256)

    def lost(self, refs: Iterable[ImageRef]) -> list[ImageRef]:
        """Those that are not here, or not with the bytes that they were kept with, by hash.

        A resumed run asks for all its images, so each folder is listed once, and a file is read only if it has changed
        since it was last found intact.
        """
        found = []
        for start, group in groupby(sorted(refs, key=lambda ref: ref.sha256), key=lambda ref: ref.sha256[:4]):
            names = self._listed(start)
            for ref in group:
                name = _named(ref.sha256, names)
                if name is None or not self.is_intact(self._folder_of(ref.sha256) / name, unread=True):
                    found.append(ref)
        self.flush()
        return found

    def is_intact(self, blob: Path, *, unread: bool = False) -> bool:
        """Whether a blob's bytes have the hash in its name.

        Args:
            blob: the file.
            unread: believe what is remembered of a file that has not changed since.
        """
        self._hashes = self._hashes or HashCache(self.folder.resolve())
        try:
            status = blob.stat()
            known = self._hashes.get(blob.name, status) if unread else None
            if known is None:
                known = file_sha256(blob)
                self._hashes.put(blob.name, status, known)
        except OSError:
            return False
        return known == blob.stem

    def remember(self, refs: Iterable[ImageRef]) -> None:
        """Remember images that were just added, so that `lost` need not read them."""
        self._hashes = self._hashes or HashCache(self.folder.resolve())
        for ref in refs:
            if (file := self._find(ref.sha256)) is not None:
                self._hashes.put(file.name, file.stat(), ref.sha256, settled=True)
        self.flush()

    def flush(self) -> None:
        """Save what was verified to the user's cache of hashes."""
        if self._hashes is not None:
            self._hashes.flush()

    def files(self) -> Iterator[Path]:
        """All blobs, by hash; what a killed process left unfinished is skipped."""
        if self.folder.is_dir():
            yield from (path for path in sorted(self.folder.glob("??/??/*")) if not path.name.startswith("."))

    def _folder_of(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256[2:4]

    def _file(self, ref: ImageRef) -> Path:
        found = self._find(ref.sha256)
        if found is None:
            message = f"image {ref.sha256} is not in {self.folder}: {_RESTORE}"
            raise DataError(message, reason="missing_image")
        return found

    def _read(self, ref: ImageRef) -> bytes:
        file = self._file(ref)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"image {file}: {error.strerror}", reason="missing_image") from None
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            self.is_intact(file)  # so that it is remembered as damaged
            self.flush()
            message = f"image {file} is damaged, its bytes no longer have the hash in its name: {_RESTORE}"
            raise DataError(message, reason="changed_image")
        return data

    def _find(self, sha256: str) -> Path | None:
        name = _named(sha256, self._listed(sha256))
        return None if name is None else self._folder_of(sha256) / name

    def _listed(self, start: str) -> list[str]:
        """The names in the folder of hashes that start so, read without a `Path`."""
        try:
            return os.listdir(f"{self.folder}/{start[:2]}/{start[2:4]}")  # noqa: PTH208
        except OSError:
            return []


def _named(sha256: str, names: Sequence[str]) -> str | None:
    return next((name for name in names if name.startswith(f"{sha256}.")), None)


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.stat().st_size == len(data) and file.read_bytes() == data
    except OSError:
        return False
