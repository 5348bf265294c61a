"""Do two annotators agree? Pearson's r of what they prefer and Cohen's κ of what they score.

A preference that came with the data (a human one) counts as an annotator called `given`, whose only attribute
`preference` is 1 for the chosen and 0 for a rejected completion. Source: Li et al. 2402.10884, §5.1 and Fig. 3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from pairsight.formats.pairs import GIVEN
from pairsight.inspection.joint_sums import JointSums
from pairsight.inspection.measures import Attributes, CompletionFacts, Meter, Rated, by_annotator, comparisons
from pairsight.records import Annotation, PreferencePair

Table = tuple[tuple[float | None, ...], ...]
Scores = Mapping[str, Mapping[str, float]]
"""Completion id -> attribute -> score, of one annotator."""


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


class AgreementMeter(Meter[tuple[Agreement, ...]]):
    """The agreement of every two annotators that scored some of the same completions."""

    def __init__(self) -> None:
        self._attributes: dict[str, Attributes] = {}
        self._given = Attributes()
        self._shared: dict[tuple[str, str], _Shared] = {}

    def add(self, rated: Rated) -> None:
        """See `Meter`."""
        given = given_preferences(rated.pairs)
        for annotator, own in by_annotator(rated.annotations).items():
            self._attributes.setdefault(annotator, Attributes()).add(own)
        self._given.add(given)
        scores = {
            annotator: {annotation.completion_id: annotation.scores for annotation in own}
            for annotator, own in by_annotator((*rated.annotations, *given)).items()
        }
        for first, second in combinations(sorted(scores), 2):
            both = scores[first].keys() & scores[second].keys()
            if both:
                shared = self._shared.setdefault((first, second), _Shared())
                known = [one for one in rated.completions if one.id in both]
                shared.add(scores[first], scores[second], sorted(both), known)

    def result(self) -> tuple[Agreement, ...]:
        """See `Meter`."""
        attributes = {name: own.names for name, own in self._attributes.items()}
        if self._given.names:
            attributes[GIVEN] = tuple(dict.fromkeys((*attributes.get(GIVEN, ()), *self._given.names)))
        found = []
        for first, second in combinations(attributes, 2):
            names = min(first, second), max(first, second)
            if shared := self._shared.get(names):
                of_both = shared.agreement(names, attributes)
                found.append(of_both if names == (first, second) else _turned(of_both))
        return tuple(found)


class _Shared:
    """What the agreement of two annotators follows from."""

    def __init__(self) -> None:
        self._single, self._differences = JointSums(), JointSums()
        self._num_completions = self._num_comparisons = 0

    def add(self, first: Scores, second: Scores, both: Iterable[str], known: list[CompletionFacts]) -> None:
        for completion in both:
            self._num_completions += 1
            self._single.add(first[completion], second[completion])
        for one, other in comparisons(known):
            self._num_comparisons += 1
            self._differences.add(*(_difference(scores[one.id], scores[other.id]) for scores in (first, second)))

    def agreement(self, names: tuple[str, str], attributes: Mapping[str, tuple[str, ...]]) -> Agreement:
        rows, columns = (attributes[name] for name in names)
        correlations = tuple(tuple(self._differences.pearson(a, b) for b in columns) for a in rows)
        kappas = {name: self._single.kappa(name, name) for name in rows if name in columns}
        known = {name: value for name, value in kappas.items() if value is not None}
        return Agreement(*names, rows, columns, correlations, known, self._num_completions, self._num_comparisons)


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one[name] - other[name] for name in one if name in other}


def _turned(found: Agreement) -> Agreement:
    """The same agreement with its second annotator first."""
    return Agreement(
        found.second,
        found.first,
        found.second_attributes,
        found.first_attributes,
        tuple(zip(*found.correlations, strict=True)),
        {name: found.kappas[name] for name in found.second_attributes if name in found.kappas},
        found.num_completions,
        found.num_comparisons,
    )


def given_preferences(pairs: Iterable[PreferencePair]) -> list[Annotation]:
    """The preferences that came with the data, as annotations."""
    return [
        Annotation(completion.id, GIVEN, {"preference": float(completion is pair.chosen)})
        for pair in pairs
        if pair.strategy == GIVEN
        for completion in (pair.chosen, *pair.rejected)
    ]
