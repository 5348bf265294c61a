"""SteerLM: imitate every scored completion, given its scores in the prompt; then ask for the best scores.

Source: Li et al. 2402.10884, §3.2 after Dong et al. 2310.05344. The wording of the request is ours, or the authors'.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from pydantic import Field, field_validator

from pairsight.records import ATTRIBUTES, Candidates, Demonstration
from pairsight.selection.strategy import Chosen, Strategy, scores_by_completion

WORDINGS: Mapping[str, str] = MappingProxyType(
    {
        "ours": "Answer with these qualities, each on a scale from 0 to 4: {scores}",
        "authors": (
            "Please answer the question such that your response is in the following attributes in 5-point Likert "
            "scale:\n{scores}"
        ),
    }
)
"""Name -> the line that ends a prompt; the authors' is what their checkpoints were trained and are asked with."""


class SteerLM(Strategy):
    """One demonstration per scored completion, its prompt ending in the real scores. Drops: `too_few_scored`."""

    name: ClassVar[str] = "steerlm"
    makes_demonstrations: ClassVar[bool] = True

    conditioning: str = Field(
        WORDINGS["ours"],
        description="what ends the prompt: ours, authors, or a text in which {scores} becomes Name:score,Name:score",
    )
    target: dict[str, int] = Field(
        dict.fromkeys(ATTRIBUTES, 4), min_length=1, description="the scores asked for once the model is trained"
    )

    @field_validator("conditioning")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        wording = WORDINGS.get(value, value)
        if "{scores}" not in wording:
            raise ValueError(f"must be {' or '.join(WORDINGS)}, or hold {{scores}}, where the scores are put")
        return wording

    def __call__(self, candidates: Candidates) -> Chosen:
        """The scored completions as demonstrations, or why there is none."""
        scored = scores_by_completion(candidates, self.target.keys())
        if not scored:
            return self.too_few_scored(candidates, 0)
        return [
            Demonstration(completion.id, candidates.prompt.with_line(self._line(scores)), completion, self.name)
            for completion, scores in scored
        ]

    def inference_suffix(self) -> str:
        """The line with the target scores."""
        return self._line(self.target)

    def _line(self, scores: Mapping[str, float]) -> str:
        return self.conditioning.replace(
            "{scores}", ",".join(f"{name.capitalize()}:{scores[name]:g}" for name in scores)
        )
