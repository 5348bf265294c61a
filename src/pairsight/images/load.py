"""One way to open an image: whatever the file holds becomes an upright RGB picture, or a DataError that says why not.

Choices (ours): only the first frame of an animation; transparency is laid on white, as viewers show it; 16-bit grey
is scaled to 8 bits; the format is read from the bytes, never from the file's name.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from pairsight.errors import DataError, one_line

MAX_PIXELS = 89_478_485
"""Largest picture we decode: Pillow's own threshold for a suspected decompression bomb (256 MiB as RGB)."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read. Pillow's others include PostScript, which would start an interpreter."""

_SIZED_BY_HEADER = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")
"""Formats whose pictures have the size that their header says, apart from EXIF's orientation."""

_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError,
    RuntimeError, MemoryError, struct.error,
)  # fmt: skip
"""What Pillow's decoders raise on damaged bytes (found by fuzzing and in its sources)."""


def open_image(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Decode an image into upright RGB.

    Args:
        source: a file, or its bytes.
        name: what to call the image in an error; the path when left out.

    Returns:
        The picture in mode RGB, turned as its EXIF orientation says, fully decoded.

    Raises:
        DataError: no such file, empty, not an image we read, truncated, or more than `MAX_PIXELS` pixels. Its `reason`
            is `missing_image`, `empty_image`, `not_an_image`, `broken_image` or `too_many_pixels`.
    """
    label = name or (str(source) if not isinstance(source, bytes) else "image")
    data = source if isinstance(source, bytes) else read_bytes(Path(source), label)
    if not data:
        raise DataError(f"image {label} is empty (0 bytes)", reason="empty_image")
    with _pillow_quiet():
        image = _open_header(data, label)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _bomb(label, f"{width}×{height} = {width * height} pixels")
        try:
            image.load()
            return _rgb(_upright(image))
        except _PILLOW_ERRORS as error:
            raise DataError(
                f"image {label} is truncated or damaged ({one_line(error)})", reason="broken_image"
            ) from None


def upright_size(data: bytes, name: str) -> tuple[int, int] | None:
    """Width and height of the picture that `open_image` makes of a file's bytes, if its header says them; else None."""
    with _pillow_quiet():
        image = _open_header(data, name)
        if image.format not in _SIZED_BY_HEADER or image.width * image.height > MAX_PIXELS:
            return None
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except _PILLOW_ERRORS:
            return None
        return (image.height, image.width) if turned else (image.width, image.height)


_SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}


def image_suffix(data: bytes, name: str) -> str:
    """The suffix that a file with these bytes should have, such as ".png"; DataError where they are not an image."""
    with _pillow_quiet():
        format = str(_open_header(data, name).format)
    return _SUFFIX.get(format, f".{format.lower()}")


def media_type(name: str) -> str:
    """The media type of an image's file, by its suffix, such as "image/png"."""
    suffix = name.rpartition(".")[2].lower()
    return "image/" + {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)


def read_bytes(path: Path, name: str = "") -> bytes:
    """The bytes of an image file; DataError when it is missing, a folder or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"image {name or path} does not exist", reason="missing_image") from None
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise DataError(f"image {name or path} cannot be read: {detail}", reason="missing_image") from None


@contextmanager
def _pillow_quiet() -> Iterator[None]:
    """A suspected bomb is an error, damaged metadata is ignored. Threads may leave these filters on: harmless."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


def _open_header(data: bytes, label: str) -> Image.Image:
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = next((word.strip("(") for word in str(error).split() if word.strip("(").isdigit()), "too many")
        raise _bomb(label, f"{pixels} pixels") from None
    except _PILLOW_ERRORS:
        known = ", ".join(formats)
        message = f"image {label} is damaged, or not a picture of a kind we read ({known})"
        raise DataError(message, reason="not_an_image") from None


def _bomb(label: str, pixels: str) -> DataError:
    message = f"image {label} has {pixels}, more than the {MAX_PIXELS} allowed: make it smaller"
    return DataError(message, reason="too_many_pixels")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _PILLOW_ERRORS:  # damaged EXIF says nothing about the picture
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        picture = image.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as 8: 16-bit values over 257, real values that all lie in [0, 1] times 255."""
    import numpy as np

    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        scale = 255.0 if values.min() >= 0.0 and values.max() <= 1.0 else 1.0
    else:
        values = np.asarray(image).astype(np.float64)
        scale = 1.0 / 257.0 if image.mode.startswith("I;16") or values.max() > 255 else 1.0
    return Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
