"""One preference step: some examples' log-probs, beside the reference's, as losses. The same in training and held out.

Shapes: B prompts, K completions, Q sequences.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pairsight.training.objective import Objective, loss_inputs, preference_metrics
from pairsight.training.reference import ReferenceStore, reference_sums
from pairsight.training.scorer import Pass, Scores, SequenceScorer


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a pass gives.

    Args:
        total: its part of the batch's loss; the only part with gradients.
        loss_B: per prompt, to say who is to blame.
        ids: the examples'.
        metrics_B: numbers to log, by name.
        state: running numbers of losses that couple prompts, by name, each [B].
        at_reference: gives the largest loss that the same pass has while the policy is the reference.
    """

    total: Tensor
    loss_B: Tensor
    ids: tuple[str, ...]
    metrics_B: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    at_reference: Callable[[], float]


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

    def run(
        self, model: Any, rows: Pass, state: Mapping[str, float], num_prompts: float, num_tokens: float
    ) -> StepResult:
        """Score a pass and compute its part of the loss of `num_prompts` prompts and `num_tokens` chosen tokens.

        Args:
            model: the policy; differentiable where gradients are on.
            rows: the pass.
            state: running numbers of losses that couple prompts.
            num_prompts, num_tokens: of the whole global batch.
        """
        return self.of_scores(self.scorer.score(model, rows), state, num_prompts, num_tokens)

    def of_scores(
        self, scores: Scores, state: Mapping[str, float], num_prompts: float, num_tokens: float
    ) -> StepResult:
        """The same from log-probs that are there already."""
        examples = [self.scorer.examples[n] for n in scores.examples]
        reference_Q = None if self.reference is None else reference_sums(self.reference, examples)
        x = loss_inputs(examples, scores.sums_Q, reference_Q, state)
        loss = self.objective(x, num_prompts, num_tokens)
        metrics = preference_metrics(x, loss.rewards_BK.detach())
        moved = {name: value_B.detach() for name, value_B in loss.state.items()}
        ids = tuple(e.id for e in examples)
        return StepResult(loss.total, loss.loss_B, ids, metrics, moved, lambda: self.objective.at_reference(x))
