"""Activations computed again in the backward pass: the same gradients, also with dropout, from fewer kept numbers."""

import re
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import families
from pairsight.engine.progress import Progress
from pairsight.training.trainer import PreferenceTrainer

OPTIONS = {"lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.3, "report_to": (), "check_first_batch": False}
OPENED = {"projector_learning_rate": 1e-4, "vision_learning_rate": 1e-5}


class CapturedError(Exception):
    """The policy and the step with which a training enters its loop."""


def captured(*arguments):
    raise CapturedError(*arguments)


def entered(model: Path, small, out: Path, monkeypatch, **options):
    """A policy whose adapters do something, and its step, when its training enters the loop."""
    trainer = PreferenceTrainer(model, out=out, images=small.images, progress=Progress("quiet"), **OPTIONS, **options)
    monkeypatch.setattr(trainer, "_run_loop", captured)
    with pytest.raises(CapturedError) as caught:
        trainer.train(small.pairs(4))
    policy, step, _ = caught.value.args
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            generator = torch.Generator().manual_seed(sum(name.encode()))
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy.train(), step


def pass_over(policy, step) -> tuple[int, dict[str, torch.Tensor], int]:
    """Bytes kept for the backward pass of one pass of several rows, gradients, and calls of the tower's first MLP."""
    calls = []
    tower = re.compile(r"(?!.*original_module).*(vision|visual).*\.0(\.modules_to_save\.default)?\.mlp")
    mlp = next(m for n, m in policy.named_modules() if tower.fullmatch(n))
    handle = mlp.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    (rows,) = step.scorer.passes([0, 1, 2, 3])
    assert len(rows) > 1
    torch.manual_seed(5)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        total = step.run(step.scorer.packed(policy), rows, {}, 4.0, 1.0).total
    total.backward()
    handle.remove()
    return sum(kept.values()), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("gemma3", {}),
        ("qwen2_5_vl", OPENED),
        pytest.param("llava", {}, marks=pytest.mark.long),
        pytest.param("qwen2_5_vl", {}, marks=pytest.mark.long),
        pytest.param("llava", OPENED, marks=pytest.mark.long),
        pytest.param("gemma3", OPENED, marks=pytest.mark.long),
    ],
)
def test_gradients_stay_and_fewer_numbers_are_kept(name: str, opened: dict, small, tmp_path: Path, monkeypatch):
    model = families.build(name, tmp_path / "model")
    found = [
        pass_over(*entered(model, small, tmp_path / str(twice), monkeypatch, gradient_checkpointing=twice, **opened))
        for twice in (False, True)
    ]
    (all_kept, expected, runs), (kept, gradients, runs_twice) = found
    assert kept < 0.5 * all_kept
    assert runs_twice == (2 * runs if opened else runs)
    assert runs or not opened
    assert gradients.keys() == expected.keys() != set()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-5, atol=1e-7, msg=parameter)
