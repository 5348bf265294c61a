"""Several processes train as one: every gradient of every step is the same, whatever way they hold the policy."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import rank_trainings as small
from made_tables import pairs_table
from pairsight.images.source import FileImages

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
        first, second = ((tmp_path / f"{name}-passes-{rank}").read_text() for rank in range(2))
        assert first != second, "their numbers of passes differ"
        assert {p.name for p in (tmp_path / name).iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
        adapter, expected = (load_file(tmp_path / n / "adapter_model.safetensors") for n in (name, "one"))
        assert {n: t.shape for n, t in adapter.items()} == {n: t.shape for n, t in expected.items()}
    first, second = sorted(said["bad"])
    assert first.startswith("RankError: rank ") and first.endswith("failed"), said
    assert second.startswith("TrainingError: the loss is not finite at step") and "'p8'" in second


KINDS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "mdpo": {"loss": "mdpo"},
    "kto": {"loss": "kto", **small.COUPLED},
    "mpo": {"loss": "mpo", **small.COUPLED, "beta": 1.0, **small.OPEN},
    "sft": {"loss": "sft"},
    "full": {**small.FULL},
    "full and projector, prompts without images": {**small.FULL, **small.OPEN, "text_only": True},
    "accumulation": {"gradient_accumulation_steps": 2},
    "one sequence at a time": {"share_prefixes": False, **small.OPEN, "text_only": True},
    "held out": {"eval_fraction": 0.3, "eval_steps": 1, "early_stopping_patience": 3},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["ddp", "fsdp2", "zero2", "zero3"])
def test_every_kind_of_training_is_the_same_by_two_processes(tmp_path: Path, way: str, kind: str):
    if way.startswith("zero"):
        pytest.importorskip("deepspeed")
    options = {"max_steps": 2, **KINDS[kind]}
    said = trained(tmp_path, ("one", 1, options), ("two", 2, {**options, "parallel": way}))
    assert said == {"one": [""], "two": ["", ""]}
    assert_same(tmp_path, "two", "one", options["max_steps"])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dpo", "mpo", "full"])
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_in_bfloat16_two_processes_differ_from_one_as_two_packings_do(tmp_path: Path, way: str, kind: str):
    options = {**KINDS[kind], "max_steps": 1, "bf16": True, "max_tokens_per_pass": 4096}  # so that packings differ
    said = trained(tmp_path, ("one", 1, options), ("two", 2, {**options, "parallel": way}))
    assert said == {"one": [""], "two": ["", ""]}
    ours, theirs = (load_file(tmp_path / f"{one}-gradients-0.safetensors") for one in ("two", "one"))
    assert ours.keys() == theirs.keys() != set()
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    apart, length = (
        sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5
        for tensors in ([ours[name] - theirs[name] for name in theirs], theirs.values())
    )
    assert 0 < apart < 2 * torch.finfo(torch.bfloat16).eps * length


@pytest.mark.long
@pytest.mark.parametrize("way", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_training_goes_on_with_another_number_of_processes(tmp_path: Path, way: str):
    """Two steps by two processes, the third by one; and the other way round."""
    if way.startswith("zero"):
        pytest.importorskip("deepspeed")
    full = {"max_steps": 4}
    parted = {**full, "parallel": way}
    said = trained(
        tmp_path, ("one", 1, full), ("a", 2, {**parted, "stop": 2}), ("b", 1, {**full, "stop": 2}), ("a", 1, full),
        ("b", 2, parted),
    )  # fmt: skip
    assert said == {"one": [""], "a": [""], "b": ["", ""]}
    for name in ("a", "b"):
        ours, theirs = (load_file(tmp_path / one / "adapter_model.safetensors") for one in (name, "one"))
        for tensor in theirs:
            assert (ours[tensor] - theirs[tensor]).abs().max() <= 1e-3 * small.OPTIONS["learning_rate"], tensor


@pytest.mark.long
def test_other_prompts_a_step_on_another_number_of_processes_are_refused(tmp_path: Path):
    said = trained(
        tmp_path, ("a", 1, {"stop": 1}), ("a", 2, {"per_device_train_batch_size": 4}),
        ("a", 2, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}),
    )  # fmt: skip
    assert said == {"a": ["", ""]}, "the last one is the same training"


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_a_killed_process_ends_both_and_the_same_command_resumes(tmp_path: Path, way: str, rank: int):
    base = small.base(tmp_path / "base")
    images = FileImages(base / "images")
    pq.write_table(pairs_table(small.pairs(images), images), tmp_path / "pairs.parquet")
    settings = {**small.OPTIONS, "max_steps": 6, "per_device_train_batch_size": 2, "parallel": way}
    del settings["report_to"]
    asked = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    def align(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pairsight", "align", str(tmp_path / "pairs.parquet"), "--quiet"]
        command += ["--model", str(base / "model"), "--devices", "2", "--out", str(out), *asked]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    undisturbed, killed = align(tmp_path / "undisturbed"), align(tmp_path / "killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 2:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.02)
    ranks = {int(one.environ()["RANK"]): one for one in psutil.Process(killed.pid).children()}
    ranks[rank].kill()
    said = killed.communicate(timeout=120)[1]
    assert killed.returncode == 1
    assert said.count("error: ") == 1, said
    assert undisturbed.wait(timeout=600) == 0
    assert align(tmp_path / "killed").wait(timeout=600) == 0
    ours, theirs = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("killed", "undisturbed"))
    assert ours.keys() == theirs.keys() != set()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
