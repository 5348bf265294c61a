"""A benchmark's section of the results: its settings, what failed, and its metrics by both parsers and by category."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pairsight.benchmarks.protocol import Benchmark, Parser
from pairsight.benchmarks.published import PrintedFigure, published_beside
from pairsight.benchmarks.results import Metric, Scalar, Section, finite
from pairsight.benchmarks.scoring import ScoredBenchmark, ScoreTable
from pairsight.benchmarks.tasks import LoadedTask
from pairsight.statistics import NUM_RESAMPLES, Difference, Resampled, differences, estimates, resample

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
    models: Mapping[str, str],
    answers: str | None = None,
) -> Section:
    """One benchmark of one base, or of a base and an aligned model.

    Args:
        item: the benchmark with its file.
        base: the base's answers and scores.
        other: the aligned model's; None when only one model was evaluated.
        settings: what is recorded, the parser of `metrics`, and the bootstrap's seed.
        models: fingerprints of what was measured, by role.
        answers: the file of answers that were made elsewhere, with a prompt and decoding that we do not know.
    """
    sampling = item.task.sampling
    counted = {"base": base, "aligned": other} if other else {"base": base}
    beside: Parser = "robust" if settings.parser == "official" else "official"
    fallbacks = item.task.benchmark.fallbacks
    shown = {parser: _shown(parser, fallbacks) for parser in ("official", "robust")}
    comparison = _Comparison(sampling.temperature if answers is None else None, list(counted.values()), settings)
    metrics = comparison.metrics(range(len(base.scored)), (settings.parser, beside))
    found = Section(
        name=item.task.name,
        metrics=metrics[settings.parser],
        file=str(item.task.path),
        models=models,
        settings={
            "sha256": item.sha256,
            "rows": sum(len(group) for group in item.groups),
            "parser": shown[settings.parser],
            **(_made(item, settings) if answers is None else {}),
            "limit": settings.limit,
            **({} if answers is None else {"answers": answers}),
        },
        fallbacks=fallbacks,
        mean_words={name: _mean_words(part) for name, part in counted.items()},
        failed={name: len(_failures(part)) for name, part in counted.items()},
        failed_items={name: tuple(_failures(part)[:_LISTED]) for name, part in counted.items()},
        other_parser=(shown[beside], metrics[beside]),
        categories={
            name: comparison.metrics(members, (settings.parser,))[settings.parser]
            for name, members in _categories(base, settings.parser).items()
        },
    )
    return replace(found, published=_published(found, settings.model, item.task.benchmark))


def _published(found: Section, model: str, benchmark: Benchmark) -> tuple[PrintedFigure, ...]:
    """What papers printed of the model on this benchmark; the log says what is not as in print."""
    printed = published_beside(
        model,
        benchmark.name,
        benchmark.prompt_suffix,
        settings=found.settings,
        metrics=found.metrics,
        any_failed=any(found.failed.values()),
    )
    for difference in printed[0].differs if printed else ():
        _LOG.warning("%s: not as published: %s", found.name, difference)
    return printed


def metrics_of(benchmark: Benchmark, tables: Sequence[ScoreTable], resampled: Sequence[Resampled]) -> dict[str, Metric]:
    """Metrics by name, from one model's table, or from the base's and the aligned model's.

    Args:
        benchmark: whose metrics.
        tables: one, or the base's and the aligned model's of the same groups.
        resampled: the same tables, resampled together.
    """
    num_items, unparsed = int(tables[-1].num_items.sum()), int(tables[-1].num_unparsed.sum())
    better = benchmark.directions()
    found: dict[str, Metric] = {}
    if len(tables) == 1:
        for name, value in estimates(resampled[0]).items():
            found[name] = Metric(
                name,
                better.get(name, "neither"),
                base=finite(value.value),
                low=finite(value.low),
                high=finite(value.high),
                num_items=num_items,
                unparsed=unparsed,
                compared=False,
            )
        return found
    for name, one in differences(resampled[0], resampled[1]).items():
        found[name] = replace(
            difference_metric(name, one, better.get(name, "neither")),
            num_items=num_items,
            unparsed=unparsed,
            unparsed_base=int(tables[0].num_unparsed.sum()),
        )
    return found


def difference_metric(name: str, found: Difference, better: str) -> Metric:
    """A paired difference as a metric."""
    return Metric(
        name,
        better,
        base=finite(found.base),
        aligned=finite(found.aligned),
        difference=finite(found.difference),
        low=finite(found.low),
        high=finite(found.high),
        p_value=finite(found.p_value),
    )


def _made(item: LoadedTask, settings: EvaluationSettings) -> dict[str, Scalar]:
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

    def metrics(self, members: Sequence[int], parsers: Sequence[Parser]) -> dict[Parser, dict[str, Metric]]:
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
        found: dict[Parser, dict[str, Metric]] = {}
        for index, parser in enumerate(parsers):
            mine = slice(index * len(self.parts), (index + 1) * len(self.parts))
            metrics = metrics_of(benchmark, tables[mine], resampled[mine])
            found[parser] = {name: replace(one, temperature=self.temperature) for name, one in metrics.items()}
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
