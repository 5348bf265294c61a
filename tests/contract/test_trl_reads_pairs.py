"""The promise that `pairs-*.parquet` trains with the real TRL: one step of its DPOTrainer on a tiny random LLaVA."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import families
from made_tables import pairs_table
from pairsight.images.source import FileImages
from pairsight.records import Completion, Message, PreferencePair, Prompt


def completion(prompt, index, text):
    return Completion(f"{prompt}:{index}", prompt, text, "stop", "model", 0, index)


def test_one_step_of_trl(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from transformers import AutoModelForImageTextToText, AutoProcessor

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    images = FileImages(tmp_path / "images")
    pairs = [
        PreferencePair(
            name,
            Prompt(name, (Message("user", "What is it?", (images.ref(name),)),)),
            completion(name, 0, "A red dot."),
            (completion(name, 1, "A blue cat sits."), completion(name, 2, "Nothing.")),
            "test",
        )
        for name in ("a.png", "b.png")
    ]
    pq.write_table(pairs_table(pairs, images), tmp_path / "pairs-00000.parquet")
    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "pairs-*.parquet"), split="train", cache_dir=str(tmp_path / "hf")
    )
    folder = families.build("llava", tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        max_length=None,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = trl.DPOTrainer(
        model, args=settings, train_dataset=data, processing_class=AutoProcessor.from_pretrained(folder)
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
