"""Damaged checkpoints and finished folders: it is said, and the weights are the same as without the damage."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small_training
from small_training import STEPS, Stopped, same, stopped_at, train

from pairsight.errors import RunError
from pairsight.training import checkpoints
from pairsight.training.checkpoints import newest_complete

FILES = (
    "weights.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "complete.json",
)


def _cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[2 * len(data) // 3] ^= 1
    file.write_bytes(data)


def _remove(file: Path) -> None:
    file.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {"cut": _cut, "emptied": _empty, "flipped": _flip, "removed": _remove}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_training.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(base, tmp_path_factory.mktemp("whole") / "out", "lora")


@pytest.fixture(scope="module")
def left(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was stopped with checkpoints of steps 2 and 3."""
    out = tmp_path_factory.mktemp("left") / "out"
    stopped_at(3, base, out, "lora", save_total_limit=2)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-3"}
    assert {path.name for path in (out / "checkpoints" / "checkpoint-3").iterdir()} == set(FILES)
    return out


@pytest.fixture
def out(left: Path, tmp_path: Path) -> Path:
    shutil.copytree(left, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one_and_it_is_said(out, caplog, name, damage):
    folder = out / "checkpoints"
    DAMAGES[damage](folder / "checkpoint-3" / name)
    found = newest_complete(folder)
    assert found is not None
    assert found.folder.name == "checkpoint-2"
    assert f"checkpoint {folder / 'checkpoint-3'} is skipped: " in caplog.text
    assert name in caplog.text


def test_any_byte_of_the_mark_counts(out):
    mark = out / "checkpoints" / "checkpoint-3" / "complete.json"
    data = mark.read_bytes()
    for offset in range(0, len(data), 5):
        mark.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        found = newest_complete(out / "checkpoints")
        assert found is not None
        # blanks between the values carry nothing
        assert found.step == 2 or json.loads(mark.read_bytes()) == json.loads(data)


@pytest.mark.parametrize(
    ("name", "damage"), [("weights.safetensors", "flipped"), ("optimizer.pt", "flipped"), ("complete.json", "emptied")]
)
def test_a_training_goes_on_from_the_older_checkpoint_to_the_same_weights(base, whole, out, name, damage):
    DAMAGES[damage](out / "checkpoints" / "checkpoint-3" / name)
    assert same(train(base, out, "lora", save_total_limit=2), whole)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "full", "lora and projector"])
def test_whatever_is_damaged_the_weights_are_the_same(base, tmp_path, kind):
    expected = train(base, tmp_path / "whole", kind)
    stopped_at(3, base, tmp_path / "left", kind, save_total_limit=2)
    for name in FILES:
        for damage, do in DAMAGES.items():
            out = tmp_path / f"{name}-{damage}"
            shutil.copytree(tmp_path / "left", out)
            do(out / "checkpoints" / "checkpoint-3" / name)
            assert same(train(base, out, kind, save_total_limit=2), expected), f"{name} {damage}"


def test_without_any_complete_checkpoint_it_begins_again(base, whole, out, caplog):
    for step in (2, 3):
        _cut(out / "checkpoints" / f"checkpoint-{step}" / "weights.safetensors")
    assert same(train(base, out, "lora", save_total_limit=2), whole)
    assert caplog.text.count("is skipped") == 2


def test_a_checkpoint_of_an_earlier_version_is_passed_over_and_said(base, whole, out, caplog):
    shutil.rmtree(out / "checkpoints" / "checkpoint-2")
    old = {"step": 3, "loss_state": {}, "held_out": None}
    (out / "checkpoints" / "checkpoint-3" / "complete.json").write_text(json.dumps(old))
    assert same(train(base, out, "lora"), whole)
    assert "complete.json lists no files: an earlier version of Pairsight wrote it" in caplog.text


def test_the_only_checkpoint_goes_after_the_next_one_is_marked(base, whole, tmp_path, monkeypatch):
    def unmarked(marker, *_arguments, **_named):
        if marker.parent.name == "checkpoint-2":
            raise Stopped
        return real(marker, *_arguments, **_named)

    real = checkpoints.write_marker
    monkeypatch.setattr(checkpoints, "write_marker", unmarked)
    with pytest.raises(Stopped):
        train(base, tmp_path / "out", "lora")
    monkeypatch.undo()
    folder = tmp_path / "out" / "checkpoints"
    assert newest_complete(folder).folder.name == "checkpoint-1"
    assert same(train(base, tmp_path / "out", "lora"), whole)
    assert [path.name for path in folder.iterdir()] == [f"checkpoint-{STEPS}"]


def test_what_a_mark_lists_is_on_disk_before_the_mark(base, tmp_path, monkeypatch):
    synced: list[str] = []
    marked: dict[str, set[str]] = {}
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> Path:
        if Path(target).name in ("complete.json", "pairsight.json"):
            marked[str(target)] = set(synced)
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    out = train(base, tmp_path / "out", "lora", save_total_limit=STEPS)
    wanted = {out / "pairsight.json", *(out / "checkpoints").glob("*/complete.json")}
    assert set(map(Path, marked)) == wanted
    assert len(wanted) == STEPS + 1
    for mark in wanted:
        content = json.loads(mark.read_text())
        assert any(name.endswith(".safetensors") for name in content["files"])
        for name, listed in content["files"].items():
            assert str(mark.parent / name) in marked[str(mark)], f"{name} of {mark}"
            data = (mark.parent / name).read_bytes()
            assert listed == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert {str(mark.parent), str(mark.parent.parent)} <= marked[str(mark)]
    assert json.loads((out / "pairsight.json").read_text())["files"].keys() >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "align.yaml",
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_adapter_that_was_damaged_is_written_again(base, whole, tmp_path, caplog, damage):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for name in ("adapter_model.safetensors", "pairsight.json"):
        if (name, damage) == ("pairsight.json", "flipped"):
            continue  # it is people's to edit: only what it says of weights counts
        caplog.clear()
        DAMAGES[damage](out / name)
        assert same(train(base, out, "lora"), whole)
        assert (out / "pairsight.json").read_text() == (whole / "pairsight.json").read_text()
        said = f"{out} was finished, but {name}" in caplog.text
        assert said == ((name, damage) != ("pairsight.json", "removed"))


def test_a_card_may_be_edited_and_an_adapter_of_an_earlier_version_is_finished(base, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "README.md").write_text("my own words")
    content = json.loads((out / "pairsight.json").read_text())
    del content["files"]
    (out / "pairsight.json").write_text(json.dumps(content))
    shutil.rmtree(out / "checkpoints")
    train(base, out, "lora")
    assert (out / "README.md").read_text() == "my own words"


def test_an_empty_origin_is_one_line_that_says_what_to_do(base, out):
    _empty(out / "align.yaml")
    with pytest.raises(RunError, match=r"align\.yaml must hold .*remove the folder to start over"):
        train(base, out, "lora")
