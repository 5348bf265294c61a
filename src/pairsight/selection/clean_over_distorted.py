"""SeVa's rule: what the model says of the clean image over what it says of the distorted one (2404.10501, §3.2)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pairsight.config import Option
from pairsight.records import Candidates, Completion, PreferencePair
from pairsight.selection.strategy import Chosen, Strategy, normalised


def without_newlines(text: str) -> str:
    """A text without its newlines, nothing put in their places, as the authors' code writes it."""
    return text.replace("\n", "")


COMPARED: Mapping[str, Callable[[str], str]] = {
    "exact": lambda text: text,
    "newlines": without_newlines,
    "normalised": normalised,
}
"""Equality -> what is compared."""


class CleanOverDistorted(Strategy):
    """Pairs without scores. The first completion to the prompt's own images is chosen, all others are rejected.

    A rejected completion that is empty or says the same is left out, and so is one that says what another rejected one
    does. Answers of a dataset or an annotator take no part. What says the same, `equality` defines: Alg. 1 of the paper
    compares texts as they are; the authors' code does so before it takes the newlines out of both (`exact` with
    `remove_newlines`), so that it keeps pairs that differ in newlines alone, which `newlines` leaves out.
    Drops: `no_clean_completion`, `no_distorted_completion`, `empty`, `identical`.
    """

    name: ClassVar[str] = "clean_over_distorted"

    equality: Annotated[Literal["exact", "newlines", "normalised"], Option(late=True)] = Field(
        "normalised", description="equal: exact, without newlines, or with case and spacing aside as well"
    )
    remove_newlines: Annotated[bool, Option(late=True)] = Field(
        False, description="take the newlines out of a pair's texts, as the authors' code does"
    )

    def __call__(self, candidates: Candidates) -> Chosen:
        """One pair with one or more rejected completions, or why there is none."""
        compared = COMPARED[self.equality]
        made = [one for one in candidates.completions if one.derived_from is None]
        clean = [one for one in made if one.images is None]
        if not clean:
            return self.drop(candidates, "no_clean_completion")
        chosen = clean[0]
        if not normalised(chosen.text):
            return self.drop(candidates, "empty", "the completion to the clean image")
        said = {compared(chosen.text)}
        others = [one for one in made if one is not chosen]
        if not others:
            return self.drop(candidates, "no_distorted_completion")
        if all(not one.text.strip() for one in others):
            return self.drop(candidates, "empty", "every completion to a distorted image")
        rejected: list[Completion] = []
        for completion in others:
            text = compared(completion.text)
            if normalised(completion.text) and text not in said:
                said.add(text)
                rejected.append(completion)
        if not rejected:
            return self.drop(candidates, "identical", f"{chosen.text:.80}")
        chosen, *rejected = map(self._written, (chosen, *rejected))
        return PreferencePair(candidates.prompt.id, candidates.prompt, chosen, tuple(rejected), self.name)

    def _written(self, completion: Completion) -> Completion:
        if not self.remove_newlines or "\n" not in completion.text:
            return completion
        return replace(completion, text=without_newlines(completion.text))
