"""The images of benchmarks: first only their names are collected, then all are checked at once, then they are found.

A benchmark's file is read twice: once with `NamedImages`, which opens nothing (and is all that scoring needs), and
once with `CheckedImages`, so that images are verified and hashed together on all cores.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.errors import DataError
from pairsight.images.files import FileImages
from pairsight.images.load import open_image
from pairsight.images.source import ImageSource
from pairsight.records import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

    from pairsight.store.blobs import BlobStore

_UNSEEN = "unseen:"


class NamedImages:
    """Takes any name or bytes for an image without looking at it; remembers the names."""

    def __init__(self) -> None:
        self.names: dict[str, ImageRef] = {}

    def ref(self, name: str, *others: str) -> ImageRef:
        """A reference that only names the image; one object for all questions about it."""
        for each in (name, *others):
            if each not in self.names:
                self.names[each] = ImageRef(_UNSEEN + each)
        return self.names[name]

    def add(self, data: bytes, name: str) -> ImageRef:
        """The reference of these bytes, which are not kept."""
        return ImageRef(_UNSEEN + name)


class CheckedImages:
    """Images that were verified beforehand, and bytes that are verified and kept as the run's blobs.

    Args:
        checked: name -> reference, or what is wrong with the image.
        blobs: where embedded images are kept; None: they are only verified.
        skip_bad: give a reference that `is_seen` refuses instead of raising.
    """

    def __init__(self, checked: Mapping[str, ImageRef | DataError], blobs: "BlobStore | None", skip_bad: bool) -> None:
        self._checked = checked
        self._blobs = blobs
        self._skip_bad = skip_bad
        self.errors: dict[str, DataError] = {}

    def ref(self, name: str, *others: str) -> ImageRef:
        """The verified image, or the first other; DataError when all are bad and bad ones are not skipped."""
        errors = []
        for each in (name, *others):
            found = self._checked[each]
            if isinstance(found, ImageRef):
                return found
            errors.append(found)
        return self._bad(name, errors[0])

    def add(self, data: bytes, name: str) -> ImageRef:
        """Verify and keep an embedded image."""
        try:
            picture = open_image(data, name)
        except DataError as error:
            return self._bad(name, error)
        picture.close()
        if self._blobs is None:
            return ImageRef(_UNSEEN + name)
        return self._blobs.add_bytes(data, _extension(data))

    def _bad(self, name: str, error: DataError) -> ImageRef:
        if not self._skip_bad:
            raise DataError(f"{error}; --on-error skip leaves such questions out", error.reason)
        self.errors[name] = error
        return ImageRef(_UNSEEN + name)


def unseen_name(ref: ImageRef) -> str | None:
    """The name of an image that is only named, because it is bad or nobody looked; None for a verified one."""
    return ref.sha256.removeprefix(_UNSEEN) if ref.sha256.startswith(_UNSEEN) else None


class EvaluationImages:
    """All images of an evaluation as one `ImageSource`: the users' folders, then the evaluation's own blobs."""

    def __init__(self, folders: Sequence[FileImages], blobs: "BlobStore") -> None:
        self._sources: tuple[ImageSource, ...] = (*folders, blobs)

    def path(self, ref: ImageRef) -> Path:
        """The file of an image."""
        return self._source(ref).path(ref)

    def open(self, ref: ImageRef) -> "Image":
        """The image as upright RGB."""
        return self._source(ref).open(ref)

    def _source(self, ref: ImageRef) -> ImageSource:
        plain = ImageRef(ref.sha256)
        for source in self._sources:
            try:
                source.path(plain)
            except DataError:
                continue
            return source
        raise DataError(f"image {ref.sha256[:12]}… is in none of the images folders", reason="missing_image")


def image_name(data: bytes) -> str:
    """A short name for an image that has none but its bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def _extension(data: bytes) -> str:
    kinds = {b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
    return next((extension for start, extension in kinds.items() if data.startswith(start)), ".jpg")
