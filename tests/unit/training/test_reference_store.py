"""Reference log-probs: computed once, found again by content, never trusted when damaged."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pairsight.engine.progress import Progress
from pairsight.errors import RunError
from pairsight.training import reference
from pairsight.training.reference import ReferenceStore
from pairsight.training.trainer import PreferenceTrainer

KEYS = [bytes([n]) * 32 for n in range(3)]


def filled(folder: Path) -> ReferenceStore:
    store = ReferenceStore(folder, "model")
    for n, key in enumerate(KEYS):
        store.add(key, np.arange(n + 1, dtype=np.float32) - 2.5)
    store.save()
    return store


def test_what_is_kept_is_read_back(tmp_path: Path):
    filled(tmp_path)
    store = ReferenceStore(tmp_path, "model")
    assert len(store) == 3
    assert store.get(KEYS[2]).tolist() == [-2.5, -1.5, -0.5]
    assert store.sum(KEYS[2]) == -4.5
    assert bytes(32 * [9]) not in store


def test_another_model_has_another_file(tmp_path: Path):
    filled(tmp_path)
    assert len(ReferenceStore(tmp_path, "another")) == 0


def test_a_damaged_file_is_not_believed(tmp_path: Path, caplog):
    (path,) = filled(tmp_path).files()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    assert len(ReferenceStore(tmp_path, "model")) == 0
    assert "damaged" in caplog.text
    path.write_bytes(b"short")
    assert len(ReferenceStore(tmp_path, "model")) == 0


def test_a_file_renamed_to_another_models_name_is_refused(tmp_path: Path):
    (path,) = filled(tmp_path).files()
    path.rename(tmp_path / f"{hashlib.sha256(b'another').hexdigest()[:32]}.safetensors")
    with pytest.raises(RunError, match="another model"):
        ReferenceStore(tmp_path, "another")


def test_only_what_changed_is_computed_again(small, tmp_path: Path, monkeypatch):
    computed: list[int] = []
    real = reference.compute_reference

    def counting(*arguments):
        computed.append(real(*arguments))
        return computed[-1]

    monkeypatch.setattr(reference, "compute_reference", counting)
    monkeypatch.setattr(
        "pairsight.training.trainer.PreferenceTrainer._reference_folder", lambda self: tmp_path / "references"
    )

    def train(name: str, pairs, **options) -> None:
        PreferenceTrainer(
            small.model,
            out=tmp_path / name,
            images=small.images,
            progress=Progress("quiet"),
            **{"max_steps": 1, "lora_r": 2, "report_to": (), "per_device_train_batch_size": 2, **options},
        ).train(pairs)

    pairs = small.pairs(8)
    train("first", pairs)
    train("beta", pairs, beta=0.5)
    train("label smoothing", pairs, label_smoothing=0.2)
    flipped = [replace(p, chosen=p.rejected[0], rejected=(p.chosen, *p.rejected[1:])) for p in pairs]
    train("flipped", flipped)
    changed = [*pairs[:5], replace(pairs[5], chosen=replace(pairs[5].chosen, text="new words")), *pairs[6:]]
    train("changed", changed)
    assert computed == [8, 0, 0, 0, 1]


def test_the_same_log_probs_give_the_same_bytes(tmp_path):
    def saved(folder):
        store = ReferenceStore(folder, "model")
        for n in range(3):
            store.add(bytes([n]) * 32, np.arange(n + 1, dtype=np.float32))
        store.save()
        (path,) = store.files()
        return path.read_bytes()

    assert len({saved(tmp_path / str(n)) for n in range(12)}) == 1  # metadata of three keys has six orders
    again = ReferenceStore(tmp_path / "0", "model")
    assert again.get(bytes([2]) * 32).tolist() == [0.0, 1.0, 2.0]


def test_each_write_is_a_file_of_its_own_and_all_are_read(tmp_path: Path):
    store = filled(tmp_path)
    first = {path: path.read_bytes() for path in store.files()}
    later = [bytes([n]) * 32 for n in range(3, 6)]
    for n, key in enumerate(later):
        store.add(key, np.full(4, n, np.float32))
    store.save()
    store.save()  # nothing was added since
    assert len(store.files()) == 2
    assert all(path.read_bytes() == data for path, data in first.items())
    again = ReferenceStore(tmp_path, "model")
    for one in (store, again):
        assert [one.get(key).tolist() for key in KEYS] == [[-2.5], [-2.5, -1.5], [-2.5, -1.5, -0.5]]
        assert [one.sum(key) for key in later] == [0.0, 4.0, 8.0]
        keys = np.frombuffer(b"".join([*later, bytes(32 * [9]), *KEYS, bytes(32 * [255])]), np.uint8).reshape(-1, 32)
        assert one.missing(keys).tolist() == [False] * 3 + [True] + [False] * 3 + [True]


def test_keys_with_one_beginning_are_told_from_each_other(tmp_path: Path):
    keys = [bytes(8) + bytes([n]) * 24 for n in (7, 3, 5)]
    for n, key in enumerate(keys):  # in two files
        store = ReferenceStore(tmp_path, "model")
        store.add(key, np.full(2, n, np.float32))
        store.save()
    store = ReferenceStore(tmp_path, "model")
    assert [store.sum(key) for key in keys] == [0.0, 2.0, 4.0]
    asked = np.frombuffer(b"".join([*keys, bytes(32)]), np.uint8).reshape(-1, 32)
    assert store.missing(asked).tolist() == [False, False, False, True]
    assert bytes(32) not in store


def test_a_file_of_an_earlier_version_is_used(tmp_path: Path):
    """It was the only one of its model, named without its content."""
    (path,) = filled(tmp_path).files()
    path.rename(tmp_path / f"{hashlib.sha256(b'model').hexdigest()[:32]}.safetensors")
    assert ReferenceStore(tmp_path, "model").sum(KEYS[2]) == -4.5


def test_a_damaged_file_goes_when_its_log_probs_are_written_again(tmp_path: Path):
    (path,) = filled(tmp_path).files()
    path.write_bytes(path.read_bytes()[:-1])
    store = ReferenceStore(tmp_path, "model")
    store.add(KEYS[0], np.ones(1, np.float32))
    store.save()
    assert path not in store.files()
    assert len(ReferenceStore(tmp_path, "model")) == 1
