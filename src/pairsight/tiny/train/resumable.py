"""A loop of training steps that continues where it was cut off."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Stateful(Protocol):
    """What a loop must keep: modules, optimisers, averages."""

    def state_dict(self) -> dict[str, Tensor]:
        """The state, tensors only."""
        ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> Any:
        """Take a state back."""
        ...


def train_steps(
    file: Path, steps: int, kept: Mapping[str, Stateful], step: Callable[[int], None], save_every_s: float = 120.0
) -> None:
    """Call `step(0)` … `step(steps − 1)`, saving what is kept every `save_every_s` seconds and at the end.

    A step's random numbers must depend on its index alone; then a loop that was cut off ends as one that was not, up
    to the rounding of a sum whose order may differ.

    Args:
        file: the checkpoint, safetensors; read if it exists.
        steps: how many in all.
        kept: what the steps change, by name.
        step: one training step.
    """
    first = _restore(file, kept)
    saved = time.monotonic()
    for index in range(first, steps):
        step(index)
        if time.monotonic() - saved > save_every_s:
            _save(file, index + 1, kept)
            saved = time.monotonic()
    if first < steps:
        _save(file, steps, kept)


def step_generator(seed: int, step: int) -> torch.Generator:
    """torch's random numbers of one step."""
    return torch.Generator().manual_seed(1_000_003 * seed + step)


class Averages:
    """Exponential averages of weights: a ← decay·a + (1 − decay)·w, the decay rising to its end as (1 + n) / (10 + n).

    Args:
        weights: what is averaged.
        decay: its end, below 1.
    """

    def __init__(self, weights: list[torch.nn.Parameter], decay: float) -> None:
        self._weights = weights
        self._decay = decay
        self._values = [weight.detach().clone() for weight in weights]

    def follow(self, step: int) -> None:
        """Take step number `step` (from 0) into the averages."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._values, [weight.detach() for weight in self._weights], 1 - decay)

    def copy_to_weights(self) -> None:
        """Leave the averages in the weights."""
        with torch.no_grad():
            for weight, value in zip(self._weights, self._values, strict=True):
                weight.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by index."""
        return {str(index): value for index, value in enumerate(self._values)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take averages back."""
        for index, value in enumerate(self._values):
            value.copy_(state[str(index)])


def _restore(file: Path, kept: Mapping[str, Stateful]) -> int:
    if not file.is_file():
        return 0
    tensors = load_file(file)
    for name, one in kept.items():
        start = f"{name}/"
        one.load_state_dict({key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)})
    return int(tensors["steps"])


def _save(file: Path, done: int, kept: Mapping[str, Stateful]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    states = {name: one.state_dict() for name, one in kept.items()}
    tensors = {f"{name}/{key}": value.contiguous() for name, state in states.items() for key, value in state.items()}
    part = file.with_suffix(".part")
    save_file({"steps": torch.tensor(done), **tensors}, part)
    part.replace(file)


Log = Callable[[str], None]


def start_log() -> Log:
    """A function that prints a line after the seconds since this call."""
    start = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {line}", flush=True)

    return log


_WARM_UP = 0.05


class Stepper:
    """AdamW over groups with their own peak rates; a step is backward, clipping at 1.0, update and schedule."""

    def __init__(self, groups: Sequence[dict[str, Any]], steps: int) -> None:
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
        self._rate: Callable[[int], float] = lambda done: rate(done, steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._rate)

    def step(self, loss: Tensor) -> None:
        """Update the weights once."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self._optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self._optimiser.step()
        self._schedule.step()

    def state_dict(self) -> dict[str, Tensor]:
        """The step of the schedule, and each parameter's moments by its index."""
        state = {"done": torch.tensor(self._schedule.last_epoch)}
        for index, parameter in enumerate(self._parameters()):
            state |= {f"{index}.{name}": value for name, value in self._optimiser.state[parameter].items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        for index, parameter in enumerate(self._parameters()):
            own = {name.partition(".")[2]: value for name, value in state.items() if name.startswith(f"{index}.")}
            self._optimiser.state[parameter] = own
        done = int(state["done"])
        self._schedule.last_epoch = done
        for group, peak in zip(self._optimiser.param_groups, self._schedule.base_lrs, strict=True):
            group["lr"] = peak * self._rate(done)

    def _parameters(self) -> list[Any]:
        return [parameter for group in self._optimiser.param_groups for parameter in group["params"]]


def rate(done: int, steps: int) -> float:
    """The share of the peak rate after `done` of `steps`: up over the first 5 %, then half a cosine down to 2 %."""
    warm = max(1, round(_WARM_UP * steps))
    if done < warm:
        return (done + 1) / warm
    progress = (done - warm) / max(1, steps - warm)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
