"""Captions of scenes: how one is worded, and which objects a text mentions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pairsight.tiny.world.scenes import COLOURS, SHAPES, kind_name, kind_of

_MENTION = re.compile(rf"\b({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})s?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CaptionCounts:
    """What a caption says of a scene, in whole numbers that can be summed over captions."""

    mentions: int
    hallucinated: int
    found: int
    present: int
    words: int


def word_caption(kinds: Sequence[int]) -> str:
    """A caption that names kinds in the order given, e.g. "There is a red circle and a blue ring."."""
    return f"There is {listed(kinds)}." if len(kinds) > 0 else "There is nothing."


def listed(kinds: Sequence[int]) -> str:
    """One kind or more as words, e.g. "a red circle and an orange ring"."""
    names = [f"{'an' if kind_name(kind)[0] == 'o' else 'a'} {kind_name(kind)}" for kind in kinds]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def mentioned_kinds(text: str) -> list[int]:
    """The kinds a text names (a colour word directly before a shape word), in order, repeats included."""
    return [kind_of(colour.lower(), shape.lower()) for colour, shape in _MENTION.findall(text)]


def count_caption(text: str, present: frozenset[int], max_mentions: int | None = None) -> CaptionCounts:
    """Count a caption's mentions against the truth.

    Args:
        text: the caption.
        present: kinds in the scene.
        max_mentions: count only this many mentions from the start; None counts all.

    Returns:
        mentions; those of absent kinds (repeats count, as CHAIR_i does); distinct present kinds named; kinds
        present; words (of the complete text).

    Source: CHAIR (Rohrbach et al. 2018) without its synonym lists, which this closed world does not need.
    """
    kinds = mentioned_kinds(text)[:max_mentions]
    hallucinated = sum(kind not in present for kind in kinds)
    found = len(present.intersection(kinds))
    return CaptionCounts(len(kinds), hallucinated, found, len(present), len(text.split()))
