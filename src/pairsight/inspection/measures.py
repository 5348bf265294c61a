"""The measures of an inspection: lengths, margins, correlations of attributes, and annotators' biases.

Each is a `Meter`, to which a dataset is shown prompt by prompt: none holds records. Lengths keep 16 bytes a comparison
(40 more while they are evaluated), margins 8, and the others do not grow.
"""

import math
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Generic, TypeVar

from pairsight.formats.tables import num_words
from pairsight.inspection.joint_sums import JointSums
from pairsight.records import Annotation, PreferencePair
from pairsight.seeds import derived_seed
from pairsight.selection.strategy import QUALITY
from pairsight.statistics import cluster_bootstrap, numbered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class CompletionFacts:
    """A completion without its text."""

    id: str
    prompt_id: str
    words: int


@dataclass(frozen=True, slots=True)
class Rated:
    """What a dataset holds of one prompt: completions, what annotators said of them, and the pairs they make.

    Completions are known where they were annotated, or where there are only pairs.
    """

    completions: tuple[CompletionFacts, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()


class Meter(ABC, Generic[Found]):
    """A measure of a dataset that is shown to it prompt by prompt."""

    @abstractmethod
    def add(self, rated: Rated) -> None:
        """Take what the dataset holds of one prompt."""

    @abstractmethod
    def result(self) -> Found:
        """What was found in all that was added."""

    def of(self, everything: Iterable[Rated]) -> Found:
        """What is found in a dataset."""
        for rated in everything:
            self.add(rated)
        return self.result()


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of the chosen and the rejected completion of every comparison, in the same order, as arrays of integers.

    `interval` bounds the mean of chosen − rejected at 95 %, clustered by image.
    """

    chosen: Sequence[int]
    rejected: Sequence[int]
    interval: tuple[float, float] | None = None

    @property
    def mean_chosen(self) -> float:
        """Mean words of the chosen completions."""
        return sum(self.chosen) / len(self.chosen)

    @property
    def mean_rejected(self) -> float:
        """Mean words of the rejected completions."""
        return sum(self.rejected) / len(self.rejected)

    @property
    def share_chosen_longer(self) -> float:
        """The share of comparisons whose chosen completion has more words, in [0, 1]."""
        return sum(c > r for c, r in zip(self.chosen, self.rejected, strict=True)) / len(self.chosen)

    @property
    def share_rejected_longer(self) -> float:
        """The share of comparisons whose rejected completion has more words, in [0, 1]."""
        return sum(c < r for c, r in zip(self.chosen, self.rejected, strict=True)) / len(self.chosen)


class LengthMeter(Meter[Lengths | None]):
    """The lengths of all comparisons (one per rejected completion); None without any."""

    def __init__(self) -> None:
        self._chosen, self._rejected, self._clusters = array("i"), array("i"), array("q")

    def add(self, rated: Rated) -> None:
        """See `Meter`."""
        for pair in rated.pairs:
            words, cluster = num_words(pair.chosen.text), hash(_cluster(pair))
            for rejected in pair.rejected:
                self._chosen.append(words)
                self._rejected.append(num_words(rejected.text))
                self._clusters.append(cluster)

    def result(self) -> Lengths | None:
        """See `Meter`."""
        import numpy as np

        if not self._chosen:
            return None
        difference_I = np.subtract(self._chosen, self._rejected, dtype=np.float64)
        sums_I2 = np.stack([difference_I, np.ones_like(difference_I)], axis=1)
        drift = cluster_bootstrap(sums_I2, numbered(np.asarray(self._clusters)), _mean)["drift"]
        interval = None if math.isnan(drift.low) else (drift.low, drift.high)
        return Lengths(self._chosen, self._rejected, interval)


def _cluster(pair: PreferencePair) -> str:
    images = pair.prompt.images
    return images[0].sha256 if images else pair.prompt.id


def _mean(sums_RC: "NDArray[np.float64]") -> "dict[str, NDArray[np.float64]]":
    return {"drift": sums_RC[:, 0] / sums_RC[:, 1]}


@dataclass(frozen=True, slots=True)
class Margins:
    """Chosen minus rejected over the comparisons that have scores on both sides: the mean of each attribute.

    `totals` are the margins of Q = helpfulness + correctness + coherence where all three were scored, an array.
    """

    means: Mapping[str, float]
    totals: Sequence[float] = ()


class MarginMeter(Meter[Margins | None]):
    """Margins of all comparisons whose two sides were annotated; None without any."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._totals = array("d")
        self._attributes = Attributes()

    def add(self, rated: Rated) -> None:
        """See `Meter`."""
        self._attributes.add(rated.annotations)
        scores = mean_scores(rated.annotations) if rated.pairs else {}
        for pair in rated.pairs:
            chosen = scores.get(pair.chosen.id)
            for rejected in pair.rejected:
                other = scores.get(rejected.id)
                if chosen is not None and other is not None:
                    self._add(chosen, other)

    def _add(self, chosen: Mapping[str, float], other: Mapping[str, float]) -> None:
        both = chosen.keys() & other.keys()
        for attribute in both:
            self._sums[attribute] = self._sums.get(attribute, 0) + (chosen[attribute] - other[attribute])
            self._counts[attribute] += 1
        if QUALITY.keys() <= both:
            self._totals.append(sum(weight * (chosen[a] - other[a]) for a, weight in QUALITY.items()))

    def result(self) -> Margins | None:
        """See `Meter`."""
        names = [name for name in self._attributes.names if name in self._sums]
        return Margins({name: self._sums[name] / self._counts[name] for name in names}, self._totals) if names else None


@dataclass(frozen=True, slots=True)
class Correlations:
    """Pearson correlations between the attributes of single completions; None where one does not vary."""

    attributes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    num_annotations: int


class CorrelationMeter(Meter[Correlations | None]):
    """Correlations between the scores of single completions; None with fewer than two attributes."""

    def __init__(self) -> None:
        self._attributes, self._sums, self._count = Attributes(), JointSums(), 0

    def add(self, rated: Rated) -> None:
        """See `Meter`."""
        self._attributes.add(rated.annotations)
        self._count += len(rated.annotations)
        for annotation in rated.annotations:
            self._sums.add(annotation.scores, annotation.scores)

    def result(self) -> Correlations | None:
        """See `Meter`."""
        names = self._attributes.names
        if len(names) < 2 or self._count < 3:
            return None
        values = tuple(tuple(self._sums.pearson(first, second) for second in names) for first in names)
        return Correlations(names, values, self._count)


class Attributes:
    """All attributes that were scored, in the order in which they first appear."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, annotations: Iterable[Annotation]) -> None:
        """Take the attributes of annotations."""
        for annotation in annotations:
            self._names.update(dict.fromkeys(annotation.scores))

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._names)


def mean_scores(annotations: Iterable[Annotation]) -> dict[str, dict[str, float]]:
    """Completion id -> attribute -> the mean of its annotators' scores."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for annotation in annotations:
        of_completion = gathered.setdefault(annotation.completion_id, {})
        for attribute, score in annotation.scores.items():
            of_completion.setdefault(attribute, []).append(score)
    return {c: {a: sum(v) / len(v) for a, v in scores.items()} for c, scores in gathered.items()}


MOST_PER_PROMPT = 8
"""Completions of one prompt that are compared with one another; 8 make 28 comparisons (ours)."""


def facts_of_pair(pair: PreferencePair) -> tuple[CompletionFacts, ...]:
    """The facts of the completions that a pair holds: all that is known where there is no table of completions."""
    return tuple(CompletionFacts(one.id, pair.prompt.id, num_words(one.text)) for one in (pair.chosen, *pair.rejected))


def comparisons(completions: Sequence[CompletionFacts]) -> Iterator[tuple[CompletionFacts, CompletionFacts]]:
    """All pairs of a prompt's first `MOST_PER_PROMPT` completions, so ordered by seed that neither side is better."""
    for one, other in combinations(completions[:MOST_PER_PROMPT], 2):
        swap = derived_seed("comparison", one.prompt_id, one.id, other.id) % 2
        yield (other, one) if swap else (one, other)


def totals(annotations: Iterable[Annotation]) -> Mapping[str, float]:
    """Completion id -> its quality Q = helpfulness + correctness + coherence, where all three were scored."""
    return {
        completion: sum(weight * scores[name] for name, weight in QUALITY.items())
        for completion, scores in mean_scores(annotations).items()
        if QUALITY.keys() <= scores.keys()
    }


def by_annotator(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    """Annotator -> its annotations, in the order in which the annotators first appear."""
    found: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        found.setdefault(annotation.annotator, []).append(annotation)
    return found


@dataclass(frozen=True, slots=True)
class Bias:
    """How one annotator's totals depend on length and on position.

    `length_correlation` is Pearson's r between the differences in words and in total of two completions of one
    prompt. `best_at[p]` counts the prompts whose best completion was shown at position p (only prompts with a single
    best and all positions filled; empty when the annotator saw no order); `p_value` is that of χ² against equal counts.
    """

    annotator: str
    length_correlation: float | None
    num_comparisons: int
    best_at: tuple[int, ...]
    p_value: float | None


class BiasMeter(Meter[tuple[Bias, ...]]):
    """Length and position bias of every annotator that scored all of helpfulness, correctness and coherence."""

    def __init__(self) -> None:
        self._annotators: dict[str, _Leaning] = {}

    def add(self, rated: Rated) -> None:
        """See `Meter`."""
        for name, own in by_annotator(rated.annotations).items():
            self._annotators.setdefault(name, _Leaning()).add(rated.completions, own)

    def result(self) -> tuple[Bias, ...]:
        """See `Meter`."""
        return tuple(leaning.bias(name) for name, leaning in self._annotators.items() if leaning.num_scored)


class _Leaning:
    """What one annotator's bias follows from."""

    def __init__(self) -> None:
        self.num_scored = 0
        self._sums, self._num_comparisons = JointSums(), 0
        self._num_positions = self._most_shown = 0
        self._best: Counter[tuple[int, int]] = Counter()

    def add(self, completions: Sequence[CompletionFacts], annotations: Sequence[Annotation]) -> None:
        total_of = totals(annotations)
        scored = [completion for completion in completions if completion.id in total_of]
        self.num_scored += len(scored)
        for one, other in comparisons(scored):
            self._num_comparisons += 1
            self._sums.add({"words": one.words - other.words}, {"total": total_of[one.id] - total_of[other.id]})
        positions = {a.completion_id: a.position for a in annotations if a.position is not None}
        shown = [one.id for one in scored if one.id in positions]
        highest = max((total_of[name] for name in shown), default=0.0)
        best = [positions[name] for name in shown if total_of[name] == highest]
        self._num_positions = max(self._num_positions, *(positions[name] + 1 for name in shown), 0)
        self._most_shown = max(self._most_shown, len(shown))
        if len(best) == 1:
            self._best[len(shown), best[0]] += 1

    def bias(self, annotator: str) -> Bias:
        count = self._num_positions if self._num_positions <= self._most_shown else 0
        best_at = tuple(self._best[count, position] for position in range(count))
        r = self._sums.pearson("words", "total")
        return Bias(annotator, r, self._num_comparisons, best_at, chi_square_p(best_at))


def chi_square_p(counts: Sequence[int]) -> float | None:
    """The probability of counts at least as uneven when all positions are equally likely; None for too few counts.

    χ² = Σ (n_p − n̄)² / n̄ with k − 1 degrees of freedom; its tail by Wilson and Hilferty's cube-root approximation
    (1931), accurate to about 0.01 where n̄ ≥ 5, which is required.
    """
    freedom = len(counts) - 1
    if freedom < 1 or sum(counts) < 5 * len(counts):
        return None
    mean = sum(counts) / len(counts)
    statistic = sum((count - mean) ** 2 for count in counts) / mean
    spread = 2.0 / (9.0 * freedom)
    z = ((statistic / freedom) ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2.0))
