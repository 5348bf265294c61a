"""The inputs and outputs of a loss, and how it declares what it needs.

Shapes: B prompts, N image sets (0: the prompt's own), K completions (0: chosen, then the rejected).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pairsight.errors import ConfigError

Denominator = Literal["prompt", "token"]
Running = Literal["last", "mean"]


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss may use.

    Args:
        policy_logps_BNK: log-probs of completions (sums over tokens) under the policy; 0 where the mask is False.
        reference_logps_BNK: the same under the reference; None when no loss needs it.
        lengths_BK: completion tokens.
        mask_BNK: where there is a completion; prompts may have different numbers of rejected ones.
        weights_B: the prompts' weights; the trainer applies them, losses may read them.
        state: running numbers that couple prompts, as of the last optimizer step.
    """

    policy_logps_BNK: Tensor
    reference_logps_BNK: Tensor | None
    lengths_BK: Tensor
    mask_BNK: Tensor
    weights_B: Tensor
    state: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """What a loss returns: its value per prompt, implicit rewards, and per-prompt numbers for the running state."""

    loss_B: Tensor
    rewards_BK: Tensor
    state: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What a loss needs of the grid of (images x completions) log-probs.

    Args:
        reference: whether it uses reference log-probs.
        images: image sets: the prompt's own, and contrast images; under those only the chosen completion is scored.
        min_completions: completions an example must have.
        per: what the sum over a batch is divided by: prompts, or tokens of chosen completions.
        running: numbers of its `state` kept from step to step: the last step's mean, or the mean of all steps.
        contrast: the distortion that makes contrast images where the data has none.
        takes_average: whether `average_log_prob` gives it means per token instead of sums.
    """

    reference: bool
    images: int
    min_completions: int
    per: Denominator
    running: Mapping[str, Running]
    contrast: str
    takes_average: bool


LossFunction = Callable[..., LossOutputs]


def loss(
    *name: object,
    reference: bool,
    images: int = 1,
    min_completions: int = 2,
    per: Denominator = "prompt",
    running: Mapping[str, Running] | None = None,
    contrast: str = "",
    takes_average: bool = True,
) -> Callable[[LossFunction], LossFunction]:
    """Mark a function as a loss of the same name, and declare what it needs (see `LossSpec`).

    The trainer reads it from the function's `spec`. `takes_average` is False for a loss that divides by the lengths
    itself, or does not use log-probs; a loss per token never takes averages.

    Raises:
        ConfigError: a name is given.
    """
    if name:
        raise ConfigError(f"@loss takes no name, found {name[0]!r:.60}: a loss has its function's name; leave it out")

    def mark(function: LossFunction) -> LossFunction:
        averages = takes_average and per == "prompt"
        spec = LossSpec(reference, images, min_completions, per, running or {}, contrast, averages)
        function.spec = spec  # type: ignore[attr-defined]
        return function

    return mark


def log_ratios(x: LossInputs) -> Tensor:
    """Δ = log π_θ − log π_ref of every completion, [B, N, K]; 0 where there is none."""
    assert x.reference_logps_BNK is not None
    return (x.policy_logps_BNK - x.reference_logps_BNK).masked_fill(~x.mask_BNK, 0.0)


def mean_over_rejected(values_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """The mean of a per-pair value over a prompt's rejected completions, [B]."""
    return (values_BK * mask_BK).sum(-1) / mask_BK.sum(-1).clamp(min=1)


def per_token(x: LossInputs) -> LossInputs:
    """The same inputs with log-probs divided by the completions' lengths (`average_log_prob`)."""
    lengths_B1K = x.lengths_BK.clamp(min=1)[:, None]
    reference = None if x.reference_logps_BNK is None else x.reference_logps_BNK / lengths_B1K
    return LossInputs(
        x.policy_logps_BNK / lengths_B1K, reference, torch.ones_like(x.lengths_BK), x.mask_BNK, x.weights_B, x.state
    )
