"""Do two annotators agree? Pearson's r of what they prefer and Cohen's κ of what they score.

A preference that came with the data (a human one) counts as an annotator called `given`, whose only attribute
`preference` is 1 for the chosen and 0 for a rejected completion. Source: Li et al. 2402.10884, §5.1 and Fig. 3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pairsight.formats.pairs import GIVEN
from pairsight.inspection.measures import CompletionFacts, attributes_in_order, comparisons
from pairsight.records import Annotation, PreferencePair
from pairsight.statistics import kappa, pearson

Table = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two annotators of the same completions.

    `correlations[i][j]` is Pearson's r between the first's attribute i and the second's attribute j, each as the
    difference of two completions of one prompt; κ is weighted quadratically and taken over single completions.
    """

    first: str
    second: str
    first_attributes: tuple[str, ...]
    second_attributes: tuple[str, ...]
    correlations: Table
    kappas: Mapping[str, float]
    num_completions: int
    num_comparisons: int


def measure_agreement(
    completions: Sequence[CompletionFacts], annotations: Sequence[Annotation], pairs: Sequence[PreferencePair]
) -> tuple[Agreement, ...]:
    """The agreement of every two annotators that scored some of the same completions."""
    by_annotator: dict[str, list[Annotation]] = {}
    for annotation in (*annotations, *given_preferences(pairs)):
        by_annotator.setdefault(annotation.annotator, []).append(annotation)
    found = (_agreement(completions, a, b) for a, b in combinations(by_annotator.values(), 2))
    return tuple(agreement for agreement in found if agreement is not None)


def given_preferences(pairs: Sequence[PreferencePair]) -> list[Annotation]:
    """The preferences that came with the data, as annotations."""
    return [
        Annotation(completion.id, GIVEN, {"preference": float(completion is pair.chosen)})
        for pair in pairs
        if pair.strategy == GIVEN
        for completion in (pair.chosen, *pair.rejected)
    ]


def _agreement(
    completions: Sequence[CompletionFacts], first: Sequence[Annotation], second: Sequence[Annotation]
) -> Agreement | None:
    scores_a = {annotation.completion_id: annotation.scores for annotation in first}
    scores_b = {annotation.completion_id: annotation.scores for annotation in second}
    both = scores_a.keys() & scores_b.keys()
    if not both:
        return None
    compared = [(c.first.id, c.second.id) for c in comparisons([one for one in completions if one.id in both])]
    rows, columns = attributes_in_order(first), attributes_in_order(second)
    correlations = tuple(tuple(_correlation(scores_a, a, scores_b, b, compared) for b in columns) for a in rows)
    kappas = {}
    for name in rows:
        if name in columns:
            shared = [c for c in sorted(both) if name in scores_a[c] and name in scores_b[c]]
            value = kappa([scores_a[c][name] for c in shared], [scores_b[c][name] for c in shared], "quadratic")
            if not math.isnan(value):
                kappas[name] = value
    names = first[0].annotator, second[0].annotator
    return Agreement(*names, rows, columns, correlations, kappas, len(both), len(compared))


def _correlation(
    scores_a: Mapping[str, Mapping[str, float]],
    a: str,
    scores_b: Mapping[str, Mapping[str, float]],
    b: str,
    compared: Sequence[tuple[str, str]],
) -> float | None:
    differences = [
        (scores_a[x][a] - scores_a[y][a], scores_b[x][b] - scores_b[y][b])
        for x, y in compared
        if a in scores_a[x] and a in scores_a[y] and b in scores_b[x] and b in scores_b[y]
    ]
    r = pearson([x for x, _ in differences], [y for _, y in differences])
    return None if math.isnan(r) else r
