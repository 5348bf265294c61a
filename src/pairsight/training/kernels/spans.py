"""Spans of a packed row: consecutive tokens and the keys that they see, which describes every kind of attention layer.

Shapes: S tokens of the row, N queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pairsight.training.tokens import Ints

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of token indices, joined in order."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive queries of a row and the keys that they see.

    Queries and keys are aligned at their ends, as FlashAttention aligns them: query i of n sees of K keys those with
    numbers i + K − n − left to i + K − n + right, as far as there are such.

    Args:
        start, end: the queries.
        keys: ranges of the row's tokens, K in all; on a path from a root, and so in the order of their depth.
        left: how many keys before its own a query sees; None: all.
        right: how many after it: 0, or None for all, where tokens of a block see each other in both directions.
    """

    start: int
    end: int
    keys: Ranges
    left: int | None = None
    right: int | None = 0

    @property
    def num_queries(self) -> int:
        """The number of queries, n."""
        return self.end - self.start

    @property
    def num_keys(self) -> int:
        """The number of keys, K."""
        return sum(b - a for a, b in self.keys)

    @property
    def is_cut(self) -> bool:
        """Whether some query does not see the first key because of `left`."""
        return self.left is not None and self.left < self.num_keys - 1

    def seen(self, first: int, last: int) -> tuple[int, int]:
        """The range of key numbers that queries number `first` to `last` − 1 see, each some of them."""
        num_keys = self.num_keys
        offset = num_keys - self.num_queries
        low = 0 if self.left is None else max(0, first + offset - self.left)
        return low, num_keys if self.right is None else last + offset + self.right

    def part(self, first: int, last: int, start: int) -> "Span":
        """Queries number `first` to `last` − 1 as a span that starts at `start`, without keys that none sees."""
        low, high = self.seen(first, last)
        dropped = high - (last + self.num_keys - self.num_queries)
        left = None if self.left is None else self.left + dropped
        right = None if self.right is None else self.right - dropped
        return Span(start, start + last - first, sub_ranges(self.keys, low, high), left, right)


def sub_ranges(ranges: Ranges, low: int, high: int) -> Ranges:
    """Of joined ranges those parts that lie from number `low` to before `high`."""
    found, done = [], 0
    for a, b in ranges:
        first, last = max(a, a + low - done), min(b, a + high - done)
        if first < last:
            found.append((first, last))
        done += b - a
    return tuple(found)


def spans_of(parent_S: Ints, block_S: Ints | None = None, window: int | None = None) -> tuple[Span, ...]:
    """The spans of a row, in order: one for each part of a path without branches, and one for each block.

    Args:
        parent_S: the token before each on its path; -1 for a root.
        block_S: the block each token lies in, whose tokens see each other in both directions, and which no branch
            cuts; -1: none.
        window: tokens that each sees along its path, itself included; None: all. It bounds what a token of a block
            sees before itself, not after.

    Source: ours.
    """
    block_S = np.full(len(parent_S), -1, np.int64) if block_S is None else block_S
    starts = (parent_S != np.arange(len(parent_S)) - 1) | (np.diff(block_S, prepend=-1) != 0)
    bounds = [*dict.fromkeys([0, *np.flatnonzero(starts).tolist()]), len(parent_S)]
    spans: list[Span] = []
    paths: list[Ranges] = []
    for start, end in pairwise(bounds):
        parent = int(parent_S[start])
        path: Ranges = ()
        if parent >= 0:
            owner = int(np.searchsorted(bounds, parent, side="right")) - 1
            path = _appended(paths[owner], bounds[owner], parent + 1)
        paths.append(path)
        left, right = None if window is None else window - 1, 0 if block_S[start] < 0 else None
        full = Span(start, end, _appended(path, start, end), left, right)
        spans.append(full.part(0, end - start, start))
    return tuple(spans)


def _appended(ranges: Ranges, start: int, end: int) -> Ranges:
    """Ranges and one more, joined to the last where it begins at its end."""
    if ranges and ranges[-1][1] == start:
        return (*ranges[:-1], (ranges[-1][0], end))
    return (*ranges, (start, end))


def spans_of_some(spans: Sequence[Span], queries_N: Ints) -> tuple[Span, ...]:
    """The spans of some queries alone, renumbered without gaps; keys keep their indices.

    Args:
        spans: of all queries of the row.
        queries_N: which queries, ascending.
    """
    found = []
    for span in spans:
        first, last = np.searchsorted(queries_N, [span.start, span.end]).tolist()
        own = queries_N[first:last]
        cuts = [0, *(np.flatnonzero(np.diff(own) > 1) + 1).tolist(), len(own)]
        for a, b in pairwise(cuts):
            if a < b:
                found.append(span.part(int(own[a]) - span.start, int(own[b - 1]) + 1 - span.start, first + a))
    return tuple(found)
