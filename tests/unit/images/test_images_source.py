import hashlib
import os
import pickle
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from pairsight.errors import DataError
from pairsight.images import source as hashes
from pairsight.images.distort import make_distortion
from pairsight.images.source import FileImages, ImageSource, image_names, size_of
from pairsight.records import ImageRef


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    (root / "coco").mkdir(parents=True)
    Image.new("RGB", (3, 2), (1, 2, 3)).save(root / "a.png")
    Image.new("RGB", (4, 4), (9, 2, 3)).save(root / "coco" / "000123.jpg")
    return root


def test_ref_is_the_hash_of_the_bytes_and_opens(folder):
    images = FileImages(folder)
    ref = images.ref("a.png")
    assert ref.sha256 == hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    assert isinstance(images, ImageSource)
    assert images.path(ref) == (folder / "a.png").resolve()
    assert images.name(ref) == "a.png"
    assert images.open(ref).getpixel((0, 0)) == (1, 2, 3)


def test_pickles_with_what_it_knows(folder):
    images = FileImages(folder)
    ref = images.ref("coco/000123.jpg")
    again = pickle.loads(pickle.dumps(images))
    assert again.open(ref).size == (4, 4)
    assert again.ref("a.png") == images.ref("a.png")


def test_absolute_names_inside_the_root_are_fine(folder):
    assert FileImages(folder).ref(str(folder / "a.png")).sha256


def test_names_that_lead_out_are_refused(folder, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (1, 1)).save(secret)
    (folder / "link.png").symlink_to(secret)
    (folder / "inside.png").symlink_to(folder / "a.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    images = FileImages(folder)
    for name in ("../secret.png", "coco/../../secret.png", "link.png", str(secret)):
        with pytest.raises(DataError, match="outside the images folder") as caught:
            images.ref(name)
        assert caught.value.reason == "outside_image"
    assert images.ref("inside.png") == images.ref("a.png")
    for name in ("", "a\0b", "a\nb", "loop.png", "x" * 5000, "coco"):
        with pytest.raises(DataError) as caught:
            images.ref(name)
        assert "\n" not in str(caught.value)


def test_missing_names_the_nearest(folder):
    images = FileImages(folder)
    for name, near in (
        ("coco/000124.jpg", "coco/000123.jpg"),
        ("coco/000123.png", "coco/000123.jpg"),
        ("train/a.png", "a.png"),
        ("A.png", "a.png"),
    ):
        with pytest.raises(DataError, match=f"does not exist; did you mean {near}") as caught:
            images.ref(name)
        assert caught.value.reason == "missing_image"
    with pytest.raises(DataError, match="there is no folder nowhere"):
        images.ref("nowhere/b.png")


def test_refs_of_many_keep_errors_in_place(folder):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:40])
    found = FileImages(folder).refs(["a.png", "broken.png", "gone.png", "a.png"])
    assert list(found) == ["a.png", "broken.png", "gone.png"]
    assert isinstance(found["a.png"], ImageRef)
    assert found["broken.png"].reason == "not_an_image"
    assert found["gone.png"].reason == "missing_image"


def test_a_changed_file_is_noticed(folder):
    images = FileImages(folder)
    ref = images.ref("a.png")
    Image.new("RGB", (3, 2), (7, 7, 7)).save(folder / "a.png")
    with pytest.raises(DataError, match="has changed"):
        images.open(ref)


def test_open_applies_image_space_distortions_only(folder):
    picture = Image.new("RGB", (2, 1))
    picture.putpixel((0, 0), (255, 0, 0))
    picture.save(folder / "two.png")
    images = FileImages(folder)
    ref = images.ref("two.png")
    flipped = images.open(ImageRef(ref.sha256, make_distortion("random_flip")))
    assert flipped.getpixel((1, 0)) == (255, 0, 0)
    noisy = images.open(ImageRef(ref.sha256, make_distortion("diffusion_weak")))
    assert noisy.tobytes() == picture.tobytes()


def test_unknown_image_and_wrong_root(folder):
    with pytest.raises(DataError, match="not among those read"):
        FileImages(folder).open(ImageRef("0" * 64))
    with pytest.raises(DataError, match="does not exist"):
        FileImages(folder / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        FileImages(folder / "a.png")


def age(file, seconds=3600):
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


def test_a_remembered_image_is_not_read_again(folder, monkeypatch):
    age(folder / "a.png")
    ref = FileImages(folder).ref("a.png")
    monkeypatch.setattr("pairsight.images.source.read_bytes", lambda *_: pytest.fail("read again"))
    assert FileImages(folder).ref("a.png") == ref


def test_young_or_changed_files_are_read_again(folder):
    first = FileImages(folder).ref("a.png")
    Image.new("RGB", (3, 2), (7, 7, 7)).save(folder / "a.png")
    assert FileImages(folder).ref("a.png") != first
    age(folder / "a.png")
    second = FileImages(folder).ref("a.png")
    Image.new("RGB", (3, 2), (8, 8, 8)).save(folder / "a.png")
    assert FileImages(folder).ref("a.png") != second


def test_damaged_cache_costs_time_only(folder):
    age(folder / "a.png")
    ref = FileImages(folder).ref("a.png")
    (file,) = (hashes.cache_folder() / "image-hashes").iterdir()
    file.write_text('["a.png", 1\nnull\n{}\n["a.png", "x", 2, 3]\n' + file.read_text()[:-9])
    assert FileImages(folder).ref("a.png") == ref


def test_a_cache_that_cannot_be_written_is_no_error(folder, tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    age(folder / "a.png")
    assert FileImages(folder).ref("a.png")


def test_image_names_are_sorted_and_without_hidden_files(folder):
    (folder / ".hidden").mkdir()
    for name in (".hidden/x.png", ".y.png", "notes.txt", "B.JPG"):
        (folder / name).write_bytes(b"")
    assert image_names(folder) == ["B.JPG", "a.png", "coco/000123.jpg"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.ppm", "a.tif"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_of_a_picture_is_known_without_decoding_it(tmp_path: Path, monkeypatch, name, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    takes_exif = {"exif": exif} if orientation is not None and name.endswith((".jpg", ".png", ".webp", ".tif")) else {}
    Image.new("RGB", (7, 4), "red").save(tmp_path / name, **takes_exif)
    images = FileImages(tmp_path)
    ref = images.ref(name)
    expected = images.open(ref).size
    assert expected == ((4, 7) if takes_exif and orientation in (6, 8) else (7, 4))
    if not name.endswith(".tif"):  # its header does not say it for sure
        monkeypatch.setattr(FileImages, "open", lambda self, ref: pytest.fail("it was decoded"))
    assert size_of(images, ref) == expected


def test_the_size_of_a_picture_that_has_changed_is_an_error(tmp_path: Path):
    Image.new("RGB", (7, 4)).save(tmp_path / "a.png")
    images = FileImages(tmp_path)
    ref = images.ref("a.png")
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="changed"):
        size_of(images, ref)
