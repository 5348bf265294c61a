"""Images whose sources lie in folders of their own: `ocr_vqa/123.jpg` in one, `textvqa/4.jpg` in another."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL.Image import Image

from pairsight.errors import DataError
from pairsight.images.source import FileImages
from pairsight.records import ImageRef


class ImagesBySource:
    """A folder a source: the name `SOURCE/REST` is the file `REST` in that source's folder; an `ImageSource`.

    Args:
        folders: source -> folder; the source "" has the names of no other one, complete.

    Raises:
        DataError: one of the folders is not there.
    """

    def __init__(self, folders: Mapping[str, str | Path]) -> None:
        self._folders = {source.strip("/"): FileImages(folder) for source, folder in folders.items()}
        self._of: dict[str, str] = {}

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that have a folder."""
        return tuple(source for source in self._folders if source)

    def refs(self, names: Iterable[str]) -> dict[str, ImageRef | DataError]:
        """Each name's image, checked and hashed, or why it cannot be used; see `FileImages.refs`."""
        found: dict[str, ImageRef | DataError] = dict.fromkeys(names, DataError(""))
        by_source: dict[str, dict[str, str]] = defaultdict(dict)
        for name in found:
            source = self._source_of(name)
            if source is None:
                known = ", ".join(self.sources)
                message = (
                    f"image {name} is of no source that --images has a folder for ({known}); give --images DIR too"
                )
                found[name] = DataError(message, reason="missing_image")
            else:
                by_source[source][name] = name[len(source) + 1 :] if source else name
        for source, inner in by_source.items():
            refs = self._folders[source].refs(inner.values())
            for name, rest in inner.items():
                ref = found[name] = refs[rest]
                if isinstance(ref, ImageRef):
                    self._of.setdefault(ref.sha256, source)
        return found

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image."""
        return self._images_of(ref).path(ref)

    def open(self, ref: ImageRef) -> Image:
        """The image as upright RGB with its image-space distortion."""
        return self._images_of(ref).open(ref)

    def _source_of(self, name: str) -> str | None:
        """The longest source that a name begins with, as folders; "" where that has a folder, None for no folder."""
        fitting = [source for source in self._folders if not source or name.startswith(f"{source}/")]
        return max(fitting, key=len) if fitting else None

    def _images_of(self, ref: ImageRef) -> FileImages:
        if ref.sha256 not in self._of:
            raise DataError(f"image {ref.sha256[:12]}… is not among those read", reason="missing_image")
        return self._folders[self._of[ref.sha256]]
