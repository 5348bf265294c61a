"""From answers to tables of sums: every group scored by each parser, ready to resample and compare."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.protocol import Benchmark, Parser, Reading, Sample
from pairsight.errors import DataError, one_line

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Decisions:
    """A parser's readings of the samples of the scored groups, as columns; `first`: where each group begins.

    `prediction` is JSON or text; `correct` is nan and `parsed` is -1 if unknown.
    """

    prediction: Sequence[str | None]
    correct: NDArray[np.float64]
    parsed: NDArray[np.int8]
    first: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One model's scores by one parser; `sums` is (G groups, C columns)."""

    parser: Parser
    sums: NDArray[np.float64]
    clusters: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    num_items: NDArray[np.int64]
    num_unparsed: NDArray[np.int64]
    decisions: Decisions = field(repr=False)

    def take(self, groups: Sequence[int]) -> "ScoreTable":
        """The sums of some groups, with all decisions."""
        if len(groups) == len(self.clusters):
            return self
        index = np.asarray(groups, np.int64)
        return ScoreTable(
            self.parser,
            self.sums[index],
            tuple(self.clusters[g] for g in groups),
            tuple(self.categories[g] for g in groups),
            self.num_items[index],
            self.num_unparsed[index],
            self.decisions,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to one sample; if there is none, `text` is None and `error` is the reason."""

    text: str | None
    finish_reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ScoredBenchmark:
    """One model's answers to a benchmark's groups, and its score tables by parser.

    `scored` are the indices of the groups in the tables.
    """

    name: str
    benchmark: Benchmark
    groups: Sequence[tuple[Sample, ...]]
    answers: Sequence[Sequence[Answer]]
    scored: Sequence[int]
    tables: Mapping[Parser, ScoreTable]


def score_groups(
    benchmark: Benchmark, groups: Sequence[tuple[Sample, ...]], answers: Iterable[Sequence[str]], parser: Parser
) -> ScoreTable:
    """Score every group by one parser.

    Args:
        benchmark: the benchmark, with its rule.
        groups: the groups.
        answers: per group one text per sample.
        parser: official or robust.
    """
    blocks: list[NDArray[np.float64]] = []
    sums: list[tuple[float, ...]] = []
    num_items, num_unparsed = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64)
    clusters, categories, decisions = [], [], _DecisionColumns(len(groups))
    for index, (group, texts) in enumerate(zip(groups, answers, strict=True)):
        scored = benchmark.score(group, texts, parser)
        sums.append(scored.sums)
        if len(sums) == _BLOCK:  # tuples take several times the memory of an array
            blocks.append(np.array(sums, dtype=np.float64))
            sums = []
        num_items[index], num_unparsed[index] = scored.num_items, scored.num_unparsed
        clusters.append(scored.cluster)
        categories.append(scored.categories)
        decisions.add(index, scored.readings, len(group))
    blocks.append(np.array(sums, dtype=np.float64).reshape(len(sums), len(benchmark.columns)))
    sums_GC = np.concatenate(blocks)
    columns = decisions.finish()
    return ScoreTable(parser, sums_GC, tuple(clusters), tuple(categories), num_items, num_unparsed, columns)


class _DecisionColumns:
    """Collects decisions as columns, which take a tenth of the memory of mappings."""

    def __init__(self, num_groups: int) -> None:
        self._first = np.zeros(num_groups, np.int64)
        self._prediction: list[str | None] = []
        self._correct = array("d")
        self._parsed = array("b")

    def add(self, group: int, readings: Sequence[Reading], num_samples: int) -> None:
        """Add the readings of a group's answers; there may be fewer readings than samples."""
        self._first[group] = len(self._prediction)
        for reading in readings[:num_samples]:
            self._prediction.append(as_text(reading.prediction))
            self._correct.append(math.nan if reading.correct is None else reading.correct)
            self._parsed.append(reading.parsed)
        for _ in range(num_samples - len(readings)):
            self._prediction.append(None)
            self._correct.append(math.nan)
            self._parsed.append(-1)

    def finish(self) -> Decisions:
        """The columns."""
        correct, parsed = np.frombuffer(self._correct, np.float64), np.frombuffer(self._parsed, np.int8)
        return Decisions(self._prediction, correct, parsed, self._first)


def score_benchmark(
    name: str,
    benchmark: Benchmark,
    groups: Sequence[tuple[Sample, ...]],
    answers: Sequence[Sequence[Answer]],
    complete: Sequence[int],
) -> ScoredBenchmark:
    """Score one model's answers to a benchmark by both parsers.

    Args:
        name: the benchmark's name in the results.
        benchmark: the benchmark, with its rule.
        groups: all groups.
        answers: per group one answer per sample.
        complete: the indices of the groups to score; all their samples have a text.
    """
    to_score = [groups[g] for g in complete]
    parsers: tuple[Parser, ...] = ("official", "robust")
    tables = {
        parser: score_groups(benchmark, to_score, ([a.text or "" for a in answers[g]] for g in complete), parser)
        for parser in parsers
    }
    return ScoredBenchmark(name, benchmark, groups, answers, complete, tables)


def without_answers(answers: Mapping[str, Sequence[Sequence[Sequence[Answer]]]]) -> str:
    """Why nothing can be scored: no group was answered completely by every model; "" if one was.

    Args:
        answers: model -> for each benchmark and group, one answer per sample.
    """
    for groups in zip(*answers.values(), strict=True):
        for by_model in zip(*groups, strict=True):
            if all(answer.text is not None for group in by_model for answer in group):
                return ""
    reasons = []
    for model, benchmarks in answers.items():
        all_of_model = [answer for groups in benchmarks for group in groups for answer in group]
        errors = Counter(answer.error for answer in all_of_model if answer.text is None)
        for error, count in errors.most_common(1):
            counts = f"{errors.total()} of {len(all_of_model)} questions have no answer by {model}"
            reasons.append(f"{counts} ({count} of them: {one_line(error, 160)})")
    return f"nothing can be scored: {'; '.join(reasons)}"


def as_text(value: Any) -> str | None:
    """A value as a table cell: text unchanged, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return _ENCODER.encode(value)


def _unusual(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_unusual)


def check_unique(name: str, groups: Sequence[tuple[Sample, ...]]) -> None:
    """Refuse a benchmark without samples or with duplicate ids.

    Raises:
        DataError: no samples, or a duplicate id.
    """
    seen: set[str] = set()
    for group in groups:
        for sample in group:
            if sample.id in seen:
                raise DataError(f"benchmark {name}: two samples have the id {sample.id}", reason="duplicate_id")
            seen.add(sample.id)
    if not seen:
        raise DataError(f"benchmark {name}: the file holds no samples", reason="empty_file")
