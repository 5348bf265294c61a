"""AdamW with a linear warm-up and a cosine decay, counted in steps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
        """The place in the schedule, and each parameter's moments by its place."""
        state = {"done": torch.tensor(self._schedule.last_epoch)}
        for place, parameter in enumerate(self._parameters()):
            state |= {f"{place}.{name}": value for name, value in self._optimiser.state[parameter].items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        for place, parameter in enumerate(self._parameters()):
            own = {name.partition(".")[2]: value for name, value in state.items() if name.startswith(f"{place}.")}
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
