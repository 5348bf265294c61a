"""One precision for step, reference and held-out: masters in float32, the policy equal to the reference at first."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText

import families
from pairsight.engine.progress import Progress
from pairsight.models.folders import fingerprint
from pairsight.training import loop as loop_module
from pairsight.training.policy import movement_kept
from pairsight.training.trainer import PreferenceTrainer

MODES = {
    "fp32": {},
    "bf16-lora": {"bf16": True, "projector_learning_rate": 1e-12},
    "bf16-full": {"bf16": True, "tuning": "full"},
}
OPTIONS = {"report_to": (), "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
LORA = {"lora_r": 4, "lora_alpha": 8.0}


def train(small, out: Path, **options) -> tuple[Path, list[dict]]:
    given = {**OPTIONS, **({} if options.get("tuning") == "full" else LORA), **options}
    trainer = PreferenceTrainer(small.model, out=out, images=small.images, progress=Progress("quiet"), **given)
    folder = trainer.train(small.pairs(6))
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_policy_and_reference_are_equal_to_the_bit_before_the_first_step(small, tmp_path: Path, mode: str):
    """One example per pass packs both alike; held-out examples are measured after a step too small to matter."""
    options = {"per_device_train_batch_size": 1, "max_steps": 1, "learning_rate": 1e-12, "max_tokens_per_pass": 64}
    held = {"eval_fraction": 0.5, "eval_steps": 1}
    _, lines = train(small, tmp_path / "a", **options, **held, **MODES[mode])
    (step,) = [line for line in lines if "loss" in line]
    (measured,) = [line for line in lines if "eval_loss" in line]
    assert step["drift/chosen"] == 0.0
    assert step["rewards/margins"] == 0.0
    assert abs(measured["eval_rewards/margins"]) < 1e-6


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_bf16_reaches_the_step(small, tmp_path: Path, tuning: str, monkeypatch):
    """The language model's products are bfloat16 in the pass itself, and its loss is not."""
    seen = []
    real = loop_module.PreferenceStep.run

    def run(self, model, rows, *arguments):
        layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.mlp.down_proj"))
        handle = layer.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
        result = real(self, model, rows, *arguments)
        handle.remove()
        assert result.total.dtype == torch.float32
        return result

    monkeypatch.setattr(loop_module.PreferenceStep, "run", run)
    _, lines = train(small, tmp_path / tuning, bf16=True, tuning=tuning, learning_rate=3e-3, max_steps=6)
    assert set(seen) == {torch.bfloat16}
    assert lines[-1]["loss"] < lines[0]["loss"]


def movement(small, folder: Path) -> torch.Tensor:
    """How far the projector's weights went from the base's, all in one vector."""
    base = AutoModelForImageTextToText.from_pretrained(small.model).model.multi_modal_projector.state_dict()
    saved = {k.split("multi_modal_projector.")[1]: t for k, t in load_file(folder / "adapter_model.safetensors").items()
             if "multi_modal_projector" in k}  # fmt: skip
    assert saved.keys() == base.keys()
    return torch.cat([(saved[name].double() - base[name].double()).flatten() for name in sorted(base)])


def test_a_projector_in_bf16_moves_as_far_as_in_float32_at_sevas_rate(small, tmp_path: Path):
    options = {"learning_rate": 2e-6, "projector_learning_rate": 2e-6, "max_steps": 8, "per_device_train_batch_size": 6}
    exact, _ = train(small, tmp_path / "fp32", **options)
    short, _ = train(small, tmp_path / "bf16", bf16=True, **options)
    far, near = movement(small, exact), movement(small, short)
    assert near.abs().mean() == pytest.approx(float(far.abs().mean()), rel=0.05)
    assert float((near != 0).double().mean()) > 0.95 * float((far != 0).double().mean())


@pytest.mark.parametrize("mode", MODES)
def test_trained_weights_are_kept_and_saved_in_float32(small, tmp_path: Path, mode: str):
    folder, _ = train(small, tmp_path / mode, max_steps=1, learning_rate=1e-4, **MODES[mode])
    (file,) = folder.glob("*model.safetensors")
    assert {t.dtype for t in load_file(file).values()} == {torch.float32}


def test_a_trained_tower_before_a_frozen_projector_with_norms_trains_in_bf16(small, tmp_path: Path):
    """InternVL's projector begins with a LayerNorm, which refused the float32 that the trained tower gives."""
    model = families.build("internvl", tmp_path / "model")
    other = replace(small, model=model)
    _, lines = train(other, tmp_path / "a", bf16=True, vision_learning_rate=1e-4, max_steps=2, learning_rate=1e-3)
    assert lines[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-3)
    assert len(lines) == 2


def test_a_reference_in_bf16_is_of_the_parts_that_were_float32(small, tmp_path: Path):
    """A projector with norms gives other bits in float32, so its reference is another; float32's keeps its name."""
    names = []
    for number, options in enumerate(({}, {"bf16": True}, {"bf16": True, "projector_learning_rate": 1e-5})):
        folder, _ = train(small, tmp_path / str(number), max_steps=1, learning_rate=1e-3, **options)
        (file,) = (folder / "references").glob("*.safetensors")
        names.append(file.name)
    assert len(set(names)) == 3
    key = json.dumps([fingerprint(small.model), "float32"])
    assert names[0].startswith(hashlib.sha256(key.encode()).hexdigest()[:32])


def test_what_a_merge_keeps_is_worked_out_by_hand_for_adapters_and_for_modules_in_full():
    """bfloat16 has steps of 4 u = 2**-7 above 1: a change of 4 u is kept, 1 u is rounded away, 3 u become 4 u."""
    u = 2.0**-9
    policy = get_peft_model(
        nn.Sequential(OrderedDict(adapted=nn.Linear(3, 1, bias=False), full=nn.Linear(3, 1, bias=False))),
        LoraConfig(r=1, lora_alpha=2, target_modules=["adapted"], modules_to_save=["full"]),
    )
    full = policy.base_model.model.full
    with torch.no_grad():
        adapted = policy.base_model.model.adapted
        adapted.base_layer.weight.fill_(1.0)
        adapted.lora_A["default"].weight.copy_(torch.tensor([[2.0, 0.5, 0.5]]) * u)  # times lora_alpha / r = 2
        adapted.lora_B["default"].weight.fill_(1.0)
        full.original_module.weight.fill_(1.0)
        full.modules_to_save["default"].weight.copy_(1.0 + torch.tensor([[3.0, 1.0, 0.0]]) * u)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    kept = movement_kept(policy, torch.bfloat16)
    assert kept == {
        "weights_with_adapters": pytest.approx((4 * 4 + 0 * 1 + 0 * 1) / (16 + 1 + 1)),
        "modules_trained_in_full": pytest.approx((4 * 3 + 0 * 1) / (9 + 1)),
    }
    assert movement_kept(policy, torch.float32) == {"weights_with_adapters": 1.0, "modules_trained_in_full": 1.0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    merged = policy.merge_and_unload().adapted.weight.to(torch.bfloat16)
    assert merged.tolist() == [[1.0 + 4 * u, 1.0, 1.0]]
    assert movement_kept(nn.Linear(2, 2), torch.bfloat16) == {}
