"""How the images of a dataset that is written are kept: inside the rows, or as files beside them, named by content."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Picture
from pairsight.images.load import image_suffix, read_bytes
from pairsight.images.source import ImageSource
from pairsight.records import ImageRef

ImagesAs = Literal["embed", "link", "copy"]
FOLDER = "images"
"""The folder of the images, beside the rows."""


class PlacedImages:
    """Gives each image the form that rows have it in.

    `embed` puts the file's bytes into the row. `copy` writes the file as `images/ab/SHA256.png`, once, and `link` makes
    that a hard link to the source's file, which takes no space. Rows name files relative to their own folder.

    Args:
        source: where the images are.
        how: embed, link or copy.
        folder: of the rows.
    """

    def __init__(self, source: ImageSource, how: ImagesAs, folder: Path) -> None:
        self._source, self._how, self._folder = source, how, folder
        self._names: dict[str, str] = {}

    @property
    def num_files(self) -> int:
        """How many files were written or linked."""
        return 0 if self._how == "embed" else len(self._names)

    def picture(self, ref: ImageRef) -> Picture:
        """An image as rows have it.

        Raises:
            DataError: it is missing, has changed, or cannot be linked.
        """
        known = self._names.get(ref.sha256)
        if known is not None and self._how != "embed":
            return Picture(known)
        path = self._source.path(ref)
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise DataError(f"image {path} has changed since it was first read", "changed_image")
        name = known or name_of(ref, data)
        self._names[ref.sha256] = name
        if self._how == "embed":
            return Picture(name.rpartition("/")[2], data)
        self._put(self._folder / name, path, data)
        return Picture(name)

    def _put(self, file: Path, source: Path, data: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if self._how == "copy":
            file.write_bytes(data)
            return
        try:
            os.link(source.resolve(), file)
        except OSError as error:
            raise DataError(
                f"image {source} cannot be linked to {file.parent}: {error.strerror}; a link needs one file system "
                "that has hard links: use --images-as copy",
                "link",
            ) from None


class NamedImages:
    """Gives each image its name alone: what a first look at the rows needs, before any file is opened."""

    def __init__(self, how: ImagesAs) -> None:
        self._embeds = how == "embed"

    def picture(self, ref: ImageRef) -> Picture:
        """A stand-in for an image, different for each."""
        return Picture(f"{FOLDER}/{ref.sha256}.png", ref.sha256.encode() if self._embeds else None)


def name_of(ref: ImageRef, data: bytes) -> str:
    """The name of an image's file: by its content, with the suffix of its format."""
    return f"{FOLDER}/{ref.sha256[:2]}/{ref.sha256}{image_suffix(data, ref.sha256)}"
