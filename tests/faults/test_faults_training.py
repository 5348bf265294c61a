"""A training that was killed, or whose checkpoints were damaged, ends in the same weights."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_training
import torch
from safetensors.torch import load_file
from small_training import KINDS, STEPS, Stopped, same, stopped_at, train

from pairsight.errors import LockedError, RunError
from pairsight.store import durable
from pairsight.store.run_folder import RunFolder
from pairsight.training import examples
from pairsight.training.data.held_out import HeldOut
from pairsight.training.loop import Loop


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_training.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory):
    """The uninterrupted training of a kind, made once."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = train(base, tmp_path_factory.mktemp("whole") / "out", kind)
        return made[kind]

    return of


SHORT = {"lora and projector", "full"}


@pytest.mark.parametrize(
    "kind", [kind if kind in SHORT else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]
)
def test_a_training_stopped_after_every_checkpoint_ends_in_the_same_weights(base, whole, tmp_path, kind):
    for step in range(1, STEPS + 1):
        stopped_at(step, base, tmp_path / "out", kind)
    out = train(base, tmp_path / "out", kind)
    assert same(out, whole(kind))
    assert _losses(out) == _losses(whole(kind))
    assert (out / "training.json").read_bytes() == (whole(kind) / "training.json").read_bytes()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_comparison_would_notice_a_step_that_is_missing(base, whole, tmp_path, kind):
    shorter = train(base, tmp_path / "out", kind, max_steps=STEPS - 1, lr_scheduler_type="constant")
    assert not same(shorter, whole(kind))


def test_a_full_training_stopped_after_its_last_checkpoint_is_no_base(base, tmp_path):
    stopped_at(STEPS, base, tmp_path / "out", "full")
    ours = load_file(train(base, tmp_path / "out", "full") / "model.safetensors")
    theirs = load_file(base / "model" / "model.safetensors")
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_trainings_of_one_run_cannot_write_one_folder(base, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", {"recipe": "none"})
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    refused: list[str] = []
    real = Loop.training_step

    def with_another_beside_it(self, *arguments):
        if not refused:
            with pytest.raises(LockedError) as found:
                train(base, tmp_path / "link", "lora", run=run.path, name="second")
            refused.append(str(found.value))
        return real(self, *arguments)

    monkeypatch.setattr(Loop, "training_step", with_another_beside_it)
    out = train(base, tmp_path / "out", "lora", run=run.path, name="first")
    assert f"process {os.getpid()} on" in refused[0]
    assert (out / "adapter_model.safetensors").is_file()


def test_a_training_that_stopped_early_takes_no_further_step_when_it_goes_on(base, tmp_path, monkeypatch):
    monkeypatch.setattr(HeldOut, "should_stop", lambda self, model, step, metrics: step == 2)
    expected = train(base, tmp_path / "whole", "held out")
    stopped_at(STEPS, base, tmp_path / "out", "held out")
    assert same(train(base, tmp_path / "out", "held out"), expected)
    assert [step for step, _ in _losses(tmp_path / "out")] == [1, 2]


@pytest.mark.parametrize("kind", ["lora and projector in bf16", "full in bf16"])
def test_a_checkpoint_in_bf16_holds_the_weights_in_float32(base, tmp_path, kind):
    stopped_at(1, base, tmp_path / "out", kind)
    kept = load_file(tmp_path / "out" / "checkpoints" / "checkpoint-1" / "weights.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in kept.values())


@pytest.mark.parametrize("limit", [1_000, 30_000], ids=["first file", "optimizer"])
def test_a_disk_that_takes_no_more_is_one_line_and_the_training_goes_on_later(base, whole, tmp_path, limit):
    own = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, own[1]))
    try:
        with pytest.raises(RunError, match=r"^cannot write [^\n]*which continues from here$"):
            train(base, tmp_path / "out", "lora")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, own)
    assert same(train(base, tmp_path / "out", "lora"), whole("lora"))


@pytest.mark.parametrize(
    "step", [*(pytest.param(s, marks=pytest.mark.long) for s in ("sync", "sync_folder")), "replace"]
)
def test_a_training_stopped_while_its_tokens_are_written_goes_on(base, whole, tmp_path, monkeypatch, step):
    real, out = getattr(durable, step), tmp_path / "out"

    def stop(*arguments):
        if list(out.glob("tokens/.*.tmp")) or list(out.glob("tokens/*.safetensors")):
            raise Stopped
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(durable, step, stop)
        train(base, out, "lora")
    assert len(list((out / "tokens").iterdir())) == 1
    assert same(train(base, out, "lora"), whole("lora"))
    assert [path.suffix for path in (out / "tokens").iterdir()] == [".safetensors"]


def test_tokens_are_made_once_and_a_damaged_file_of_them_again(base, whole, tmp_path, monkeypatch, caplog):
    made = []
    real = examples.prepare
    monkeypatch.setattr(examples, "prepare", lambda *arguments: made.append(1) or real(*arguments))
    stopped_at(1, base, tmp_path / "out", "lora")
    (file,) = (tmp_path / "out" / "tokens").iterdir()
    data = file.read_bytes()
    stopped_at(2, base, tmp_path / "out", "lora")
    assert made == [1]
    file.unlink()  # what is mapped into memory is not cut short below its readers
    file.write_bytes(data[: len(data) // 2])
    assert same(train(base, tmp_path / "out", "lora"), whole("lora"))
    assert "its examples are tokenised again" in caplog.text
    assert file.read_bytes() == data
    assert made == [1, 1]


def test_two_trainings_of_one_run_share_its_tokens_and_references(base, whole, tmp_path):
    run = RunFolder.create(tmp_path / "run", {"recipe": "none"})
    children = []
    for name in ("first", "second"):
        if not (pid := os.fork()):
            code = 1
            try:
                train(base, run.align(name), "lora", run=run.path, name=name)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert same(run.align("first"), whole("lora")) and same(run.align("second"), whole("lora"))
    assert len(list((run.path / "tokens").iterdir())) == 1
    assert len(list((run.path / "references").iterdir())) == 1


def _losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def sweep(tmp_path: Path, kind: str, start: int, step: int) -> None:
    here = Path(__file__).parent
    command = [sys.executable, str(here / "small_training.py"), str(tmp_path), kind, str(start), str(step)]
    paths = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    first, *points = [json.loads(line) for line in done.stdout.splitlines()]
    assert points
    for found in points:
        where = f"killed {first['points'][found['point']]} (point {found['point']} of {len(first['points'])})"
        assert found["signal"] == signal.SIGKILL, where
        assert found["equal"], f"{where}: the resumed training has other weights"
        assert not found["partial"], f"{where}: it counted as finished before it was"


@pytest.mark.long
def test_a_merge_killed_at_every_point_is_complete_or_absent(tmp_path):
    sweep(tmp_path, "merge", start=0, step=2)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_killed_at_any_point_ends_in_the_same_weights(tmp_path, kind):
    sweep(tmp_path, kind, start=0, step=3 if kind == "lora" else 13)
