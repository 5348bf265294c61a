"""Benchmark images among the training images: the same file, or a picture that looks the same."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pairsight.errors import DataError
from pairsight.images.source import FileImages
from pairsight.inspection.describe import contamination_in_words
from pairsight.inspection.duplicates import NEAR, distances, find_contamination, perceptual_hash, stacked


def photograph(seed, size=(200, 150)):
    """A picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size)
    for cells in (3, 7, 15):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
        picture = Image.blend(picture, layer, 0.5)
    return picture


def jpeg(picture, quality=60):
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue()))


def distance(one, other):
    return int(distances(stacked([perceptual_hash(one)]), stacked([perceptual_hash(other)]))[0, 0])


@pytest.mark.parametrize(
    "copy",
    [
        jpeg,
        lambda p: p.resize((100, 75)),
        lambda p: p.resize((400, 300), Image.BICUBIC),
        lambda p: p.resize((336, 336), Image.BICUBIC),
        lambda p: ImageEnhance.Contrast(p).enhance(0.8),
        lambda p: ImageEnhance.Color(p).enhance(0.6),
        lambda p: p.convert("L").convert("RGB"),
    ],
)
def test_a_copy_keeps_its_hash(copy):
    assert max(distance(photograph(seed), copy(photograph(seed))) for seed in range(8)) <= NEAR


def test_different_pictures_differ_in_many_bits():
    hashes = stacked([perceptual_hash(photograph(seed)) for seed in range(40)])
    apart = distances(hashes, hashes) + 256 * np.eye(40, dtype=np.int64)
    assert apart.min() > 2 * NEAR
    assert (np.diag(distances(hashes, hashes)) == 0).all()


def test_a_flat_picture_has_no_hash_and_a_pixel_is_flat():
    assert perceptual_hash(Image.new("RGB", (50, 50), "red")) is None
    assert perceptual_hash(Image.new("RGB", (1, 1))) is None


def test_no_hashes_have_no_distances():
    assert distances(stacked([]), stacked([perceptual_hash(photograph(0))])).shape == (0, 1)


@pytest.fixture
def folders(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs" / "val"
    ours.mkdir()
    theirs.mkdir(parents=True)
    for seed in range(6):
        photograph(seed).save(ours / f"{seed}.png")
    photograph(0).save(theirs / "same.png")
    jpeg(photograph(1)).save(theirs / "copy.jpg")
    photograph(100).save(theirs / "other.png")
    (theirs / "broken.png").write_bytes(b"no picture")
    return ours, theirs.parent


def test_same_files_and_near_copies_are_found_and_named(folders):
    ours, theirs = folders
    images = FileImages(ours)
    refs = [images.ref(f"{seed}.png") for seed in range(6)]
    found = find_contamination([*refs, refs[0]], images, theirs)
    assert (found.num_images, found.num_benchmark_images, found.num_unreadable) == (6, 4, 1)
    assert [(match.sha256, match.benchmark_image) for match in found.same] == [(refs[0].sha256, "val/same.png")]
    assert [(match.sha256, match.benchmark_image) for match in found.near] == [(refs[1].sha256, "val/copy.jpg")]
    warning, unreadable = contamination_in_words(found)
    assert warning.startswith("warning: 2 of 6 images are in")
    assert "1 the same file, 1 near copies; val/same.png, val/copy.jpg" in warning
    assert unreadable.startswith("1 images could not be read")


def test_a_clean_dataset_is_called_clean(folders):
    ours, theirs = folders
    images = FileImages(ours)
    found = find_contamination([images.ref("5.png")], images, theirs)
    assert contamination_in_words(found)[0].startswith("none of 1 images is in")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        find_contamination([], FileImages(tmp_path), tmp_path / "missing")
