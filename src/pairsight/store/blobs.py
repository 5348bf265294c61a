"""Images of a run as content-addressed files: `blobs/sha256/ab/cd/<hash>.<ext>`, verified when read."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.errors import DataError
from pairsight.records import ImageRef
from pairsight.store.durable import file_sha256, write_file

if TYPE_CHECKING:
    from PIL.Image import Image


class BlobStore:
    """The blobs of one run; an `ImageSource`. Adding is durable before it returns; the same bytes are kept once."""

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run) / "blobs" / "sha256"
        self._verified: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "_verified": set()}

    def add_bytes(self, data: bytes, extension: str) -> ImageRef:
        """Keep an image file's bytes; returns its reference.

        Args:
            data: the file's bytes, not decoded.
            extension: its suffix, e.g. ".png".
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if self._find(sha256) is None:
            write_file(self._folder_of(sha256) / f"{sha256}.{extension.lower().lstrip('.')}", data)
        return ImageRef(sha256)

    def add_file(self, path: str | Path) -> ImageRef:
        """Keep a copy of an image file; returns its reference."""
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
        from pairsight.images.distort import distort
        from pairsight.images.load import open_image

        image = open_image(self._read(ref), ref.sha256)
        if ref.distortion is None or ref.distortion.space == "normalised":
            return image
        return distort(image, ref.distortion)

    def missing(self, refs: Iterable[ImageRef]) -> list[ImageRef]:
        """Those that are not here, by hash; a resumed run asks for all its images, so each folder is listed once."""
        found = []
        for start, group in groupby(sorted(refs, key=lambda ref: ref.sha256), key=lambda ref: ref.sha256[:4]):
            names = self._listed(start)
            found += [ref for ref in group if _named(ref.sha256, names) is None]
        return found

    def files(self) -> Iterator[Path]:
        """All blobs, by hash; what a killed process left unfinished is passed over."""
        if self.folder.is_dir():
            yield from (path for path in sorted(self.folder.glob("??/??/*")) if not path.name.startswith("."))

    def _folder_of(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256[2:4]

    def _file(self, ref: ImageRef) -> Path:
        found = self._find(ref.sha256)
        if found is None:
            message = f"image {ref.sha256} is not in {self.folder}: the run's blobs are incomplete"
            raise DataError(message, reason="missing_image")
        return found

    def _read(self, ref: ImageRef) -> bytes:
        file = self._file(ref)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"image {file}: {error.strerror}", reason="missing_image") from None
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            message = f"image {file} is damaged: its bytes no longer have the hash in its name; restore the file"
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


def is_intact(blob: Path) -> bool:
    """Whether a blob's bytes have the hash in its name."""
    return file_sha256(blob) == blob.stem
