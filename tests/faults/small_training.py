"""A small training of every kind, for tests that stop it: a tiny LLaVA, six images, twelve pairs.

Run as a program it kills itself at every point it is asked for, resumes, and prints what it found as JSON lines; it
forks after its imports, so that a kill costs no start.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft.peft_model
import pytest
import safetensors.torch
import torch
import transformers.modeling_utils
from crash_points import crash_at

from pairsight.engine.progress import Progress
from pairsight.images.source import FileImages
from pairsight.training import trainer
from pairsight.training.adapter import merged_model
from pairsight.training.loop import Loop
from pairsight.training.trainer import PreferenceTrainer
from preference_pairs import base, pair

STEPS = 4
"""Three steps are an epoch, so the last checkpoint lies inside the second one."""
OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
    "max_steps": STEPS,
    "warmup_ratio": 0.0,
    "save_steps": 1,
    "save_total_limit": 1,
    "report_to": (),
}
_LORA = {"lora_r": 4, "lora_alpha": 8.0}
_FULL = {"tuning": "full", "learning_rate": 2e-3}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": _FULL,
    "lora and projector": {"projector_learning_rate": 1e-3},
    "lora and vision": {"vision_learning_rate": 1e-3},
    "full, projector and vision": {**_FULL, "projector_learning_rate": 1e-3, "vision_learning_rate": 1e-3},
    "kto": {"loss": "kto"},
    "mpo": {"loss": "mpo"},
    "dropout, accumulation": {
        "lora_dropout": 0.3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
    "lora and projector in bf16": {"projector_learning_rate": 1e-3, "bf16": True},
    "full in bf16": {**_FULL, "bf16": True},
    "held out": {"eval_fraction": 0.34, "eval_steps": 1, "early_stopping_patience": 3},
}

FILES = (
    (torch, "save"),
    (safetensors.torch, "save_file"),
    (peft.peft_model, "safe_save_file"),
    (transformers.modeling_utils, "safe_save_file"),
)
"""What writes weights and states: points of their own."""


def train(base_folder: Path, out: Path, kind: str, **options: Any) -> Path:
    """The whole training, from wherever it was left."""
    images = FileImages(base_folder / "images")
    made = PreferenceTrainer(
        base_folder / "model",
        out=out,
        images=images,
        progress=Progress("quiet"),
        **{**OPTIONS, **({} if "tuning" in KINDS[kind] else _LORA), **KINDS[kind], **options},
    )
    return made.train([pair(images, number) for number in range(12)])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a finished training."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(file).items()
    }


def same(folder: Path, other: Path) -> bool:
    """Whether two trainings left the same names and, to the bit, the same tensors."""
    ours, theirs = weights(folder), weights(other)
    return bool(ours) and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Stopped(BaseException):
    """Stands for a kill: nothing of ours may catch it."""


def stopped_at(step: int, base_folder: Path, out: Path, kind: str, **options: Any) -> None:
    """Train until `step` steps are done and saved, then stop; STEPS: before the final weights are written."""
    real = Loop.training_step

    def until(self: Loop, *arguments: Any) -> torch.Tensor:
        if self.state.global_step == step:
            raise Stopped
        return real(self, *arguments)

    def not_written(*_arguments: Any) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "training_step", until)
        patch.setattr(trainer, "write_adapter", not_written)
        train(base_folder, out, kind, **options)


def forked(work: Callable[[], object], point: int | None) -> int:
    """Work in a child that dies at `point`; returns the signal that ended it (0: none)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with crash_at(point, also=FILES):
                work()
            code = 0
        except BaseException:  # noqa: BLE001 - a child must not return into its parent's program
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"failed at point {point}")
    return os.WTERMSIG(status)


def points_of(work: Callable[[], object]) -> list[str]:
    """The points that work passes, done to its end in a child."""
    read, write = os.pipe()

    def count() -> None:
        names: list[str] = []
        with crash_at(None, names, also=FILES):
            work()
        os.write(write, json.dumps(names).encode())

    forked(count, None)
    return list(json.loads(os.read(read, 1 << 20)))


def main(folder: Path, kind: str, start: int, step: int) -> None:
    """Kill at every `step`-th point from `start` on, and resume; one JSON line a point. Kind "merge": of a merge."""
    made, merging = base(folder / "base"), kind == "merge"
    if merging:
        forked(lambda: train(made, folder / "adapter", "lora"), None)

    def work(out: Path) -> Path:
        if not merging:
            return train(made, out, kind)
        if not out.exists():
            shutil.copytree(folder / "adapter", out)
        return merged_model(out, made / "model")

    names = points_of(lambda: work(folder / "whole"))
    print(json.dumps({"points": names}), flush=True)
    inside = "merged" if merging else "."
    for point in range(start, len(names), step):
        out = folder / f"at{point}"
        signal_number = forked(lambda out=out: work(out), point)
        named = (out / inside).exists() if merging else (out / "pairsight.json").exists()
        partial = named and not same(out / inside, folder / "whole" / inside)
        forked(lambda out=out: work(out), None)
        equal = same(out / inside, folder / "whole" / inside)
        found = {"point": point, "signal": signal_number, "equal": equal, "partial": partial}
        print(json.dumps(found), flush=True)
        shutil.rmtree(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
