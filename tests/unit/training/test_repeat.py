"""`repeat`: each example comes so often in an epoch, as SeVa's authors do by doubling their list of pairs."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from pairsight.engine.progress import Progress
from pairsight.training.config import TrainingSummary
from pairsight.training.forecast.fake_training import Device
from pairsight.training.forecast.forecast import forecast
from pairsight.training.trainer import PreferenceTrainer

ONE_STEP = {"lora_r": 2, "lora_alpha": 4.0, "report_to": (), "learning_rate": 1e-3, "min_steps_per_epoch": 0}


def train(small, out: Path, **options) -> Path:
    trainer = PreferenceTrainer(
        small.model, out=out, images=small.images, progress=Progress("quiet"), **{**ONE_STEP, **options}
    )
    return trainer.train(small.pairs(3))


def test_two_copies_in_one_step_have_the_gradient_of_one(small, tmp_path: Path):
    once = train(small, tmp_path / "once", per_device_train_batch_size=3)
    twice = train(small, tmp_path / "twice", per_device_train_batch_size=6, repeat=2)
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (once, twice))
    assert any(t.any() for name, t in expected.items() if "lora_B" in name)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_steps_summary_and_card_say_it(small, tmp_path: Path):
    folder = train(small, tmp_path / "a", per_device_train_batch_size=1, repeat=2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6, "3 pairs, each twice, one a step"
    summary = TrainingSummary.read(folder)
    assert summary == TrainingSummary(3, 6, 1, 1, (), 2)
    assert str(summary) == "3 examples, each 2 times an epoch, in 6 optimizer steps of up to 1"
    assert "times an example comes in an epoch" in (folder / "README.md").read_text()


def test_a_small_set_keeps_more_of_its_batch(small, tmp_path: Path):
    # 3 pairs twice are 6 of an epoch: a batch of 2 gives the 3 steps that are wanted
    folder = train(small, tmp_path / "a", per_device_train_batch_size=32, repeat=2, min_steps_per_epoch=3)
    summary = TrainingSummary.read(folder)
    assert (summary.num_steps, summary.global_batch, summary.asked_batch) == (3, 2, 32)


def test_a_forecast_counts_each_copy(small, tmp_path: Path, capsys):
    from pairsight.cli.show import print_forecast

    options = {**ONE_STEP, "per_device_train_batch_size": 1, "repeat": 2}
    trainer = PreferenceTrainer(
        small.model, out=tmp_path / "a", images=small.images, progress=Progress("quiet"), **options
    )
    found = forecast(trainer, small.pairs(3), Device(on_gpu=False, memory=2**40))
    assert (found.examples, found.steps, found.training.passes, found.repeat) == (3, 6, 6, 2)
    print_forecast(found, None)
    assert "3 examples, each 2 times an epoch, 1 epochs, 6 steps" in capsys.readouterr().out
