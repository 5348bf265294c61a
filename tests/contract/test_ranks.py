"""Several processes train as one: every gradient of every step is the same, whatever way they hold the policy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import rank_trainings as small

ROOT = Path(__file__).parents[2]
MOST = 1e-5
"""Difference of a gradient, relative to its tensor's largest number."""

Asked = tuple[str, int, dict[str, Any]]
ONE: Asked = ("one", 1, {"max_steps": 2})


def trained(folder: Path, *asked: Asked) -> dict[str, list[str]]:
    """Each training by its name, and what its processes said."""
    done = subprocess.run(
        [sys.executable, small.__file__, str(folder), json.dumps(asked)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(folder: Path, name: str, other: str, steps: int) -> None:
    """The same gradients at every step, and the same numbers."""
    for step in range(steps):
        ours, theirs = (load_file(folder / f"{one}-gradients-{step}.safetensors") for one in (name, other))
        assert ours.keys() == theirs.keys() != set()
        for tensor in theirs:
            largest = theirs[tensor].abs().max()
            assert (ours[tensor] - theirs[tensor]).abs().max() <= MOST * largest, (step, tensor)
    for line, expected in zip(lines(folder / name), lines(folder / other), strict=True):
        assert line.keys() == expected.keys()
        for key, value in expected.items():
            assert line[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_two_processes_train_as_one_and_an_error_of_one_ends_both(tmp_path: Path):
    two = {"max_steps": 2}
    said = trained(
        tmp_path, ONE, ("ddp", 2, two), ("fsdp2", 2, {**two, "parallel": "fsdp2"}), ("bad", 2, {**two, "bad": 8})
    )
    assert said["one"] == [""]
    assert said["ddp"] == said["fsdp2"] == ["", ""]
    for name in ("ddp", "fsdp2"):
        assert_same(tmp_path, name, "one", 2)
        assert {p.name for p in (tmp_path / name).iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
        adapter, expected = (load_file(tmp_path / n / "adapter_model.safetensors") for n in (name, "one"))
        assert {n: t.shape for n, t in adapter.items()} == {n: t.shape for n, t in expected.items()}
    first, second = sorted(said["bad"])
    assert first.startswith("RankError: rank ") and first.endswith("failed"), said
    assert second.startswith("TrainingError: the loss is not finite at step") and "'p8'" in second
