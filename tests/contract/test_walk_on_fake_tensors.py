"""Three published models' steps on tensors without values: types, masters, and no tensor that must never be made."""

from pathlib import Path

import pytest
import torch

import true_shapes
from cuda_walk import Walked, walk


def check(found: Walked) -> None:
    for part, seen in found.parts.items():
        assert set(seen.products) == {torch.bfloat16}, (part, seen.wide)
        assert not seen.waits, part
    assert set(found.trained) == set(found.gradients) == {torch.float32}
    assert found.trained == found.gradients
    for part in ("reference", "step, forward", "step, backward"):
        elements, shape = found.parts[part].largest
        assert elements < found.tokens * found.vocabulary, shape
        assert shape.count(found.row) < 2, shape


@pytest.mark.parametrize(
    "name", [name if name == "llava" else pytest.param(name, marks=pytest.mark.long) for name in true_shapes.NAMES]
)
def test_a_step_is_in_bfloat16_with_float32_masters(name: str, tmp_path: Path):
    true_shapes.build(name, tmp_path, layers=2)
    check(walk(tmp_path, "cpu", backward=True))


@pytest.mark.long
@pytest.mark.parametrize("name", true_shapes.NAMES)
def test_a_step_at_true_size(name: str, tmp_path: Path):
    true_shapes.build(name, tmp_path)
    found = walk(tmp_path, "cpu", backward=True)
    check(found)
    assert found.parameters == true_shapes.PARAMETERS[name]


def test_the_walk_finds_what_it_looks_for(tmp_path: Path):
    true_shapes.build("llava", tmp_path, layers=2)
    found = walk(tmp_path, "cpu", backward=True, bf16=False)
    with pytest.raises(AssertionError, match="vision tower"):
        check(found)
