"""A packed row as spans: runs of tokens each of which follows the one before it on its path.

The first span of a tree (a prompt and one of its completions) is plain causal attention; every other sees its
ancestors' spans and itself.

Shapes: S tokens of the row, N of them chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pairsight.training.prefix_tree import Ints


@dataclass(frozen=True, slots=True)
class Span:
    """Queries [start, end) see the ranges `keys` in order: the first query `seen` + 1 keys, each next one more."""

    start: int
    end: int
    keys: tuple[tuple[int, int], ...]
    seen: int


def spans_of(parent_S: Ints) -> tuple[Span, ...]:
    """The spans of a row, in order.

    Args:
        parent_S: the token before each on its path; -1 for a root.
    """
    starts = np.flatnonzero(parent_S != np.arange(len(parent_S)) - 1)
    bounds = [*dict.fromkeys([0, *starts.tolist()]), len(parent_S)]
    spans: list[Span] = []
    for start, end in pairwise(bounds):
        parent = int(parent_S[start])
        above: tuple[tuple[int, int], ...] = ()
        if parent >= 0:
            owner = int(np.searchsorted(bounds, parent, side="right")) - 1
            above = (*spans[owner].keys[:-1], (bounds[owner], parent + 1))
        spans.append(Span(start, end, (*above, (start, end)), sum(b - a for a, b in above)))
    return tuple(spans)


def spans_of_some(spans: Sequence[Span], places_N: Ints) -> tuple[Span, ...]:
    """The spans of some queries alone, which lie one after the other; keys stay where they are.

    Args:
        spans: of the whole row.
        places_N: which queries, ascending.
    """
    found = []
    for span in spans:
        first, last = np.searchsorted(places_N, [span.start, span.end]).tolist()
        own = places_N[first:last]
        cuts = [0, *(np.flatnonzero(np.diff(own) > 1) + 1).tolist(), len(own)]
        for a, b in pairwise(cuts):
            if a < b:
                start, end = int(own[a]), int(own[b - 1]) + 1
                keys = (*span.keys[:-1], (span.start, end))
                found.append(Span(first + a, first + b, keys, span.seen + start - span.start))
    return tuple(found)
