"""One preference step: from log-probs of some examples to losses. The same for training and held-out examples.

Shapes: B prompts, K completions, Q sequences.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from pairsight.errors import TrainingError
from pairsight.training.metrics import preference_metrics
from pairsight.training.objective import Objective, loss_inputs
from pairsight.training.reference import ReferenceStore, reference_sums
from pairsight.training.scorer import Pass, Scores, SequenceScorer

_EXPLODED = 1e4
"""A loss may reach this many times its own scale, which is at least 1."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a pass.

    Args:
        total: its part of the batch's loss; the only part with gradients.
        loss_B: per prompt, to name the examples that cause an error.
        ids: of the examples.
        metrics_B: numbers to log, by name.
        state: running numbers of losses that couple prompts, by name, each [B].
        at_reference: returns the largest loss of the same pass while the policy is the reference.
    """

    total: Tensor
    loss_B: Tensor
    ids: tuple[str, ...]
    metrics_B: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    at_reference: Callable[[], float]

    def detached(self) -> Self:
        """The same without gradients."""
        return replace(self, total=self.total.detach())


@dataclass(frozen=True, slots=True)
class PreferenceStep:
    """From packed rows to a loss.

    Args:
        scorer: the dataset and how to score it.
        objective: the losses.
        reference: log-probs under the reference; None when no loss needs them.
    """

    scorer: SequenceScorer
    objective: Objective
    reference: ReferenceStore | None

    def run(  # noqa: PLR0917
        self,
        packed: nn.Module,
        rows: Pass,
        state: Mapping[str, float],
        num_prompts: float,
        num_tokens: float,
        calls: int = 1,
    ) -> StepResult:
        """Score a pass and compute its part of the loss of `num_prompts` prompts and `num_tokens` chosen tokens.

        Args:
            packed: the policy's `PackedPass`, or what wraps it; differentiable where gradients are on.
            rows: the pass.
            state: running numbers of losses that couple prompts.
            num_prompts, num_tokens: of the full global batch.
            calls: as in `SequenceScorer.score`.
        """
        return self.of_scores(self.scorer.score(packed, rows, calls), state, num_prompts, num_tokens)

    def of_scores(
        self, scores: Scores, state: Mapping[str, float], num_prompts: float, num_tokens: float
    ) -> StepResult:
        """The same from log-probs that were computed already."""
        examples = [self.scorer.examples[n] for n in scores.examples]
        reference_Q = None if self.reference is None else reference_sums(self.reference, examples)
        x = loss_inputs(examples, scores.sums_Q, reference_Q, state)
        loss = self.objective(x, num_prompts, num_tokens)
        metrics = preference_metrics(x, loss.rewards_BK.detach())
        moved = {name: value_B.detach() for name, value_B in loss.state.items()}
        ids = tuple(e.id for e in examples)
        still = replace(x, policy_logps_BNK=x.policy_logps_BNK.detach())
        return StepResult(loss.total, loss.loss_B, ids, metrics, moved, lambda: self.objective.at_reference(still))

    def check(self, results: Sequence[StepResult], step: int) -> None:
        """Stop the training if a loss is not finite or has exploded.

        Args:
            results: of some passes; their losses are copied from the device at once.
            step: the optimizer step.

        Raises:
            TrainingError: with the ids of the examples that caused it.
        """
        losses = torch.cat([result.loss_B for result in results]).tolist()
        ids = [name for result in results for name in result.ids]
        if bad := [name for name, value in zip(ids, losses, strict=True) if not math.isfinite(value)]:
            raise TrainingError(f"the loss is not finite at step {step} for {some(bad)}")
        largest, worst = max((abs(value), -index) for index, value in enumerate(losses))
        if largest > _EXPLODED and self.objective.needs_reference:
            scale = max(result.at_reference() for result in results)
            if largest > _EXPLODED * scale:
                raise TrainingError(
                    f"the loss exploded to {largest:.3g} at step {step} for '{ids[-worst]}'; lower learning_rate"
                )


def some(ids: Sequence[str]) -> str:
    """The first of some ids, and how many more there are, for a message."""
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(f"'{i}'" for i in ids[:5]) + more
