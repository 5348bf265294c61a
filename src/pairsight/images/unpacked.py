"""Images that came inside a data file, unpacked once into the user's cache folder and found by hash."""

import hashlib
from pathlib import Path
from tempfile import NamedTemporaryFile

from PIL.Image import Image

from pairsight.errors import DataError
from pairsight.images.files import cache_folder, open_ref
from pairsight.images.load import open_image
from pairsight.records import ImageRef


class UnpackedImages:
    """Content-addressed files `<folder>/ab/<sha256>`; an `ImageSource`, picklable.

    Args:
        folder: where the files go; default: `images` in the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "images"

    def put(self, data: bytes, name: str) -> ImageRef:
        """Keep an image's bytes, which are decoded once to check them; `name` is what an error calls it."""
        ref = ImageRef(hashlib.sha256(data).hexdigest())
        file = self._file(ref)
        if file.is_file():
            return ref
        open_image(data, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent, delete=False) as out:
            out.write(data)
        Path(out.name).replace(file)
        return ref

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image; DataError when it is not here."""
        file = self._file(ref)
        if not file.is_file():
            raise DataError(f"image {ref.sha256} is not in {self.folder}: read the data file again", "missing_image")
        return file

    def open(self, ref: ImageRef) -> Image:
        """The image as upright RGB with its image-space distortion."""
        return open_ref(self.path(ref), ref, ref.sha256)

    def _file(self, ref: ImageRef) -> Path:
        return self.folder / ref.sha256[:2] / ref.sha256
