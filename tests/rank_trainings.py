"""A small training by one process and by several on gloo, and what each left: gradients of every step, and its folder.

Run as a program: it imports once, and forks every process of every training that it is asked for.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from pairsight.engine.progress import Progress
from pairsight.errors import PairsightError, RankError
from pairsight.images.source import FileImages
from pairsight.records import PreferencePair
from pairsight.training.loop import Loop
from pairsight.training.ranks.world import Replica
from pairsight.training.trainer import PreferenceTrainer
from preference_pairs import base, pair

OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "max_steps": 3,
    "warmup_ratio": 0.0,
    "save_steps": 1,
    "report_to": (),
    "lora_r": 4,
    "lora_alpha": 8.0,
    "max_tokens_per_pass": 64,
}
FULL = {"tuning": "full", "learning_rate": 2e-4}
OPEN = {"projector_learning_rate": 1e-4}
COUPLED = {"beta": 5.0, "max_steps": 3}
"""For losses with running numbers, which are 0 after the first step and hardly matter at a small beta."""
NUM_PAIRS = 10
BATCH = 4
LONG = 12
"""How often something is added to a long prompt."""


def pairs(images: FileImages, bad: int | None = None, text_only: bool = False) -> list[PreferencePair]:
    """The examples: the weight of pair `bad` is not a number; every second prompt may be without its image.

    Every third prompt is as long as several others, so that processes have other numbers of examples and of passes.
    """
    made = [pair(images, number) for number in range(NUM_PAIRS)]
    for number in range(0, NUM_PAIRS, 3):
        (message,) = made[number].prompt.messages
        long = replace(message, text=message.text + " Look closely." * LONG)
        made[number] = replace(made[number], prompt=replace(made[number].prompt, messages=(long,)))
    if bad is not None:
        made[bad] = replace(made[bad], weight=float("nan"))
    if text_only:
        for number in range(0, NUM_PAIRS, 2):
            plain = tuple(replace(message, images=()) for message in made[number].prompt.messages)
            made[number] = replace(made[number], prompt=replace(made[number].prompt, messages=plain))
    return made


class StoppedError(Exception):
    """Stands for a kill of all processes."""


def complete(gradient: torch.Tensor) -> torch.Tensor:
    """A gradient of which each process may hold a part; all call it together."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient.clone()


def gradients(replica: Replica) -> dict[str, torch.Tensor]:
    """All complete gradients by name."""
    named = [(name, p) for name, p in replica.policy.named_parameters() if p.requires_grad]
    if type(replica).__name__ != "Zero":
        return {name: complete(p.grad) for name, p in named if p.grad is not None}
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p).clone() for name, p in named}


@contextmanager
def recorded(out: Path, stop: int | None) -> Iterator[None]:
    """Write the complete gradients of every step to `OUT-gradients-STEP.safetensors`, as they are before clipping.

    The number of passes that counted in each step of a process are added to `OUT-passes-RANK`.

    All processes stop together before step `stop`, as if by a kill.
    """
    real = Loop.training_step

    def step(self: Loop, *arguments: Any) -> torch.Tensor:
        if self.state.global_step == stop:
            raise StoppedError
        loss = real(self, *arguments)
        if self.accelerator.sync_gradients:
            found = gradients(self.replica)
            with out.with_name(f"{out.name}-passes-{self.replica.world.rank}").open("a") as passes:
                passes.write(f"{len(self._global_batch.results)}\n")
            if self.replica.world.first:
                save_file(found, out.with_name(f"{out.name}-gradients-{self.state.global_step}.safetensors"))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "training_step", step)
        yield


def train(folder: Path, out: Path, ranks: int, options: dict[str, Any]) -> Path:
    """The training of one process."""
    given, images = dict(options), FileImages(folder / "images")
    stop = given.pop("stop", None)
    examples = pairs(images, given.pop("bad", None), given.pop("text_only", False))
    merged = {**OPTIONS, "per_device_train_batch_size": BATCH // ranks, **given}
    if not merged.get("share_prefixes", True):
        del merged["max_tokens_per_pass"]
    if merged.get("tuning") == "full":
        merged = {name: value for name, value in merged.items() if not name.startswith("lora")}
    made = PreferenceTrainer(folder / "model", out=out, images=images, progress=Progress("quiet"), **merged)
    with recorded(out, stop):
        return made.train(examples)


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a launcher sets."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def forked(folder: Path, out: Path, ranks: int, options: dict[str, Any]) -> list[str]:
    """Train in forked processes; for each, "" or the error that it ended by."""
    port, children = free_port(), []
    for rank in range(ranks):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = ""
            try:
                if ranks > 1:
                    os.environ |= environment(rank, ranks, port)
                train(folder, out, ranks, options)
            except StoppedError:
                said = ""
            except PairsightError as error:
                said = "" if isinstance(error, RankError) and "stop" in options else f"{type(error).__name__}: {error}"
            except BaseException:  # noqa: BLE001 - a child must not return into its parent's program
                said = traceback.format_exc()
            os.write(write, said.encode())
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    said = []
    for pid, read in children:
        with os.fdopen(read, "rb") as pipe:
            said.append(pipe.read().decode())
        os.waitpid(pid, 0)
    return said


if __name__ == "__main__":
    where, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    made = where / "base" if (where / "base").exists() else base(where / "base")
    for name, ranks, options in asked:
        print(json.dumps([name, forked(made, where / name, ranks, options)]), flush=True)
