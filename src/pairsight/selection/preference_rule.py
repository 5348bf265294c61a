"""The preference rule of AI feedback: the best-scored completion over one that is clearly worse.

Source: Li et al. 2402.10884, §3.2: Q = helpfulness + correctness + coherence; chosen = argmax Q; rejected = a random
completion with Q ≤ max − 2; no such completion, no pair.
"""

from typing import ClassVar, Literal

from pydantic import Field

from pairsight.records import Candidates, Completion
from pairsight.seeds import derived_seed
from pairsight.selection.strategy import QUALITY, Chosen, Strategy, best, normalised, scored_completions


class PreferenceRule(Strategy):
    """Pairs from annotated completions. Drops: `too_few_scored`, `margin`, `identical`."""

    name: ClassVar[str] = "preference_rule"

    weights: dict[str, float] = Field(dict(QUALITY), min_length=1, description="attribute -> its weight in the total")
    min_margin: float = Field(2.0, gt=0.0, description="by how much the rejected total must be lower")
    rejected: Literal["seeded", "lowest"] = Field("seeded", description="which of the worse ones is taken")
    seed: int = Field(0, ge=0, description="the seed of the draw")

    def __call__(self, candidates: Candidates) -> Chosen:
        """One pair, or why there is none."""
        scored = scored_completions(candidates, self.weights)
        if len(scored) < 2:
            return self.too_few_scored(candidates, len(scored))
        chosen, highest = best(scored)
        worse = [one for one in scored if one[1] <= highest - self.min_margin]
        if not worse:
            totals = ", ".join(f"{total:g}" for _, total in scored)
            return self.drop(candidates, "margin", f"totals {totals}: none is {self.min_margin:g} below the best")
        worse = [one for one in worse if normalised(one[0].text) != normalised(chosen.text)]
        if not worse:
            return self.drop(candidates, "identical", f"the worse ones say the same as the best: {chosen.text:.60}")
        rejected = self._draw(candidates, worse)
        return self.scored_pair(candidates, chosen, rejected)

    def _draw(self, candidates: Candidates, worse: list[tuple[Completion, float]]) -> Completion:
        if self.rejected == "lowest":
            return min(worse, key=lambda one: one[1])[0]
        return worse[derived_seed(self.name, self.seed, candidates.prompt.id) % len(worse)][0]
