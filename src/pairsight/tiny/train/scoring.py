"""Scoring of the world's questions: pure functions from a completion and its truth to sums, and from sums to metrics.

`COLUMNS` names the sums of one question; metrics are ratios of sums, so that a bootstrap can resample clusters.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.suites.pope import official_answer
from pairsight.tiny.world.captions import count_caption, mentioned_kinds

COLUMNS = (
    *("yes_true", "yes_false", "no_true", "no_false"),
    *("adversarial", "adversarial_right"),
    *("captions", "captions_hallucinated", "mentions", "mentions_hallucinated", "present", "found", "caption_words"),
    *("cut_mentions", "cut_hallucinated"),
    *("colour", "colour_right", "count", "count_right", "place", "place_right", "content", "content_right"),
    *("text", "text_right"),
)
_INDEX = {name: i for i, name in enumerate(COLUMNS)}


def normalise(text: str) -> str:
    """Lower case, single spaces, without an article at the start or a full stop at the end, for exact comparison."""
    plain = " ".join(text.lower().split()).rstrip(".").strip()
    return re.sub(r"^(a|an|the) ", "", plain)


def question_sums(
    kind: str, category: str, answer: str, present: frozenset[int], text: str, *, read: str | None = None
) -> tuple[float, ...]:
    """The sums that one completion earns.

    Args:
        kind: the question's kind ("existence", "caption", "count", "colour", "place", "content" or "text").
        category: its category; "adversarial" has columns of its own.
        answer: the true answer.
        present: kinds in the scene.
        text: the completion.
        read: "yes" or "no" as a parser read it; by POPE's official rule when left out.

    Returns:
        One number per name of `COLUMNS`.
    """
    sums = dict.fromkeys(COLUMNS, 0.0)
    if kind == "caption":
        counts = count_caption(text, present)
        cut = count_caption(text, present, max_mentions=len(present))
        sums["captions"] = 1
        sums["captions_hallucinated"] = float(counts.hallucinated > 0)
        sums["mentions"], sums["mentions_hallucinated"] = counts.mentions, counts.hallucinated
        sums["cut_mentions"], sums["cut_hallucinated"] = cut.mentions, cut.hallucinated
        sums["present"], sums["found"], sums["caption_words"] = counts.present, counts.found, counts.words
    elif kind == "existence":
        said = read if read is not None else official_answer(text)
        right = said == answer.lower()
        sums[f"{said}_{'true' if right else 'false'}"] = 1
        if category == "adversarial":
            sums["adversarial"], sums["adversarial_right"] = 1, float(right)
    else:
        sums[kind] = 1
        sums[f"{kind}_right"] = float(normalise(text) == normalise(answer))
    return tuple(sums[name] for name in COLUMNS)


def metrics(sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Metrics from rows of sums.

    accuracy = right / asked; F1 with yes as the positive class; CHAIR_i = hallucinated / all mentions; CHAIR_s =
    captions with a hallucination / captions; chair_i_cut = CHAIR_i when every caption is cut to as many mentions as the
    scene has objects, so that no model gains by stopping early or loses by going on; recall = present kinds named /
    present kinds; the others are shares of right answers, and caption_length is words a caption.

    Args:
        sums_RC: R rows (samples or bootstrap draws) of the C = len(COLUMNS) sums.

    Returns:
        Metric -> R values; NaN where nothing of its kind was asked.

    Source: POPE (Li et al. 2023), CHAIR (Rohrbach et al. 2018).
    """
    column = {name: np.asarray(sums_RC, dtype=np.float64)[:, i] for name, i in _INDEX.items()}
    yes = column["yes_true"] + column["yes_false"]
    asked = yes + column["no_true"] + column["no_false"]
    found = {
        "accuracy": _ratio(column["yes_true"] + column["no_true"], asked),
        "f1": _ratio(2 * column["yes_true"], yes + column["yes_true"] + column["no_false"]),
        "adversarial_accuracy": _ratio(column["adversarial_right"], column["adversarial"]),
        "yes_rate": _ratio(yes, asked),
        "chair_i": _ratio(column["mentions_hallucinated"], column["mentions"]),
        "chair_s": _ratio(column["captions_hallucinated"], column["captions"]),
        "chair_i_cut": _ratio(column["cut_hallucinated"], column["cut_mentions"]),
        "recall": _ratio(column["found"], column["present"]),
        "caption_length": _ratio(column["caption_words"], column["captions"]),
    }
    for kind in ("colour", "count", "place", "content", "text"):
        found[f"{kind}_accuracy"] = _ratio(column[f"{kind}_right"], column[kind])
    return found


def matched_chair(
    first: Sequence[str], second: Sequence[str], present: Sequence[frozenset[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CHAIR_i's sums of two models at matched length: of each two captions, the longer is cut to the other's mentions.

    Args:
        first: N captions of one model.
        second: N captions of the other, of the same scenes.
        present: N sets of kinds.

    Returns:
        Two N × 2 arrays (hallucinated mentions, mentions), one per model; the second column is the same in both.

    Source: ours: a caption that stops early hallucinates less, and that alone must not count as a gain.
    """
    sums: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for one, two, kinds in zip(first, second, present, strict=True):
        length = min(len(mentioned_kinds(one)), len(mentioned_kinds(two)))
        for earned, text in zip(sums, (one, two), strict=True):
            counts = count_caption(text, kinds, max_mentions=length)
            earned.append((counts.hallucinated, counts.mentions))
    return np.array(sums[0], dtype=np.float64), np.array(sums[1], dtype=np.float64)


def _ratio(part: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0))
