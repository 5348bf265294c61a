"""Reference log-probs: computed once, found again by content, never trusted when damaged."""

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
    path = filled(tmp_path).path
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    assert len(ReferenceStore(tmp_path, "model")) == 0
    assert "damaged" in caplog.text
    path.write_bytes(b"short")
    assert len(ReferenceStore(tmp_path, "model")) == 0


def test_a_file_renamed_to_another_models_name_is_refused(tmp_path: Path):
    path = filled(tmp_path).path
    path.rename(ReferenceStore(tmp_path, "another").path)
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
        return store.path.read_bytes()

    assert len({saved(tmp_path / str(n)) for n in range(12)}) == 1  # metadata of three keys has six orders
    again = ReferenceStore(tmp_path / "0", "model")
    assert again.get(bytes([2]) * 32).tolist() == [0.0, 1.0, 2.0]
