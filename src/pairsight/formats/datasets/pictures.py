"""Finds and checks the images that rows name or hold, many at a time."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL.Image import Image

from pairsight.errors import DataError, one_line
from pairsight.formats.datasets.format import Picture
from pairsight.formats.image_columns import HOW, is_no_file
from pairsight.images.source import FileImages, UnpackedImages
from pairsight.records import ImageRef

_WEB = ("http://", "https://")
_LARGEST = 64 << 20
"""Bytes of an image that is fetched."""
_LONGEST_WAIT_S = 30.0


class RowImages:
    """The images of a dataset, an `ImageSource`: files in a folder, and bytes that were unpacked into the cache.

    Args:
        folder: that names are relative to.
        allow_download: whether web addresses are fetched.
    """

    def __init__(self, folder: Path, allow_download: bool = False) -> None:
        self.files, self.unpacked = FileImages(folder), UnpackedImages()
        self._allow_download = allow_download

    def refs(self, pictures: Iterable[tuple[str, Picture]]) -> Mapping[tuple[str, Picture], ImageRef | DataError]:
        """The image of each (folder below ours, picture), or why it cannot be used."""
        wanted = dict.fromkeys(pictures)
        names = {key: f"{key[0]}/{key[1].name}" if key[0] else key[1].name for key in wanted if _is_file(key[1])}
        files = self.files.refs(names.values())
        return {key: files[names[key]] if key in names else self._held(key[1]) for key in wanted}

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image; DataError when it is not here."""
        return self._source(ref).path(ref)

    def open(self, ref: ImageRef) -> Image:
        """The image as upright RGB with its image-space distortion."""
        return self._source(ref).open(ref)

    def _source(self, ref: ImageRef) -> FileImages | UnpackedImages:
        return self.files if self.files.knows(ref) else self.unpacked

    def _held(self, picture: Picture) -> ImageRef | DataError:
        name = picture.name or "in the row"
        try:
            if picture.data is not None:
                return self.unpacked.put(picture.data, name)
            if not picture.name.startswith(_WEB):
                return DataError(f"image {name[:60]!r} is not a file's name; {HOW}", "wrong_type")
            if not self._allow_download:
                message = f"image {name[:120]} is a web address: --allow-download fetches such images"
                return DataError(message, "web_image")
            return self.unpacked.put(_fetched(picture.name), name)
        except DataError as error:
            return error


def _is_file(picture: Picture) -> bool:
    return picture.data is None and not is_no_file(picture.name)


def _fetched(address: str) -> bytes:
    import httpx2

    try:
        with httpx2.stream("GET", address, timeout=_LONGEST_WAIT_S, follow_redirects=True) as answer:
            answer.raise_for_status()
            data = bytearray()
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > _LARGEST:
                    raise DataError(f"image {address[:120]} has more than {_LARGEST} bytes", "too_many_pixels")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DataError(f"image {address[:120]} cannot be fetched: {one_line(error)}", "missing_image") from None
    return bytes(data)
