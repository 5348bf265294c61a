"""Blobs: kept once, found by hash, verified when read."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from pairsight.errors import DataError, RunError
from pairsight.images.source import ImageSource
from pairsight.records import Distortion, ImageRef
from pairsight.store.blobs import BlobStore


def png(color: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(data, "PNG")
    return data.getvalue()


def test_bytes_lie_where_their_hash_says_and_come_back(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.add_bytes(png(), ".PNG")
    sha = hashlib.sha256(png()).hexdigest()
    assert ref == ImageRef(sha)
    assert store.path(ref) == tmp_path / "blobs" / "sha256" / sha[:2] / sha[2:4] / f"{sha}.png"
    assert store.open(ref).getpixel((0, 0)) == (255, 0, 0)
    assert isinstance(store, ImageSource)


def test_the_same_bytes_are_kept_once_whatever_their_name(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "run")
    (tmp_path / "a.jpeg").write_bytes(png())
    assert store.add_bytes(png(), "png") == store.add_file(tmp_path / "a.jpeg")
    assert len(list(store.files())) == 1


def test_it_travels_to_workers(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.add_bytes(png(), ".png")
    store.path(ref)
    assert pickle.loads(pickle.dumps(store)).open(ref).size == (4, 3)


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.add_bytes(png(), ".png")
    file = store.path(ref)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for read in (BlobStore(tmp_path).path, store.open):
        with pytest.raises(DataError, match="is damaged") as error:
            read(ref)
        assert error.value.reason == "changed_image"


def test_a_missing_blob_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not in"):
        BlobStore(tmp_path).open(ImageRef("ab" * 32))
    with pytest.raises(DataError, match=r"nowhere\.png: No such file"):
        BlobStore(tmp_path).add_file(tmp_path / "nowhere.png")


def test_what_a_killed_process_left_is_no_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.add_bytes(png(), ".png")
    store.path(ref).with_name(f".{'cd' * 32}.png.123.tmp").write_bytes(b"half")
    assert list(store.files()) == [store.path(ref)]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file in the way")
    with pytest.raises(RunError, match=r"cannot write .*fix that and run the same command again"):
        BlobStore(tmp_path).add_bytes(png(), ".png")


def test_image_space_distortions_are_applied_and_normalised_ones_are_not(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.add_bytes(png("blue"), ".png")
    normalised = ImageRef(ref.sha256, Distortion("diffusion_noise", {"step": 900.0}, 1, "normalised"))
    assert store.open(normalised).tobytes() == store.open(ref).tobytes()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_what_is_lost_is_named_by_hash(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    kept = store.add_bytes(png(), ".png")
    beside = ImageRef(kept.sha256[:4] + "0" * 60)  # the same folder, another file
    elsewhere = ImageRef("f" * 64)
    assert store.lost([elsewhere, kept, beside]) == sorted([elsewhere, beside], key=lambda ref: ref.sha256)
    assert store.lost([]) == store.lost([kept]) == []


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("damaged", [b"", b"other bytes", b"cut"])
def test_a_damaged_blob_is_lost_until_its_bytes_are_added_again(
    tmp_path: Path, remembered: bool, damaged: bytes
) -> None:
    data = png()
    ref = BlobStore(tmp_path).add_bytes(data, ".png")
    if remembered:
        BlobStore(tmp_path).remember([ref])
    file = BlobStore(tmp_path).path(ref)
    file.write_bytes(data[: len(data) // 2] if damaged == b"cut" else damaged)
    assert BlobStore(tmp_path).lost([ref]) == [ref]
    assert BlobStore(tmp_path).add_bytes(data, ".jpg") == ref
    assert BlobStore(tmp_path).path(ref).read_bytes() == data
    assert BlobStore(tmp_path).lost([ref]) == []


def test_a_byte_that_changed_without_a_trace_is_lost_once_it_was_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.add_bytes(png(), ".png")
    file = store.path(ref)
    os.utime(file, (1e9, 1e9))
    store.remember([ref])
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    os.utime(file, (1e9, 1e9))  # a failing disk changes no time
    assert BlobStore(tmp_path).lost([ref]) == []
    with pytest.raises(DataError, match="same build or evaluate command with --images restores it"):
        BlobStore(tmp_path).open(ref)
    assert BlobStore(tmp_path).lost([ref]) == [ref]
