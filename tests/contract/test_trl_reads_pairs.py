"""The promise that `pairs-*.parquet` and `convert --to trl` train with the real TRL: a step of its DPOTrainer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import families
from made_tables import pairs_table
from pairsight.cli.main import main
from pairsight.images.source import FileImages
from pairsight.records import Completion, Message, PreferencePair, Prompt

datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")


def completion(prompt: str, index: int, text: str) -> Completion:
    return Completion(f"{prompt}:{index}", prompt, text, "stop", "model", 0, index)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random LLaVA, two images, and a table of two pairs with two rejected completions each."""
    folder = tmp_path_factory.mktemp("trl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        torch.set_num_threads(1)
        rng = np.random.default_rng(0)
        (folder / "images").mkdir()
        for name in ("a.png", "b.png"):
            picture = Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8))
            picture.save(folder / "images" / name)
        images = FileImages(folder / "images")
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
        pq.write_table(pairs_table(pairs, images), folder / "pairs-00000.parquet")
    families.build("llava", folder / "model")
    return folder


def own_table(world: Path, out: Path) -> Any:
    return parquet(world / "pairs-*.parquet", out)


def converted(world: Path, out: Path) -> Any:
    source, target = str(world / "pairs-00000.parquet"), out / "converted"
    assert main(["convert", source, str(target), "--to", "trl"]) == 0
    return parquet(target / "*.parquet", out)


def converted_and_saved(world: Path, out: Path) -> Any:
    source, target = str(world / "pairs-00000.parquet"), out / "saved"
    assert main(["convert", source, str(target), "--to", "trl", "--container", "save_to_disk"]) == 0
    return datasets.load_from_disk(str(target))


def parquet(files: Path, out: Path) -> Any:
    return datasets.load_dataset("parquet", data_files=str(files), split="train", cache_dir=str(out / "hf"))


def trained(world: Path, data: Any, out: Path) -> dict[str, float]:
    """What TRL logs of one step on the data; the step must change the model."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(world / "model")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    settings = trl.DPOConfig(
        output_dir=str(out / "out"),
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
        save_strategy="no",
    )
    processor = AutoProcessor.from_pretrained(world / "model")
    trainer = trl.DPOTrainer(model, args=settings, train_dataset=data, processing_class=processor)
    trainer.train()
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
    return dict(trainer.state.log_history[0])


@pytest.fixture(scope="module")
def of_our_own_table(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    out = tmp_path_factory.mktemp("own")
    return trained(world, own_table(world, out), out)


def test_one_step_on_our_own_table(of_our_own_table: dict[str, float]):
    assert of_our_own_table["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("load", [converted, pytest.param(converted_and_saved, marks=pytest.mark.long)])
def test_one_step_on_what_convert_writes(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[Path, Path], Any],
    of_our_own_table: dict[str, float],
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = load(world, tmp_path)
    assert len(data) == 4
    assert [one.size for row in data for one in row["images"]] == [(28, 28)] * 4
    logged = trained(world, data, tmp_path)
    assert logged["loss"] == pytest.approx(math.log(2), abs=1e-4)
    for name in ("logps/chosen", "logps/rejected"):
        assert logged[name] == pytest.approx(of_our_own_table[name], abs=1e-4), "other texts or other images"


def test_the_images_enter(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_our_own_table: dict[str, float]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    black = Image.new("RGB", (28, 28))
    data = converted(world, tmp_path).map(lambda row: {**row, "images": [black]})
    assert abs(trained(world, data, tmp_path)["logps/chosen"] - of_our_own_table["logps/chosen"]) > 1e-3
