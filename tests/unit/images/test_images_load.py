import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pairsight.errors import DataError
from pairsight.images.load import MAX_PIXELS, open_image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(width: int = 8, height: int = 6) -> Image.Image:
    values = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(values)


def test_plain_png_is_unchanged():
    image = open_image(encoded(gradient(), "PNG"))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(gradient()))


def test_name_says_nothing_the_bytes_do(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(encoded(gradient(), "PNG"))
    assert open_image(file).size == (8, 6)


def test_exif_orientation_turns_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to view
    image = open_image(encoded(gradient(8, 6), "PNG", exif=exif))
    assert image.size == (6, 8)
    assert image.getpixel((5, 0)) == gradient(8, 6).getpixel((0, 0))


def test_cmyk_becomes_rgb():
    image = open_image(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100))
    red, green, blue = image.getpixel((1, 1))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_sixteen_bit_grey_becomes_eight_bit():
    values = np.array([[0, 0x1234, 0xFFFF]], dtype=np.uint16)
    image = open_image(encoded(Image.fromarray(values), "PNG"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (0x12,) * 3, (0xFF,) * 3]


def test_real_valued_grey_in_zero_to_one():
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    image = open_image(encoded(Image.fromarray(values), "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(
    ("mode", "clear", "solid"),
    [("RGBA", (9, 9, 9, 0), (10, 20, 30, 255)), ("LA", (9, 0), (10, 255))],
)
def test_transparency_lies_on_white(mode, clear, solid):
    picture = Image.new(mode, (2, 1))
    picture.putpixel((0, 0), clear)
    picture.putpixel((1, 0), solid)
    image = open_image(encoded(picture, "PNG"))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == ((10, 20, 30) if mode == "RGBA" else (10, 10, 10))


def test_palette_with_a_transparent_colour():
    picture = Image.new("P", (2, 1))
    picture.putpalette([1, 2, 3, 4, 5, 6])
    picture.putpixel((1, 0), 1)
    image = open_image(encoded(picture, "PNG", transparency=0))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == (4, 5, 6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    options = {"save_all": True, "append_images": frames[1:], "duration": 40}
    image = open_image(encoded(frames[0], kind, **options))
    assert image.mode == "RGB"
    assert image.getpixel((1, 1))[0] > 200


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_one_pixel(mode):
    assert open_image(encoded(Image.new(mode, (1, 1)), "PNG")).size == (1, 1)


def test_empty_missing_and_foreign(tmp_path):
    for data, reason in ((b"", "empty_image"), (b"not a picture", "not_an_image"), (b"%!PS-Adobe-3.0", "not_an_image")):
        with pytest.raises(DataError) as caught:
            open_image(data, "x.png")
        assert caught.value.reason == reason
        assert "x.png" in str(caught.value)
    with pytest.raises(DataError, match=r"gone\.png does not exist") as caught:
        open_image(tmp_path / "gone.png")
    assert caught.value.reason == "missing_image"
    with pytest.raises(DataError, match="directory"):
        open_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_anywhere_is_one_clear_line(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(DataError) as caught:
            open_image(data[: int(len(data) * share)], "cut")
        assert caught.value.reason in ("broken_image", "not_an_image")
        assert "\n" not in str(caught.value)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not hold."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_460, 12_000, 50_000])
def test_decompression_bomb_names_the_pixels_and_the_limit(side, recwarn):
    with pytest.raises(DataError) as caught:
        open_image(bomb(side, side), "bomb.png")
    assert caught.value.reason == "too_many_pixels"
    assert str(side * side) in str(caught.value)
    assert str(MAX_PIXELS) in str(caught.value)
    assert not recwarn.list


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_data_error(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"]))
    raw = bytearray(encoded(gradient(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        offset = data.draw(st.integers(0, len(raw) - 1))
        raw[offset] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 8))
    try:
        image = open_image(bytes(raw[: len(raw) - cut]), "fuzz")
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode == "RGB"
