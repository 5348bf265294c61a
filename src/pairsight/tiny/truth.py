"""The world's truth as annotator: five attributes from 0 to 4, by rule instead of by opinion."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from pairsight.benchmarks.pope import official_answer
from pairsight.records import Annotation, Completion, ItemError, Prompt
from pairsight.tiny.captions import mentioned_kinds
from pairsight.tiny.scenes import kind_name
from pairsight.tiny.scoring import normalise
from pairsight.tiny.world_truth import Known, WorldTruth

VERSION = 1
_AFTER_FAULTS = MappingProxyType({0: 4, 1: 2})  # more faults than one: 1
_FORM = re.compile(r"^(There is )?(an? \w+ \w+)(, an? \w+ \w+)*( and an? \w+ \w+)?\.?$")
_COMPLEXITY_STEPS = (1, 3, 8, 14)  # distinct words up to which complexity is 0, 1, 2, 3
_VERBOSITY_STEPS = (0.5, 0.8, 1.25, 1.75)  # words over the true answer's words up to which verbosity is 0, 1, 2, 3


class TruthAnnotator:
    """An `Annotator` that knows a world's `truth.jsonl`.

    A prompt is found by its image and question; a question about a known image that the file does not hold is
    rated as a caption; anything else is an error that is not retried.
    """

    def __init__(self, path: str | Path) -> None:
        self._truth = WorldTruth(path)
        self.fingerprint = f"tiny-truth-{VERSION}-{self._truth.sha256[:16]}"

    def annotate(self, prompt: Prompt, completions: Sequence[Completion]) -> list[Annotation | ItemError]:
        """Rate every completion by `rate`; in order."""
        image = prompt.images[0].sha256 if prompt.images else None
        known = self._truth.find(image, prompt.question)
        if known is None and image in self._truth.scenes:
            known = Known("caption", "", self._truth.scenes[image].present)
        if known is None:
            detail = f"the world's truth knows neither this image nor this question: {prompt.question[:80]}"
            return [ItemError("unknown_prompt", detail, retryable=False) for _ in completions]
        return [
            Annotation(one.id, "tiny-truth", *rate(known.kind, known.answer, known.present, one.text))
            for one in completions
        ]


def rate(kind: str, answer: str, present: frozenset[int], text: str) -> tuple[dict[str, float], str]:
    """Rate a completion from the truth.

    A caption: helpfulness 4, 2, 1 for none, one or more objects left out (0: none named); correctness 4, 2, 1 for
    none, one or more mentions of absent objects (0: none right), so that leaving out and making up weigh the same;
    coherence 4, less 2 for saying an object twice and less 2 for broken form. Any other question: helpfulness and
    correctness 4 when right, else 1 and 0; coherence 4, or 2 when it is no answer of the right length. Complexity
    counts distinct words, verbosity compares words with the true answer's: scales, not qualities.

    Args:
        kind: the question's kind.
        answer: its true answer ("" where unknown).
        present: kinds in the picture.
        text: the completion.

    Returns:
        The five scores, whole numbers 0–4, and a line that says why.

    Source: ours; the anchors of Li et al. (2402.10884), applied to a world whose truth is known.
    """
    words = text.split()
    if not words:
        return dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 0.0), "Empty."
    quality, why = _rate_caption(present, text) if kind == "caption" else _rate_short(kind, answer, text)
    usual = len(answer.split()) if answer else 1 + 3 * len(present) + 1
    complexity = sum(len({word.strip(".,").lower() for word in words}) > step for step in _COMPLEXITY_STEPS)
    verbosity = sum(len(words) / usual > step for step in _VERBOSITY_STEPS)
    scores = dict(zip(("helpfulness", "correctness", "coherence"), map(float, quality), strict=True))
    return scores | {"complexity": float(complexity), "verbosity": float(verbosity)}, why


def _rate_caption(present: frozenset[int], text: str) -> tuple[tuple[int, int, int], str]:
    named = mentioned_kinds(text)
    absent = [kind for kind in named if kind not in present]
    left_out = sorted(present.difference(named))
    helpfulness = 0 if len(left_out) == len(present) else _AFTER_FAULTS.get(len(left_out), 1)
    correctness = 0 if len(absent) == len(named) else _AFTER_FAULTS.get(len(absent), 1)
    twice = len(set(named)) < len(named)
    coherence = 4 - 2 * twice - 2 * (_FORM.match(text.strip()) is None)
    faults = [f"{kind_name(kind)} is not there" for kind in absent]
    faults += [f"{kind_name(kind)} is left out" for kind in left_out]
    return (helpfulness, correctness, coherence), f"{'; '.join(faults) or 'All objects are named'}."


def _rate_short(kind: str, answer: str, text: str) -> tuple[tuple[int, int, int], str]:
    read = official_answer(text) if kind == "existence" else normalise(text)
    right = read == normalise(answer)
    fits = len(normalise(text).split()) <= len(answer.split()) + 1
    quality = (4, 4, 4) if right else (1, 0, 4 if fits else 2)
    return quality, "Right." if right else f"Wrong: {answer}."
