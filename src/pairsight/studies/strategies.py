"""Table 4 of Li et al. (2402.10884): strategies on the same prompts and annotations, and their effect on text tasks.

Compares the base, its language backbone before visual tuning, each strategy at its best learning rate, and external
checkpoints. Deviations: no PPO; learning rates are chosen on validation files, where the paper fixes one for each.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from pairsight.benchmarks.results import Metric
from pairsight.benchmarks.sections import difference_metric
from pairsight.errors import ConfigError
from pairsight.pipeline.align import AlignSpec
from pairsight.pipeline.evaluate import EvaluateSpec, evaluate_run
from pairsight.pipeline.select import load_candidates
from pairsight.plots import intervals
from pairsight.registry import ALLOWED_IN_A_NAME, BASE, is_adapter_name, plain_name
from pairsight.reporting.measures import estimate
from pairsight.selection.strategy import make_strategy
from pairsight.studies.result import Cell, Study, StudyResult, compare_scores
from pairsight.studies.strategy_trainings import IMAGES_ONLY, MATCHED, PAPER, Trainer, Training
from pairsight.training.config import OF_THE_LOSS

_LOG = logging.getLogger("pairsight.studies")

Rows = Mapping[str, Metric]
"""`BENCHMARK.METRIC` -> the system's metric, compared with the base's."""


class StrategiesStudy(Study):
    """`pairsight study strategies --run RUN --config FILE`: compare strategies on one run's candidates."""

    run: str = Field(description="a finished run of the recipe feedback")
    model: str = Field(description="the base: a folder or a hub name")
    out: str | None = Field(None, description="default: RUN/studies/strategies")
    benchmarks: dict[str, str] = Field(min_length=1, description="benchmark -> its file, for the final comparison")
    validation: dict[str, str] = Field(
        {}, description="benchmark -> another file, to choose among several learning rates"
    )
    choose_by: str = Field("", description="BENCHMARK.METRIC of `validation` by which the best rate is chosen")
    images: str | None = Field(None, description="the images' folder")
    validation_images: str | None = Field(None, description="the images' folder of `validation`; default: `images`")
    benchmark_options: dict[str, dict[str, object]] = Field({}, description="benchmark -> its own options")
    strategies: tuple[str, ...] = Field(
        ("preference_rule", "rejection_sampling", "steerlm", "sft"),
        min_length=1,
        description="strategies by name; the others are matched to the first one's number of tokens",
    )
    strategy_options: dict[str, dict[str, object]] = Field({}, description="strategy -> its own options")
    rate_factors: tuple[float, ...] = Field(
        (0.3, 1.0, 3.0), min_length=1, description="learning rates to try, as multiples of the default"
    )
    match_tokens: bool = Field(True, description="also train each strategy on as many tokens as the first")
    without_text_only: bool = Field(False, description="also train each strategy without text-only prompts")
    backbone: str | None = Field(None, description="the language model before visual tuning")
    text_benchmarks: tuple[str, ...] = Field(
        (), description="benchmarks whose text-only questions the backbone answers"
    )
    adapters: dict[str, str] = Field({}, description="external adapters of the base, name -> folder")
    models: dict[str, str] = Field({}, description="external full models, name -> folder")
    training: dict[str, object] = Field({}, description="options of every training, e.g. num_train_epochs")
    evaluation: dict[str, object] = Field({}, description="options of every evaluation, e.g. batch_size")

    def results(self, *, quiet: bool = False) -> list[StudyResult]:
        """Train, choose learning rates, evaluate; finished parts of earlier calls are reused. Writes to `out`."""
        return run_study(self, quiet)


def run_study(config: StrategiesStudy, quiet: bool = False) -> list[StudyResult]:
    """Run all trainings, choose learning rates, and compare the results.

    Returns:
        "strategies" (a row per system and metric, with paired intervals) and, with several learning rates,
        "strategies_rates" (the validation results).

    Raises:
        ConfigError: inconsistent names.
        PairsightError: raised by training or evaluation.
    """
    _check(config)
    out = Path(config.out) if config.out is not None else Path(config.run) / "studies" / "strategies"
    trained = train_all(config, out, quiet)
    by_name = {one.name: one for one in trained}
    shown = config.model_copy(update={"images": config.validation_images or config.images})
    folders = {name: str(one.adapter) for name, one in by_name.items()}
    chosen, tried = trained, dict[str, Rows]()
    if len(config.rate_factors) > 1:
        tried = _evaluate(shown, folders, config.validation, out / "validation", quiet)
        chosen = best_by_setting(trained, tried, config.choose_by)
    named = {f"{one.strategy}-{one.setting}": one for one in chosen}
    adapters = {name: str(one.adapter) for name, one in named.items()} | config.adapters
    compared = _evaluate(config, adapters, config.benchmarks, out / "held-out", quiet)
    others = {name: (model, tuple(config.benchmarks)) for name, model in config.models.items()}
    if config.backbone is not None:
        others["backbone"] = (config.backbone, config.text_benchmarks)
    for name, (model, benchmarks) in others.items():
        compared[name] = _other_model(config, name, model, benchmarks, out, quiet=quiet)
    results = [_comparison(named, compared)]
    if tried:
        results.append(_rates(trained, tried, chosen, config.choose_by))
    for result in results:
        result.write(out)
    return results


def train_all(config: StrategiesStudy, out: Path, quiet: bool = False) -> list[Training]:
    """Train every strategy in every setting at every learning rate."""
    from pairsight.models.local.chat import tokenizer_of
    from pairsight.models.local.processor import load_processor

    candidates, tokenizer = load_candidates(config.run), tokenizer_of(load_processor(config.model))
    trainer = Trainer(candidates, out / "align", tokenizer, quiet)
    first = config.strategies[0]
    budget = trainer.tokens(_training(config, first))
    trained = []
    for strategy in config.strategies:
        spec = _training(config, strategy)
        settings = [PAPER]
        settings += [MATCHED] if config.match_tokens and strategy != first else []
        settings += [IMAGES_ONLY] if config.without_text_only else []
        for setting in settings:
            for factor in config.rate_factors:
                limit = budget if setting == MATCHED else None
                rate = float(f"{spec.training.learning_rate * factor:.3g}")
                trained.append(trainer.train(spec, setting, rate, budget=limit))
    return trained


def _training(config: StrategiesStudy, strategy: str) -> AlignSpec:
    """A strategy's training in its default setting, without options of the pair loss if it makes demonstrations."""
    options = config.strategy_options.get(strategy, {})
    imitates = make_strategy(strategy, **options).makes_demonstrations
    training = {name: value for name, value in config.training.items() if not imitates or name not in OF_THE_LOSS}
    choice = {"data": config.run, "model": config.model, "strategy": strategy, "strategy_options": options}
    return AlignSpec.parse({**training, **choice})


def best_by_setting(trained: Sequence[Training], tried: Mapping[str, Rows], choose_by: str) -> list[Training]:
    """For each strategy and setting, the training with the best validation result; the first of equals.

    Args:
        trained: all trainings.
        tried: training name -> its validation metrics.
        choose_by: `BENCHMARK.METRIC`.

    Raises:
        ConfigError: there is no such metric.
    """
    groups: dict[tuple[str, str], list[Training]] = {}
    for one in trained:
        groups.setdefault((one.strategy, one.setting), []).append(one)

    def goodness(one: Training) -> float:
        rows = tried[one.name]
        value = rows[choose_by].aligned if choose_by in rows else None
        if value is None:
            raise ConfigError(f"choose_by: there is no '{choose_by}'; choose one of {', '.join(sorted(rows))}")
        return -value if rows[choose_by].better == "lower" else value

    return [max(group, key=goodness) for group in groups.values()]


def _check(config: StrategiesStudy) -> None:
    of_rates = [name for name in ("validation", "choose_by", "validation_images") if getattr(config, name)]
    if len(config.rate_factors) == 1 and of_rates:
        _LOG.warning("%s: not used, because there is one learning rate (rate_factors)", ", ".join(of_rates))
    if len(config.rate_factors) > 1 and not (config.validation and config.choose_by):
        raise ConfigError("several rate_factors need `validation` and `choose_by`, to choose among learning rates")
    unknown = [name for name in config.text_benchmarks if name not in config.benchmarks]
    if unknown:
        known = ", ".join(config.benchmarks)
        raise ConfigError(f"text_benchmarks: '{unknown[0]}' is not one of the benchmarks ({known})")
    if config.backbone is not None and not config.text_benchmarks:
        raise ConfigError("backbone: name the benchmarks whose text-only questions it answers in text_benchmarks")
    names = [plain_name(name) for name in config.strategies]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"strategies: two are called '{name}'; each needs a name of its own")
    for name in (*config.adapters, *config.models):
        if not is_adapter_name(name):
            raise ConfigError(f"a system cannot be named {name!r:.80}: {ALLOWED_IN_A_NAME}, and not '{BASE}'")
    for name in config.strategy_options:
        if name not in config.strategies:
            known = ", ".join(config.strategies)
            raise ConfigError(f"strategy_options: '{name}' is not one of the strategies ({known})")


def _evaluate(
    config: StrategiesStudy, adapters: Mapping[str, str], benchmarks: Mapping[str, str], out: Path, quiet: bool
) -> dict[str, Rows]:
    """System -> its metrics compared with the base's, all on the same items."""
    systems = evaluate_run(_evaluation(config, config.model, benchmarks, out, adapters), quiet=quiet).systems
    return {
        name: {f"{section.name}.{metric.name}": metric for section, metric in system.figures}
        for name, system in systems.items()
    }


def _other_model(
    config: StrategiesStudy, name: str, model: str, benchmarks: Sequence[str], out: Path, *, quiet: bool
) -> Rows:
    """Another full model's metrics, paired with the base's on the items that both could answer."""
    asked = {benchmark: config.benchmarks[benchmark] for benchmark in benchmarks}
    folder = out / f"held-out-{name}"
    spec = _evaluation(config, model, asked, folder)
    evaluate_run(spec, quiet=quiet)
    found: dict[str, Metric] = {}
    for task in spec.tasks:
        differences = compare_scores(
            out / "held-out" / "scores-base.parquet", folder / "scores-base.parquet", task.name, task.benchmark
        )
        for metric, one in differences.items():
            better = task.benchmark.directions().get(metric, "neither")
            found[f"{task.name}.{metric}"] = difference_metric(metric, one, better)
    return found


def _evaluation(
    config: StrategiesStudy,
    model: str,
    benchmarks: Mapping[str, str],
    out: Path,
    adapters: Mapping[str, str] | None = None,
) -> EvaluateSpec:
    options = {name: value for name, value in config.benchmark_options.items() if name in benchmarks}
    values = {**config.evaluation, "model": model, "benchmarks": dict(benchmarks), "out": str(out)}
    if options:
        values["benchmark_options"] = options
    if config.images is not None:
        values["images"] = config.images
    return EvaluateSpec.parse(values | ({} if adapters is None else {"adapters": dict(adapters)}))


def _comparison(named: Mapping[str, Training], compared: Mapping[str, Rows]) -> StudyResult:
    rows: list[tuple[Cell, ...]] = []
    for system, figures in compared.items():
        one = named.get(system)
        cost: tuple[Cell, ...] = (None, None, None)
        if one is not None:
            cost = (f"{one.learning_rate:g}", one.steps, one.tokens)
        for metric, row in figures.items():
            interval = (row.difference, row.low, row.high, row.p_value)
            rows.append((system, *cost, metric, row.base, row.aligned, *interval, row.better))
    metrics = list(dict.fromkeys(metric for figures in compared.values() for metric in figures))
    clear = sum(1 for row in rows if _excludes_zero(row[8], row[9]))
    return StudyResult(
        "strategies",
        "Strategies from the same prompts and annotations",
        ("system", "learning_rate", "steps", "ktokens", "metric", "base", "value", "difference", "low", "high",
         "p_value", "better"),
        tuple(rows),
        intervals(
            list(compared),
            {metric: [estimate(figures.get(metric)) for figures in compared.values()] for metric in metrics[:4]},
            x_label="difference from the base, 95 % interval",
            alt="each system's difference from the base, with intervals",
        ),
        f"{len(compared)} systems against the base on the same items, each strategy at the rate that was best on the "
        f"validation files, or the only one asked for. Of {len(rows)} differences {clear} have 95 % intervals without "
        "zero. ktokens: completion tokens trained on, in thousands, repetitions counted.",
    )  # fmt: skip


def _rates(
    trained: Sequence[Training], tried: Mapping[str, Rows], chosen: Sequence[Training], choose_by: str
) -> StudyResult:
    rows = tuple(
        (one.strategy, one.setting, f"{one.learning_rate:g}", one.steps, one.tokens,
         tried[one.name][choose_by].aligned, "yes" if one in chosen else "")
        for one in trained
    )  # fmt: skip
    return StudyResult(
        "strategies_rates",
        "Learning rates on the validation files",
        ("strategy", "setting", "learning_rate", "steps", "ktokens", choose_by, "chosen"),
        rows,
        intervals(
            [one.name for one in trained],
            {choose_by: [estimate(tried[one.name][choose_by]) for one in trained]},
            x_label=f"{choose_by}, difference from the base, 95 % interval",
            alt="each training's difference from the base on the validation files",
        ),
        f"Each strategy's rate is the one with the best {choose_by}.",
    )


def _excludes_zero(low: Cell, high: Cell) -> bool:
    return isinstance(low, (int, float)) and isinstance(high, (int, float)) and (low > 0 or high < 0)
