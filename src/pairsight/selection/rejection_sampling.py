"""Rejection sampling: imitate the best-scored completion of each prompt (Li et al. 2402.10884, §3.3)."""

from typing import ClassVar

from pydantic import Field

from pairsight.records import Candidates, Demonstration
from pairsight.selection.strategy import QUALITY, Chosen, Strategy, best, scored_completions


class RejectionSampling(Strategy):
    """One demonstration per prompt, without a margin. Drops: `too_few_scored`, `below_min_total`."""

    name: ClassVar[str] = "rejection_sampling"
    makes_demonstrations: ClassVar[bool] = True

    weights: dict[str, float] = Field(dict(QUALITY), min_length=1, description="attribute -> its weight in the total")
    min_total: float | None = Field(None, description="lowest total that is kept; 12 keeps perfect ones only")

    def __call__(self, candidates: Candidates) -> Chosen:
        """The best completion as a demonstration, or why there is none."""
        scored = scored_completions(candidates, self.weights)
        if not scored:
            return self.too_few_scored(candidates, 0)
        completion, total = best(scored)
        if self.min_total is not None and total < self.min_total:
            return self.drop(candidates, "below_min_total", f"the best total is {total:g}, not {self.min_total:g}")
        return [Demonstration(completion.id, candidates.prompt, completion, self.name)]
