"""The measures of an inspection: lengths, margins, correlations of attributes, and annotators' biases."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from pairsight.formats.tables import num_words
from pairsight.records import Annotation, PreferencePair
from pairsight.seeds import derived_seed
from pairsight.selection.strategy import QUALITY
from pairsight.statistics import cluster_bootstrap, pearson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of the chosen and the rejected completion of every comparison, in the same order.

    `interval` bounds the mean of chosen − rejected at 95 %, clustered by image.
    """

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
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


def measure_lengths(pairs: Sequence[PreferencePair]) -> Lengths | None:
    """The lengths of all comparisons (one per rejected completion), or None without any."""
    rows = [
        (num_words(pair.chosen.text), num_words(rejected.text), _cluster(pair))
        for pair in pairs
        for rejected in pair.rejected
    ]
    if not rows:
        return None
    sums = [(float(chosen - rejected), 1.0) for chosen, rejected, _ in rows]
    drift = cluster_bootstrap(sums, [cluster for *_, cluster in rows], _mean)["drift"]
    interval = None if math.isnan(drift.low) else (drift.low, drift.high)
    return Lengths(tuple(row[0] for row in rows), tuple(row[1] for row in rows), interval)


def _cluster(pair: PreferencePair) -> str:
    images = pair.prompt.images
    return images[0].sha256 if images else pair.prompt.id


def _mean(sums_RC: "NDArray[np.float64]") -> "dict[str, NDArray[np.float64]]":
    return {"drift": sums_RC[:, 0] / sums_RC[:, 1]}


@dataclass(frozen=True, slots=True)
class Margins:
    """Chosen minus rejected, by attribute: one number per comparison that has scores on both sides.

    `totals` are the margins of Q = helpfulness + correctness + coherence where all three were scored.
    """

    by_attribute: Mapping[str, tuple[float, ...]]
    totals: tuple[float, ...] = ()

    def mean(self, attribute: str) -> float:
        """The mean margin of one attribute."""
        values = self.by_attribute[attribute]
        return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Correlations:
    """Pearson correlations between the attributes of single completions; None where one does not vary."""

    attributes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    num_annotations: int


def measure_margins(pairs: Sequence[PreferencePair], annotations: Sequence[Annotation]) -> Margins | None:
    """Margins of all comparisons whose two sides were annotated, or None without any."""
    margins: dict[str, list[float]] = {}
    totals: list[float] = []
    scores = mean_scores(annotations)
    for pair in pairs:
        chosen = scores.get(pair.chosen.id)
        for rejected in pair.rejected:
            other = scores.get(rejected.id)
            if chosen is not None and other is not None:
                both = chosen.keys() & other.keys()
                for attribute in both:
                    margins.setdefault(attribute, []).append(chosen[attribute] - other[attribute])
                if QUALITY.keys() <= both:
                    totals.append(sum(weight * (chosen[a] - other[a]) for a, weight in QUALITY.items()))
    order = attributes_in_order(annotations)
    in_order = {name: tuple(margins[name]) for name in order if name in margins}
    return Margins(in_order, tuple(totals)) if margins else None


def measure_correlations(annotations: Sequence[Annotation]) -> Correlations | None:
    """Correlations between the attributes' scores of single completions, or None with fewer than two attributes."""
    attributes = attributes_in_order(annotations)
    if len(attributes) < 2 or len(annotations) < 3:
        return None
    rows = []
    for first in attributes:
        row: list[float | None] = []
        for second in attributes:
            both = [(a.scores[first], a.scores[second]) for a in annotations if {first, second} <= a.scores.keys()]
            r = pearson([x for x, _ in both], [y for _, y in both])
            row.append(None if math.isnan(r) else r)
        rows.append(tuple(row))
    return Correlations(attributes, tuple(rows), len(annotations))


def mean_scores(annotations: Sequence[Annotation]) -> dict[str, dict[str, float]]:
    """Completion id -> attribute -> the mean of its annotators' scores."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for annotation in annotations:
        of_completion = gathered.setdefault(annotation.completion_id, {})
        for attribute, score in annotation.scores.items():
            of_completion.setdefault(attribute, []).append(score)
    return {c: {a: sum(v) / len(v) for a, v in scores.items()} for c, scores in gathered.items()}


def attributes_in_order(annotations: Sequence[Annotation]) -> tuple[str, ...]:
    """All attributes that were scored, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for annotation in annotations for name in annotation.scores))


MOST_PER_PROMPT = 8
"""Completions of one prompt that are compared with one another; 8 make 28 comparisons (ours)."""


@dataclass(frozen=True, slots=True)
class CompletionFacts:
    """A completion without its text."""

    id: str
    prompt_id: str
    words: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two completions of one prompt, in an order drawn by seed, so that neither side is always the better one."""

    first: CompletionFacts
    second: CompletionFacts


def facts_of_pairs(pairs: Sequence[PreferencePair]) -> tuple[CompletionFacts, ...]:
    """The facts of the completions that pairs hold: all that is known where there is no table of completions."""
    found: dict[str, CompletionFacts] = {}
    for pair in pairs:
        for completion in (pair.chosen, *pair.rejected):
            found[completion.id] = CompletionFacts(completion.id, pair.prompt.id, num_words(completion.text))
    return tuple(found.values())


def comparisons(completions: Sequence[CompletionFacts]) -> Iterator[Comparison]:
    """All pairs of completions of one prompt, at most `MOST_PER_PROMPT` completions each."""
    by_prompt: dict[str, list[CompletionFacts]] = defaultdict(list)
    for completion in completions:
        if len(by_prompt[completion.prompt_id]) < MOST_PER_PROMPT:
            by_prompt[completion.prompt_id].append(completion)
    for prompt, members in by_prompt.items():
        for one, other in combinations(members, 2):
            swap = derived_seed("comparison", prompt, one.id, other.id) % 2
            yield Comparison(other, one) if swap else Comparison(one, other)


def totals(annotations: Sequence[Annotation]) -> Mapping[str, float]:
    """Completion id -> its quality Q = helpfulness + correctness + coherence, where all three were scored."""
    return {
        completion: sum(weight * scores[name] for name, weight in QUALITY.items())
        for completion, scores in mean_scores(annotations).items()
        if QUALITY.keys() <= scores.keys()
    }


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


def measure_bias(completions: Sequence[CompletionFacts], annotations: Sequence[Annotation]) -> tuple[Bias, ...]:
    """Length and position bias of every annotator that scored all of helpfulness, correctness and coherence."""
    by_annotator: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        by_annotator.setdefault(annotation.annotator, []).append(annotation)
    found = (_bias(completions, name, own) for name, own in by_annotator.items())
    return tuple(bias for bias in found if bias is not None)


def _bias(completions: Sequence[CompletionFacts], annotator: str, annotations: Sequence[Annotation]) -> Bias | None:
    total_of = totals(annotations)
    scored = [completion for completion in completions if completion.id in total_of]
    if not scored:
        return None
    pairs = [(c.first, c.second) for c in comparisons(scored)]
    r = pearson(
        [float(one.words - other.words) for one, other in pairs],
        [total_of[one.id] - total_of[other.id] for one, other in pairs],
    )
    positions = {a.completion_id: a.position for a in annotations if a.position is not None}
    best_at = _best_at([one for one in scored if one.id in positions], total_of, positions)
    return Bias(annotator, None if math.isnan(r) else r, len(pairs), best_at, chi_square_p(best_at))


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


def _best_at(
    scored: Sequence[CompletionFacts], total_of: Mapping[str, float], positions: Mapping[str, int]
) -> tuple[int, ...]:
    by_prompt: dict[str, list[str]] = {}
    for completion in scored:
        by_prompt.setdefault(completion.prompt_id, []).append(completion.id)
    best_at = [0] * (1 + max((positions[completion.id] for completion in scored), default=-1))
    for members in by_prompt.values():
        highest = max(total_of[member] for member in members)
        best = [member for member in members if total_of[member] == highest]
        if len(best) == 1 and len(members) == len(best_at):
            best_at[positions[best[0]]] += 1
    return tuple(best_at)
