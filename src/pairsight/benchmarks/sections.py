"""A benchmark's section of the results: settings, failures, and metrics by both parsers and by category."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pairsight.benchmarks.protocol import Benchmark, Parser
from pairsight.benchmarks.published import PrintedFigure, Scalar, published_figures
from pairsight.benchmarks.results import Metric, Section, finite
from pairsight.benchmarks.scoring import ScoredBenchmark, ScoreTable
from pairsight.benchmarks.tasks import LoadedTask
from pairsight.statistics import NUM_RESAMPLES, Difference, Resampled, differences, estimates, resample

_LISTED_FAILURES = 20
_LOG = logging.getLogger("pairsight.benchmarks")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """The settings, other than models and benchmarks, that decide the figures; `EvaluateOptions` explains them.

    `model` is the base's reference, used to look up published figures; `profile` is the name of what it is used with.
    """

    parser: Parser = "official"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    on_error: Literal["stop", "skip"] = "stop"
    num_resamples: int = NUM_RESAMPLES
    model: str = ""
    profile: str = ""
    load_in_4bit: bool = False

    @property
    def skip_bad(self) -> bool:
        """Whether bad images and questions are skipped and counted."""
        return self.on_error == "skip"

    @property
    def identity(self) -> dict[str, Scalar]:
        """What an evaluation is only continued with, where its caller does not say it."""
        return {"model": self.model, "limit": self.limit, "seed": self.seed}


def make_section(
    loaded: LoadedTask,
    base: ScoredBenchmark,
    other: ScoredBenchmark | None,
    settings: EvaluationSettings,
    *,
    models: Mapping[str, str],
    answers: str | None = None,
) -> Section:
    """The section of one model, or of a base and an aligned model, on one benchmark.

    Args:
        loaded: the benchmark with its groups.
        base: the base's answers and scores.
        other: the aligned model's; None if only one model was evaluated.
        settings: the settings to record, the parser of `metrics`, and the bootstrap's seed.
        models: the fingerprints of the measured models, by role.
        answers: the answer file, if the answers were generated elsewhere with unknown prompt and decoding.
    """
    sampling = loaded.task.sampling
    by_role = {"base": base, "aligned": other} if other else {"base": base}
    other_parser: Parser = "robust" if settings.parser == "official" else "official"
    fallbacks = base.benchmark.fallbacks
    labels = {parser: _parser_label(parser, fallbacks) for parser in ("official", "robust")}
    comparison = _Comparison(sampling.temperature if answers is None else None, list(by_role.values()), settings)
    metrics = comparison.metrics(range(len(base.scored)), (settings.parser, other_parser))
    section = Section(
        name=loaded.task.name,
        metrics=metrics[settings.parser],
        file=str(loaded.task.path),
        models=models,
        settings={
            "sha256": loaded.sha256,
            "rows": sum(len(group) for group in loaded.groups),
            "parser": labels[settings.parser],
            **(_generation_settings(loaded, settings) if answers is None else {}),
            "limit": settings.limit,
            **base.benchmark.facts(),
            **({} if other is None else _differing(base.benchmark.facts(), other.benchmark.facts())),
            **({} if answers is None else {"answers": answers}),
        },
        fallbacks=fallbacks,
        mean_words={role: _mean_words(part) for role, part in by_role.items()},
        failed={role: len(_failures(part)) for role, part in by_role.items()},
        failed_items={role: tuple(_failures(part)[:_LISTED_FAILURES]) for role, part in by_role.items()},
        other_parser=(labels[other_parser], metrics[other_parser]),
        categories={
            name: comparison.metrics(members, (settings.parser,))[settings.parser]
            for name, members in _categories(base, settings.parser).items()
        },
    )
    return replace(section, published=_published(section, settings.model, loaded.task.benchmark))


def _differing(base: Mapping[str, Scalar], aligned: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The facts of the aligned model's scoring that are others than the base's."""
    return {f"{name}_aligned": value for name, value in aligned.items() if base.get(name) != value}


def _published(section: Section, model: str, benchmark: Benchmark) -> tuple[PrintedFigure, ...]:
    """The figures that papers printed of the model on this benchmark; logs the settings that differ."""
    figures = published_figures(
        model,
        benchmark.name,
        benchmark.prompt_suffix,
        settings=section.settings,
        metrics=section.metrics,
        any_failed=any(section.failed.values()),
    )
    for difference in figures[0].differs if figures else ():
        _LOG.warning("%s: not as published: %s", section.name, difference)
    return figures


def metrics_of(benchmark: Benchmark, tables: Sequence[ScoreTable], resampled: Sequence[Resampled]) -> dict[str, Metric]:
    """Metrics by name, of one model or of a base and an aligned model.

    Args:
        benchmark: the benchmark with its metrics.
        tables: one model's score table, or the base's and the aligned model's for the same groups.
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


def _generation_settings(loaded: LoadedTask, settings: EvaluationSettings) -> dict[str, Scalar]:
    """How the answers were generated."""
    return {
        "prompt_suffix": loaded.task.suffix,
        "batch_size": settings.batch_size,
        "temperature": loaded.task.sampling.temperature,
        "max_new_tokens": loaded.task.sampling.max_new_tokens,
        **({"profile": settings.profile} if settings.profile else {}),
        **({"load_in_4bit": True} if settings.load_in_4bit else {}),
    }


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One model, or a base and an aligned model, on one benchmark."""

    temperature: float | None
    parts: Sequence[ScoredBenchmark]
    settings: EvaluationSettings

    def metrics(self, members: Sequence[int], parsers: Sequence[Parser]) -> dict[Parser, dict[str, Metric]]:
        """Parser -> metrics on some of the scored groups; all tables are resampled together."""
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
            of_parser = slice(index * len(self.parts), (index + 1) * len(self.parts))
            metrics = metrics_of(benchmark, tables[of_parser], resampled[of_parser])
            found[parser] = {name: replace(metric, temperature=self.temperature) for name, metric in metrics.items()}
        return found


def _parser_label(parser: Parser, fallbacks: Sequence[str]) -> str:
    """The parser's label in results: never just "official" if fallbacks replace tools of the original."""
    return "official rule with fallbacks" if parser == "official" and fallbacks else parser


def _categories(part: ScoredBenchmark, parser: Parser) -> Mapping[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, names in enumerate(part.tables[parser].categories):
        for name in names:
            members.setdefault(name, []).append(index)
    return dict(sorted(members.items()))


def _failures(part: ScoredBenchmark) -> list[str]:
    found = []
    for group, answers in zip(part.groups, part.answers, strict=True):
        unscored = part.benchmark.failures(group)
        for sample, answer in zip(group, answers, strict=True):
            why = answer.error if answer.text is None else unscored.get(sample.id, "")
            if why or answer.text is None:
                found.append(f"{sample.id}: {why}")
    return found


def _mean_words(part: ScoredBenchmark) -> float | None:
    words = [len(answer.text.split()) for answers in part.answers for answer in answers if answer.text is not None]
    return finite(sum(words) / len(words)) if words else None
