"""A benchmark's part of `results.json`: its settings, what failed, and its metrics by both parsers and by category."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pairsight.benchmarks.protocol import Parser
from pairsight.benchmarks.published import published_beside
from pairsight.benchmarks.results import Row, finite, metric_rows
from pairsight.benchmarks.scoring import ScoredBenchmark
from pairsight.benchmarks.tasks import LoadedTask
from pairsight.statistics import NUM_RESAMPLES, resample

_LISTED = 20
_LOG = logging.getLogger("pairsight.benchmarks")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What decides the figures beside models and benchmarks; see `EvaluateOptions` for their meanings.

    `model` is the base's reference, by which published figures are found.
    """

    parser: Parser = "official"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    on_error: Literal["stop", "skip"] = "stop"
    num_resamples: int = NUM_RESAMPLES
    model: str = ""


def section(
    item: LoadedTask,
    base: ScoredBenchmark,
    other: ScoredBenchmark | None,
    settings: EvaluationSettings,
    *,
    made_here: bool = True,
) -> dict[str, Any]:
    """One benchmark of one base, or of a base and an aligned model.

    Args:
        item: the benchmark with its file.
        base: the base's answers and scores.
        other: the aligned model's; None when only one model was evaluated.
        settings: what is recorded, the parser of `metrics`, and the bootstrap's seed.
        made_here: whether we know how the answers were made: prompt, decoding and batch size.

    Returns:
        sha256, rows, parser, fallbacks, prompt_suffix, batch_size, temperature, max_new_tokens, limit, mean_words,
        failed, failed_items, metrics, other_parser {parser, metrics}; where the benchmark names some, categories; where
        papers printed figures of this model, published.
    """
    sampling = item.task.sampling
    counted = {"base": base, "aligned": other} if other else {"base": base}
    beside: Parser = "robust" if settings.parser == "official" else "official"
    fallbacks = list(getattr(item.task.benchmark, "fallbacks", ()))
    shown = {parser: _shown(parser, fallbacks) for parser in ("official", "robust")}
    comparison = _Comparison(sampling.temperature if made_here else None, list(counted.values()), settings)
    metrics = comparison.metrics(range(len(base.scored)), (settings.parser, beside))
    found: dict[str, Any] = {
        "sha256": item.sha256,
        "rows": sum(len(group) for group in item.groups),
        "parser": shown[settings.parser],
        "fallbacks": fallbacks,
        **(_made(item, settings) if made_here else {}),
        "limit": settings.limit,
        "mean_words": {name: _mean_words(part) for name, part in counted.items()},
        "failed": {name: len(_failures(part)) for name, part in counted.items()},
        "failed_items": {name: _failures(part)[:_LISTED] for name, part in counted.items()},
        "metrics": metrics[settings.parser],
        "other_parser": {"parser": shown[beside], "metrics": metrics[beside]},
    }
    categories = {
        name: comparison.metrics(members, (settings.parser,))[settings.parser]
        for name, members in _categories(base, settings.parser).items()
    }
    if categories:
        found["categories"] = categories
    published = published_beside(settings.model, item.task.benchmark.name, found, item.task.benchmark.prompt_suffix)
    if published:
        found["published"] = published
        for difference in published[0]["differs"]:
            _LOG.warning("%s: not as published: %s", item.task.name, difference)
    return found


def _made(item: LoadedTask, settings: EvaluationSettings) -> dict[str, Any]:
    """How the answers were made."""
    return {
        "prompt_suffix": item.task.suffix,
        "batch_size": settings.batch_size,
        "temperature": item.task.sampling.temperature,
        "max_new_tokens": item.task.sampling.max_new_tokens,
    }


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One model, or a base and an aligned one, on one benchmark."""

    temperature: float | None
    parts: Sequence[ScoredBenchmark]
    settings: EvaluationSettings

    def metrics(self, members: Sequence[int], parsers: Sequence[Parser]) -> dict[Parser, dict[str, Row]]:
        """Parser -> metrics on some of the scored groups, all tables resampled together."""
        benchmark = self.parts[0].benchmark
        tables = [part.tables[parser].take(members) for parser in parsers for part in self.parts]
        resampled = resample(
            [table.sums for table in tables],
            tables[0].clusters,
            benchmark.combine,
            num_resamples=self.settings.num_resamples,
            seed=self.settings.seed,
        )
        found: dict[Parser, dict[str, Row]] = {}
        for index, parser in enumerate(parsers):
            mine = slice(index * len(self.parts), (index + 1) * len(self.parts))
            rows = metric_rows(benchmark, tables[mine], resampled[mine])
            known = {} if self.temperature is None else {"temperature": self.temperature}
            found[parser] = {name: {**row, **known} for name, row in rows.items()}
        return found


def _shown(parser: Parser, fallbacks: Sequence[str]) -> str:
    """What a figure's rule is called: never official where a tool of the original is missing."""
    return "official rule with fallbacks" if parser == "official" and fallbacks else parser


def _categories(part: ScoredBenchmark, parser: Parser) -> Mapping[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, names in enumerate(part.tables[parser].categories):
        for name in names:
            members.setdefault(name, []).append(index)
    return dict(sorted(members.items()))


def _failures(part: ScoredBenchmark) -> list[str]:
    return [
        f"{sample.id}: {answer.error}"
        for group, answers in zip(part.groups, part.answers, strict=True)
        for sample, answer in zip(group, answers, strict=True)
        if answer.text is None
    ]


def _mean_words(part: ScoredBenchmark) -> float | None:
    words = [len(answer.text.split()) for answers in part.answers for answer in answers if answer.text is not None]
    return finite(sum(words) / len(words)) if words else None
