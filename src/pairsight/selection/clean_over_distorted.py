"""SeVa's rule: what the model says of the clean image over what it says of the distorted one (2404.10501, §3.2)."""

from typing import ClassVar

from pairsight.records import Candidates, Completion, PreferencePair
from pairsight.selection.strategy import Chosen, Strategy, normalised


class CleanOverDistorted(Strategy):
    """Pairs without scores. The first completion to the prompt's own images is chosen, all others are rejected.

    A rejected completion that is empty or says the same (case and spacing aside) is left out, and so is one that says
    what another rejected one does. Answers of a dataset or an annotator take no part.
    Drops: `no_clean_completion`, `no_distorted_completion`, `empty`, `identical`.
    """

    name: ClassVar[str] = "clean_over_distorted"

    def __call__(self, candidates: Candidates) -> Chosen:
        """One pair with one or more rejected completions, or why there is none."""
        made = [one for one in candidates.completions if one.derived_from is None]
        clean = [one for one in made if one.images is None]
        if not clean:
            return self.drop(candidates, "no_clean_completion")
        chosen = clean[0]
        said = {normalised(chosen.text)}
        if said == {""}:
            return self.drop(candidates, "empty", "the completion to the clean image")
        others = [one for one in made if one is not chosen]
        if not others:
            return self.drop(candidates, "no_distorted_completion")
        if all(not one.text.strip() for one in others):
            return self.drop(candidates, "empty", "every completion to a distorted image")
        rejected: list[Completion] = []
        for completion in others:
            text = normalised(completion.text)
            if text and text not in said:
                said.add(text)
                rejected.append(completion)
        if not rejected:
            return self.drop(candidates, "identical", f"{chosen.text:.80}")
        return PreferencePair(candidates.prompt.id, candidates.prompt, chosen, tuple(rejected), self.name)
