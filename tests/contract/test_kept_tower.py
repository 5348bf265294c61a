"""A trained projector is computed from what the frozen tower gave once: equal features and gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import families
from pairsight.images.source import FileImages
from pairsight.models.load import load_model
from pairsight.models.local.processor import load_processor
from pairsight.records import Message, Prompt
from pairsight.training.config import TrainingConfig
from pairsight.training.families import describe, inner_model
from pairsight.training.policy import make_policy, open_parts
from pairsight.training.vision.tower import Features
from pairsight.training.vision.units import ImageUnits, TextEncoder

CONFIG = TrainingConfig(projector_learning_rate=1e-4, lora_r=2)


def size_of(features: list[Features]) -> torch.Tensor:
    return sum(t.square().sum() for f in features for t in (f.embeddings, *f.deepstack))


@pytest.mark.parametrize("name", families.IMAGE_FAMILIES)
def test_the_projector_on_a_kept_tower_is_the_whole(name: str, tmp_path: Path):
    families.build(name, tmp_path / "model")
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0)
    for number, size in enumerate([(28, 28), (40, 28), (28, 60)]):
        Image.fromarray(pixels.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"images/{number}.png")
    images = FileImages(tmp_path / "images")
    model = load_model(tmp_path / "model", dtype="float32", device="cpu")
    processor = load_processor(tmp_path / "model")
    units = ImageUnits(TextEncoder(processor, images), describe(model).placeholder, 64)
    for number in range(3):
        units.add(Prompt(str(number), (Message("user", "What?", (images.ref(f"{number}.png"),)),)))
    names = open_parts(model, CONFIG)["projector"]
    policy = make_policy(model, CONFIG)
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad and "lora_" not in n}
    assert trained
    runs = []
    inner = inner_model(policy)
    first = next(m for n, m in inner.named_modules() if (n.rsplit(".", 1)[-1] == "0" and "lay" in n) or "blocks.0" in n)
    real = first.forward

    def counted(*arguments, **options):
        runs.append(1)
        return real(*arguments, **options)

    first.forward = counted
    whole = [units.features(policy, [n], frozen=False)[0] for n in range(3)]
    gradients = torch.autograd.grad(size_of(whole), list(trained.values()))
    count = len(runs)
    assert count >= 3
    for _ in range(2):  # the second time without the tower
        kept = units.features(policy, [0, 1, 2], frozen=False, projectors=names)
        own = torch.autograd.grad(size_of(kept), list(trained.values()))
    assert len(runs) == 2 * count
    for one, other in zip(whole, kept, strict=True):
        torch.testing.assert_close(other.embeddings, one.embeddings, rtol=0, atol=0)
        assert other.listed == one.listed
        torch.testing.assert_close(other.deepstack, one.deepstack, rtol=0, atol=0)
    torch.testing.assert_close(own, gradients)
    assert first.forward is counted
