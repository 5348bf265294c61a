"""The rule of reward models: the best-scored completion over the worst (2412.17417, eq. 10)."""

from itertools import permutations
from typing import ClassVar

from pydantic import Field

from pairsight.formats.tables import num_words
from pairsight.records import Candidates, Completion
from pairsight.selection.strategy import Chosen, Strategy, normalised

Scored = tuple[Completion, float]


class BestOverWorst(Strategy):
    """Pairs from scored completions; of equal scores the first counts.

    Drops: `too_few_scored`, `length` (no two are of similar length), `tie` (all scores equal), `gap`, `threshold`,
    `identical`.
    """

    name: ClassVar[str] = "best_over_worst"

    scorer: str | None = Field(None, description="whose scores count; default: the first scorer's")
    column: str | None = Field(None, description="which of its columns; default: the first")
    min_gap: float = Field(0.0, ge=0.0, description="by how much the scores must differ; 0: by any amount")
    min_chosen: float | None = Field(None, description="lowest score a chosen completion may have")
    max_rejected: float | None = Field(None, description="highest score a rejected completion may have")
    max_length_difference: int | None = Field(
        None, ge=0, description="pair only completions that differ by at most this many words (a control)"
    )

    def __call__(self, candidates: Candidates) -> Chosen:
        """One pair, or why there is none."""
        scored = self._scored(candidates)
        if len(scored) < 2:
            return self.too_few_scored(candidates, len(scored))
        furthest = self._furthest(scored)
        if furthest is None:
            return self.drop(candidates, "length", f"no two differ by {self.max_length_difference} words or fewer")
        (chosen, highest), (rejected, lowest) = furthest
        refusal = self._refusal(highest, lowest)
        if refusal is not None:
            return self.drop(candidates, *refusal)
        if normalised(chosen.text) == normalised(rejected.text):
            return self.drop(candidates, "identical", f"best and worst say the same: {chosen.text:.60}")
        return self.scored_pair(candidates, chosen, rejected)

    def _furthest(self, scored: list[Scored]) -> tuple[Scored, Scored] | None:
        """The best and the worst or, with a limit on lengths, the two within it whose scores lie furthest apart."""
        if self.max_length_difference is None:
            return max(scored, key=lambda one: one[1]), min(scored, key=lambda one: one[1])
        lengths = {one.id: num_words(one.text) for one, _ in scored}
        alike = [
            (first, second)
            for first, second in permutations(scored, 2)
            if abs(lengths[first[0].id] - lengths[second[0].id]) <= self.max_length_difference
        ]
        return max(alike, key=lambda two: two[0][1] - two[1][1], default=None)

    def _refusal(self, highest: float, lowest: float) -> tuple[str, str] | None:
        """Why two scores make no pair, as reason and detail; None when they do."""
        if highest == lowest:
            return "tie", f"best and worst both score {highest:g}"
        if highest - lowest < self.min_gap:
            return "gap", f"{highest:g} − {lowest:g} is less than {self.min_gap:g}"
        beyond = self._beyond(highest, lowest)
        return ("threshold", beyond) if beyond else None

    def _beyond(self, highest: float, lowest: float) -> str:
        """Which absolute threshold a pair of scores does not meet, in words; nothing when it meets both."""
        if self.min_chosen is not None and highest < self.min_chosen:
            return f"the best score {highest:g} is below {self.min_chosen:g}"
        if self.max_rejected is not None and lowest > self.max_rejected:
            return f"the worst score {lowest:g} is above {self.max_rejected:g}"
        return ""

    def _scored(self, candidates: Candidates) -> list[Scored]:
        """Completions that have text and the score, in order."""
        scorer = self.scorer or next((one.annotator for one in candidates.annotations), None)
        by_id = {one.completion_id: one.scores for one in candidates.annotations if one.annotator == scorer}
        scored = []
        for completion in candidates.completions:
            scores = by_id.get(completion.id, {})
            column = self.column or next(iter(scores), "")
            if completion.text.strip() and column in scores:
                scored.append((completion, scores[column]))
        return scored
