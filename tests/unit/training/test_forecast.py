"""What a dry run says: counted on tensors without values, as real ones are, and nothing is written."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pairsight.cli.main import main
from pairsight.engine.progress import Progress
from pairsight.formats.trl import pair_batches
from pairsight.training.batch import PassLimits
from pairsight.training.config import TrainingConfig
from pairsight.training.forecast.fake import FakeRun, LiveBytes
from pairsight.training.forecast.fake_training import Device, FakeTraining
from pairsight.training.forecast.fitting import first_that_fits
from pairsight.training.forecast.forecast import forecast
from pairsight.training.kernels.layers import fuse_lora
from pairsight.training.policy import load_base, make_policy
from pairsight.training.trainer import PreferenceTrainer

LORA = {"lora_r": 4, "lora_alpha": 8.0, "learning_rate": 1e-3, "report_to": ()}
ENDLESS = Device(on_gpu=False, memory=2**40)


def test_operations_and_bytes_of_a_product_are_those_by_hand():
    run = FakeRun()
    with run:
        x, weight = torch.empty(8, 16), torch.empty(16, 32, requires_grad=True)
        held = sum(run.bytes.now.values())
        run.bytes.start()
        (x @ weight).square().sum().backward()
    assert held == 4 * (8 * 16 + 16 * 32)
    assert run.flops == 2 * 2 * 8 * 16 * 32  # forward, and the weight's gradient
    # the product, kept; then its gradient, with that of a sum and two factors on the way, or the weight's
    assert 2 * 4 * 8 * 32 <= sum(run.bytes.peak.values()) - held <= 5 * 4 * 8 * 32 + 4 * 16 * 32
    del x, weight
    assert sum(run.bytes.now.values()) == 0


def test_what_depends_on_integers_alone_has_values():
    with FakeRun():
        sizes = torch.tensor([[1, 4, 6]])
        lengths = torch.repeat_interleave(sizes[:, 1] * sizes[:, 2], sizes[:, 0])
        pieces = torch.split(torch.empty(24, 3), lengths.tolist())
        chosen = torch.empty(4, 5)[torch.tensor([True, False, True, True])]
    assert [piece.shape for piece in pieces] == [(24, 3)]
    assert chosen.shape == (3, 5)


class Real(TorchDispatchMode):
    """Counts the bytes of real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = LiveBytes()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.bytes.see(leaf)
        return out


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_checkpointing": True}])
def test_a_step_without_values_holds_as_much_as_a_real_one(small, tmp_path: Path, options: dict):
    trainer = PreferenceTrainer(
        small.model, out=tmp_path, images=small.images, progress=Progress("quiet"), **LORA, **options
    )
    pairs = small.pairs(3)
    fake = FakeTraining(trainer, pairs, small.images, ENDLESS)
    fake.make_policy(0)
    (rows,) = fake.scorer.passes(range(3))
    found = fake.step(rows, first=True)
    predicted = found.peak["activations"] + found.peak["gradients"]

    real = load_base(str(small.model), trainer.config, fake.precision, torch.device("cpu"))
    policy = make_policy(real, trainer.config)
    fuse_lora(policy)
    policy.train()
    again = FakeTraining(trainer, pairs, small.images, ENDLESS)  # its scorer has kept no features of fake tensors
    scorer = again.scorer
    scorer.scoring.tokeniser.units._features.clear()
    with torch.no_grad():
        scorer.score(scorer.packed(policy), rows)
    counting = Real()
    with counting:
        for tensor in [*policy.parameters(), *policy.buffers()]:
            counting.bytes.see(tensor)
        held = sum(counting.bytes.now.values())
        counting.bytes.start()
        scorer.score(scorer.packed(policy), rows).sums_Q.sum().backward()
    measured = sum(counting.bytes.peak.values()) - held
    assert predicted == pytest.approx(measured, rel=0.05)


def test_passes_of_the_reference_are_as_large_with_gradient_checkpointing(small, tmp_path: Path):
    """As in a training, where only the policy's passes may be larger."""

    def limits(**options: object) -> tuple[PassLimits, PassLimits]:
        trainer = PreferenceTrainer(small.model, out=tmp_path, images=small.images, **LORA, **options)
        fake = FakeTraining(trainer, small.pairs(1), small.images, ENDLESS)
        before = fake.scorer.limits
        fake.make_policy(0)
        return before, fake.scorer.limits

    plain, checkpointed = limits(), limits(gradient_checkpointing=True)
    assert plain[0] == plain[1] == checkpointed[0]
    assert checkpointed[1].row > plain[1].row


def test_a_forecast_counts_what_its_training_takes(small, tmp_path: Path):
    trainer = PreferenceTrainer(
        small.model, out=tmp_path / "a", images=small.images, progress=Progress("quiet"), num_train_epochs=2, **LORA
    )
    found = forecast(trainer, small.pairs(6), ENDLESS)
    assert found.fits
    assert (found.examples, found.prepared, found.skipped) == (6, 6, 0)
    assert found.steps == 12  # a batch of one, for ten steps an epoch at least
    assert found.training.passes == 6
    trained = found.training.memory["trained weights"]
    inner, grouped, mlp = 32 + 32, 32 + 16, 32 + 64  # in and out of each kind of linear layer
    assert trained == 4 * 4 * 2 * (2 * inner + 2 * grouped + 3 * mlp)  # float32, rank 4, two layers
    assert found.training.memory["optimizer"] == 2 * trained
    assert found.flops > found.reference.flops + 2 * found.training.flops
    assert not (tmp_path / "a").exists()


def test_the_first_setting_that_fits_is_named():
    peaks = {"max_tokens_per_pass": 90, "image_cache_mb": 95, "gradient_checkpointing": 60}

    def peak(config: TrainingConfig) -> int:
        plain = TrainingConfig()
        changed = [name for name in TrainingConfig.model_fields if getattr(config, name) != getattr(plain, name)]
        return min(peaks.get(name, 100) for name in changed) - 5 * len(changed)

    config = TrainingConfig()
    assert first_that_fits(config, 70, (100, 400), peak) == ("gradient_checkpointing=true", 55)
    assert first_that_fits(config, 86, (100, 400), peak) == ("max_tokens_per_pass=200", 85)
    assert first_that_fits(config, 86, (400, 400), peak) == ("gradient_checkpointing=true", 55)
    together = first_that_fits(config, 46, (100, 400), peak)
    assert together == ("max_tokens_per_pass=100 image_cache_mb=64 gradient_checkpointing=true", 45)
    assert first_that_fits(config, 1, (100, 400), peak) is None


def test_a_dry_run_prints_a_forecast_and_writes_nothing(small, tmp_path: Path, capsys):
    data = tmp_path / "pairs.parquet"
    parquet.write_table(pa.Table.from_batches(list(pair_batches(small.pairs(6), small.images))), data)
    before = sorted(path for path in tmp_path.rglob("*"))
    command = ["align", str(data), "--model", str(small.model), "--quiet", "--set", "lora_r=4", "--dry-run"]
    assert main([*command, "--rate", "0.5", "--memory", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"6 examples, 1 epochs, 6 steps; in bfloat16 on a GPU of 1 GiB", printed)
    assert "hours at 0.5 TFLOP/s" in printed
    assert "it fits into" in printed
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_rate_without_a_dry_run_is_refused(small, tmp_path: Path, capsys):
    assert main(["align", str(tmp_path), "--model", str(small.model), "--rate", "3"]) == 1
    assert "--rate says what a dry run is for: add --dry-run" in capsys.readouterr().err
