"""What a dry run says a training holds, beside what complete trainings hold: from the model to the last step."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pairsight.engine.progress import Progress
from pairsight.models import load
from pairsight.training import policy
from pairsight.training.forecast.fake import LiveBytes
from pairsight.training.forecast.fake_training import Device
from pairsight.training.forecast.forecast import Forecast, forecast
from pairsight.training.trainer import PreferenceTrainer

LORA = {"lora_r": 4, "lora_alpha": 8.0, "learning_rate": 1e-3}
STEPS = {"per_device_train_batch_size": 3, "min_steps_per_epoch": 0, "report_to": (), "num_train_epochs": 2}
CASES = {
    "lora": LORA,
    "bf16": LORA | {"bf16": True},
    "accumulated": LORA | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3},
    "full": {"tuning": "full", "learning_rate": 1e-5},
    "full, several passes a step": {"tuning": "full", "learning_rate": 1e-5, "max_tokens_per_pass": 160},
    "checkpointing": LORA | {"gradient_checkpointing": True},
    "projector": LORA | {"projector_learning_rate": 1e-4},
    "tower": LORA | {"vision_learning_rate": 1e-5},
}

IN_CI = ("accumulated", "full, several passes a step")


class Counting(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = LiveBytes()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.bytes.see(leaf)
        return out

    def peak(self) -> int:
        """The most since the last call."""
        found = sum(self.bytes.peak.values())
        self.bytes.start()
        return found


def trained(trainer: PreferenceTrainer, pairs, monkeypatch) -> tuple[int, int]:
    """Train; bytes of tensors at their most, until there is something to train, and from then on."""
    counting, found = Counting(), Counter()
    load_model, make_policy = load.load_model, policy.make_policy

    def loaded(*arguments, **options):
        model = load_model(*arguments, **options)
        for tensor in [*model.parameters(), *model.buffers()]:
            counting.bytes.see(tensor)
        counting.peak()
        return model

    def adapted(*arguments, **options):
        found["reference"] = counting.peak()
        return make_policy(*arguments, **options)

    monkeypatch.setattr(load, "load_model", loaded)
    monkeypatch.setattr(policy, "make_policy", adapted)
    with counting:
        trainer.train(pairs)
    monkeypatch.undo()
    return found["reference"], counting.peak()


@pytest.mark.parametrize(
    "case", [case if case in IN_CI else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_a_complete_training_holds_what_its_forecast_says(small, tmp_path: Path, monkeypatch, case: str):
    trainer = PreferenceTrainer(
        small.model, out=tmp_path, images=small.images, progress=Progress("quiet"), **{**STEPS, **CASES[case]}
    )
    pairs = small.pairs(6)
    found = forecast(trainer, pairs, Device(on_gpu=False, memory=2**40))
    reference, training = trained(trainer, pairs, monkeypatch)
    assert found.steps == 4  # so that there is a state of the optimizer beside activations
    assert found.reference.peak == pytest.approx(reference, rel=0.01)
    assert found.training.peak == pytest.approx(training, rel=0.08 if case == "tower" else 0.01)


@pytest.mark.long
@pytest.mark.parametrize("options", [LORA, LORA | {"lora_r": 64}, {"tuning": "full", "learning_rate": 1e-5}])
def test_what_is_said_to_make_a_training_fit_does(small, tmp_path: Path, options: dict):
    """Tried as a user would: given as options, with the same data, on the same device."""

    def dry_run(memory: float, **changed: object) -> Forecast:
        given = {**STEPS, **options, **changed}
        trainer = PreferenceTrainer(small.model, out=tmp_path, images=small.images, progress=Progress("quiet"), **given)
        return forecast(trainer, small.pairs(12), Device(on_gpu=True, memory=int(memory)))

    memory = (
        0.95 * dry_run(2**40, max_tokens_per_pass=64).peak / 0.92
    )  # for passes of one example each, not quite enough
    found = dry_run(memory)
    assert not found.fits
    assert found.advice is not None
    settings, peak = found.advice
    advised = {name: yaml.safe_load(value) for name, value in (one.split("=") for one in settings.split())}
    followed = dry_run(memory, **advised)
    assert followed.fits
    assert followed.peak == peak
