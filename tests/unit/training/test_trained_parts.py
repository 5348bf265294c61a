"""Exactly the parts that were asked for are trained, at their own rates, in every family, and the result loads."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

import families
from pairsight.engine.progress import Progress
from pairsight.models.load import load_model
from pairsight.training.trainer import PreferenceTrainer

RATES = {"projector": 1e-4, "vision": 1e-5}
BOTH = ("projector", "vision")
SHORT = {
    ("llava", BOTH, "lora"), ("qwen2_5_vl", ("vision",), "lora"), ("qwen3_vl", BOTH, "full"),
}  # fmt: skip


def cases() -> list:
    every = [
        (family, parts, tuning)
        for family in families.IMAGE_FAMILIES
        for parts in (("projector",), ("vision",), BOTH)
        for tuning in ("lora", "full")
    ]
    return [pytest.param(*one, marks=() if one in SHORT else pytest.mark.long) for one in every]


def part_of(name: str) -> str:
    """By the names that the families' own code gives to its modules."""
    if any(word in name for word in ("merger", "projector", "connector")):
        return "projector"
    return "vision" if "vision" in name or "visual" in name else "language"


def trained(family: str, parts, tuning: str, small, tmp_path: Path, **options) -> tuple[Path, Path]:
    base = families.build(family, tmp_path / family)
    rates = {f"{part}_learning_rate": RATES[part] for part in parts}
    adapters = {"lora_r": 2} if tuning == "lora" else {}
    trainer = PreferenceTrainer(
        base, out=tmp_path / "out", images=small.images, progress=Progress("quiet"), tuning=tuning, learning_rate=1e-3,
        lr_scheduler_type="constant", warmup_ratio=0.0, max_steps=1, per_device_train_batch_size=3, report_to=(),
        **adapters, **rates, **options,
    )  # fmt: skip
    return base, trainer.train(small.pairs(3))


@pytest.mark.parametrize(("family", "parts", "tuning"), cases())
def test_exactly_the_parts_asked_for_move_at_their_rates(small, tmp_path, family, parts, tuning):
    base, out = trained(family, parts, tuning, small, tmp_path)
    before = AutoModelForImageTextToText.from_pretrained(base).state_dict()
    if tuning == "full":
        after = AutoModelForImageTextToText.from_pretrained(out)
    else:
        load_model(base, adapter=out)
        after = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), out).merge_and_unload()
    moved = {"projector": 0.0, "vision": 0.0, "language": 0.0}
    for name, tensor in after.state_dict().items():
        part = part_of(name)
        moved[part] = max(moved[part], float((tensor - before[name]).abs().max()))
    for part, rate in RATES.items():  # Adam's first step moves every weight that has a gradient by its rate
        assert moved[part] == pytest.approx(rate if part in parts else 0.0, rel=0.05), part
    assert moved["language"] > 0


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name == "smolvlm" else pytest.mark.long) for name in families.IMAGE_FAMILIES],
)
def test_a_trained_tower_in_bfloat16_is_used_as_it_was_trained(small, tmp_path, family):
    base, out = trained(family, BOTH, "lora", small, tmp_path, bf16=True)
    model = load_model(base, adapter=out, dtype="bfloat16")
    types = {part: set() for part in ("projector", "vision", "language")}
    for name, parameter in model.named_parameters():
        if "original_module" not in name and "lora" not in name:
            types[part_of(name)].add(parameter.dtype)
    assert (types["projector"], types["vision"]) == ({torch.float32}, {torch.float32})
    assert types["language"] == {torch.bfloat16}
    assert model.dtype == torch.bfloat16
