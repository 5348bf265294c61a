"""Base and adapters on benchmarks: what `evaluate` does, with or without a run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pairsight.benchmarks.results import DataCounts, Results, Section, System
from pairsight.benchmarks.results_file import merged, results_at, write_results
from pairsight.build_record import BuildRecord
from pairsight.config import option_facts
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, PairsightError, RunError
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.models.profiles.profile import Profile
from pairsight.options import EvaluateOptions, ScoreOptions
from pairsight.pipeline.models import (
    asked_profile,
    check_model_name,
    check_servers,
    find_profile,
    is_same_model,
    model_opener,
    open_generator,
)
from pairsight.registry import is_adapter_name, plugins
from pairsight.store.lock import folder_lock
from pairsight.store.run_folder import RunFolder

if TYPE_CHECKING:
    from pairsight.benchmarks.judging import OpenJudge
    from pairsight.benchmarks.published import Scalar
    from pairsight.benchmarks.sections import EvaluationSettings
    from pairsight.benchmarks.tasks import BenchmarkTask

_LOG = logging.getLogger("pairsight.evaluate")


@dataclass(frozen=True, slots=True)
class EvaluateSpec:
    """All of an evaluation: its options and its benchmarks, whose files exist."""

    options: EvaluateOptions
    tasks: "tuple[BenchmarkTask, ...]"

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """The evaluation that flat options of `EvaluateOptions` ask for.

        Raises:
            ConfigError: an unknown option or benchmark, or a file that does not exist.
        """
        from pairsight.benchmarks.tasks import make_tasks

        named = values.get("benchmarks")
        for name in values.keys() - EvaluateOptions.model_fields.keys():
            if isinstance(named, Mapping) and name in named:
                own = f"--set benchmark_options.{name}.OPTION=VALUE"
                raise ConfigError(f"evaluate: options of the benchmark {name} are given as {own}")
        options = EvaluateOptions.parse(values, "evaluate")
        if options.out is not None and "name" in options.given():
            raise ConfigError("evaluate: --name is a folder's inside the run, --out names another; give one of them")
        check_servers(options.calls, options.to_plain())
        tasks = make_tasks(options.benchmarks, options.benchmark_options, temperature=options.temperature)
        for task in tasks:
            if not task.path.exists():
                raise ConfigError(f"benchmark {task.name}: {task.path} does not exist")
        return cls(options, tasks)

    def identity(self, profile: Profile | None = None) -> "dict[str, Scalar]":
        """The options that an evaluation is only continued with; its benchmarks hold the others that are compared.

        Args:
            profile: that all its models are used with.
        """
        plain, facts = self.options.model_dump(mode="json"), option_facts(EvaluateOptions)
        found = {name: plain[name] for name, option in facts.items() if option.compared and not option.by_benchmark}
        used = None if profile is None else f"{profile.name} {profile.applied_to('')[7:19]}"
        return {**found, "profile": used, "load_in_4bit": self.options.load_in_4bit or None}  # None as before

    def settings(self, profile: Profile | None = None) -> "EvaluationSettings":
        """What besides models and benchmarks changes the figures."""
        from pairsight.benchmarks.sections import EvaluationSettings

        options = self.options
        return EvaluationSettings(
            parser=options.parser,
            limit=options.limit,
            seed=options.seed,
            batch_size=options.batch_size,
            on_error=options.on_error,
            model=options.model,
            profile="" if profile is None else profile.name,
            load_in_4bit=options.load_in_4bit,
        )


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """The scoring of answers made elsewhere: its options and its one benchmark with the official file."""

    options: ScoreOptions
    benchmark: str
    path: str

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """The scoring that flat options of `ScoreOptions` ask for.

        Raises:
            ConfigError: an unknown option, or not exactly one benchmark.
        """
        options = ScoreOptions.parse(values, "score")
        if len(options.benchmarks) != 1:
            raise ConfigError(f"score needs one --benchmark NAME=PATH, found {len(options.benchmarks)}")
        ((name, path),) = options.benchmarks.items()
        return cls(options, name, path)


def evaluate_run(spec: EvaluateSpec, *, quiet: bool = False) -> Results:
    """Evaluate the base and its adapters, as the spec says.

    Returns:
        The run's results, updated with this evaluation; without a run, this evaluation's only.

    Raises:
        PairsightError: a bad file, or a folder that cannot be used.
    """
    options = spec.options
    if options.run is None:
        if options.out is None:
            raise ConfigError("say where the results go: a RUN, or --out DIR")
        return _evaluate(spec, options.adapters, Path(options.out), quiet)
    run = RunFolder.open(options.run)
    results_at(run.path / "results.json")  # an unreadable file is found before hours of work, not after
    adapters = _distinct(options.adapters) or run_adapters(run, options.model)
    out = Path(options.out) if options.out is not None else run.evaluate(options.name)
    found = _evaluate(spec, adapters, out, quiet)
    name = options.name if options.out is None else _relative_to(run, out)
    return publish(run, found, name, options.judge)


def evaluate(
    model: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    *,
    benchmarks: Mapping[str, str | Path],
    images: str | Path | None = None,
    out: str | Path | None = None,
    run: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> dict[str, object]:
    """Evaluate a base model and its adapters.

    Args:
        model: the base, always evaluated.
        adapters: name -> the folder of an adapter or of a full model.
        benchmarks: benchmark name -> its official file or folder.
        images: the folder that image names refer to.
        out: where answers and results go; default: RUN/evaluate/held-out, or `evaluate` in the first adapter's folder.
        run: the run that `results.json` belongs to.
        quiet: show no progress.
        options: further fields of `EvaluateOptions`.

    Returns:
        The content of `results.json` as plain values; see docs/dataflow.md.
    """
    named = {name: str(path) for name, path in (adapters or {}).items()}
    if out is None and run is None and named:
        out = Path(next(iter(named.values()))) / "evaluate"
    values = {
        "model": str(model), "adapters": named, "images": images and str(images), "out": out and str(out),
        "run": run and str(run), "benchmarks": {name: str(path) for name, path in benchmarks.items()}, **options,
    }  # fmt: skip
    given = {name: value for name, value in values.items() if value is not None}
    with plugins(given):
        return evaluate_run(EvaluateSpec.parse(given), quiet=quiet).to_plain()


def score_run(spec: ScoreSpec) -> Results:
    """Score answers made elsewhere, as the spec says.

    Raises:
        ConfigError: an unknown option of the benchmark.
        DataError: a bad file, or an id that is unknown, missing or repeated.
    """
    from pairsight.benchmarks.judging import Judging
    from pairsight.benchmarks.score import score_answers
    from pairsight.benchmarks.sections import EvaluationSettings
    from pairsight.engine.calls.calls import Caller

    options = spec.options
    check_servers(options.calls, options.to_plain())
    return score_answers(
        spec.benchmark,
        spec.path,
        options.answers,
        options.out,
        options=options.benchmark_options.get(spec.benchmark),
        settings=EvaluationSettings(parser=options.parser, seed=options.seed),
        model=options.model,
        judging=Judging(
            None if options.verdicts is None else Path(options.verdicts),
            None if options.judge is None else _judge_opener(options.judge, options.endpoint),
            Caller(options.calls),
        ),
    )


def run_adapters(run: RunFolder, model: str) -> dict[str, str]:
    """Name -> folder of a run's finished trainings (adapters and full models); the log names what is left out, and why.

    Args:
        run: the run.
        model: the base that they are compared with.

    Raises:
        ModelError: the base cannot be used.
        RunError: no training can be evaluated.
    """
    check_model_name(model, template=False)
    found, left_out = {}, []
    for folder in sorted(path for path in (run.path / "align").glob("[!.]*") if path.is_dir()):
        try:
            if not (folder / "pairsight.json").is_file():
                raise RunError(_unfinished(folder))
            if not is_adapter_name(folder.name):
                raise RunError("a name may have only letters, digits, . _ + -; give it as --adapter NAME=DIR")
            check_model_name(model, folder, template=False)
        except PairsightError as error:
            left_out.append(f"{folder} is left out: {error}")
        else:
            found[folder.name] = str(folder)
    for line in left_out:
        _LOG.warning("%s", line)
    if not found:
        ready = "has no finished adapter yet" if not left_out else "has no adapter that can be evaluated"
        raise RunError(
            f"{run.path} {ready}: run pairsight align {run.path} --model {model}, or give --adapter NAME=DIR"
        )
    return found


def _unfinished(folder: Path) -> str:
    """Why a folder is not a finished training; older versions put a plug-in's training into a folder inside it."""
    inside = [] if (folder / "align.yaml").exists() else sorted(folder.rglob("pairsight.json"))
    if inside:
        return f"the training inside, {inside[0].parent}, is named after a file; give it as --adapter NAME=DIR"
    return "it is not finished (no pairsight.json)"


def _evaluate(spec: EvaluateSpec, adapters: Mapping[str, str], out: Path, quiet: bool) -> Results:
    from pairsight.benchmarks.evaluate import evaluate_models
    from pairsight.engine.calls.calls import Caller
    from pairsight.engine.runner import open_engine

    options = spec.options
    for adapter in [None, *adapters.values()]:
        check_model_name(options.model, adapter, template=False)
    profile = find_profile(
        asked_profile(options.profile, options.chat_template), [options.model], list(adapters.values())
    )
    progress = Progress("quiet" if quiet else "auto")
    with open_engine(options.engine, options.workers) as engine, progress:
        return evaluate_models(
            options.model,
            spec.tasks,
            model_opener(
                options.model,
                options.batch_size,
                options.trust_remote_code,
                options.endpoint,
                profile,
                options.load_in_4bit,
            ),
            out=out,
            adapters=adapters,
            images=options.images,
            export=options.export_official,
            settings=spec.settings(profile),
            identity=spec.identity(profile),
            engine=engine,
            progress=progress,
            caller=Caller(options.calls),
            judges=[
                _judge_opener(judge, options.endpoint, options.trust_remote_code)
                for judge in (options.judge, options.second_judge)
                if judge is not None
            ],
        )


def _judge_opener(judge: str, endpoint: EndpointOptions, trust_remote_code: bool = False) -> "OpenJudge":
    """A function that opens the judge, once its name has been checked."""
    check_model_name(judge)
    return lambda images: open_generator(judge, images, endpoint=endpoint, trust_remote_code=trust_remote_code)


def _distinct(adapters: Mapping[str, str]) -> Mapping[str, str]:
    """The same adapters; ConfigError where one folder is given under two names."""
    names: dict[Path, str] = {}
    for name, folder in adapters.items():
        first = names.setdefault(Path(folder).expanduser().resolve(), name)
        if first != name:
            raise ConfigError(f"adapters '{first}' and '{name}' are the same folder {folder}; give it one name")
    return adapters


def publish(run: RunFolder, found: Results, evaluation: str, judge: str | None = None) -> Results:
    """Merge an evaluation into the run's `results.json`.

    Each adapter is a system, named after the run's recipe where it is the only one, else `recipe:adapter`.

    Args:
        run: the run.
        found: what was evaluated: systems by their adapters' names.
        evaluation: the evaluation's name inside the run.
        judge: the model that judged.

    Returns:
        All results of the run.
    """
    recipe, path = BuildRecord.from_plain(run.config).recipe.name or "run", run.path / "results.json"
    data = data_counts(run)
    systems = {}
    annotator = BuildRecord.from_plain(run.config).options.get("annotator")
    is_annotator = judge is not None and isinstance(annotator, str) and is_same_model(judge, annotator)
    for system in found.systems.values():
        sections = tuple(_noted(replace(section, evaluation=evaluation), is_annotator) for section in system.sections)
        name, aligned = f"{recipe}:{system.adapter}", _relative_to(run, Path(system.aligned))
        systems[name] = replace(system, name=name, sections=sections, aligned=aligned, data=data)
    with folder_lock(run.path):
        old = _by_adapter(results_at(path), run, recipe)
        results, removed = merged(old, Results(systems=systems, run=run.path.name))
        results = replace(results, primary=results.primary or next(iter(results.systems)))
        if len(results.systems) == 1:
            (only,) = results.systems.values()
            results = replace(results, systems={recipe: replace(only, name=recipe)}, primary=recipe)
        write_results(path, results)
    for line in removed:
        _LOG.warning("%s", line)
    return results


def _noted(section: Section, is_annotator: bool) -> Section:
    """The section with a warning where its judge also annotated what the model was trained on (Li et al., §3.1)."""
    if not is_annotator or "judge" not in section.settings:
        return section
    warning = "the judge is also the annotator of the training data: it may prefer what it chose itself"
    _LOG.warning("%s: %s", section.name, warning)
    return replace(section, fallbacks=(*section.fallbacks, warning))


def _by_adapter(results: Results, run: RunFolder, recipe: str) -> Results:
    """Results with each system of the recipe named `recipe:adapter`, and its folder relative to the run's."""
    names: dict[str, str] = {}
    systems: dict[str, System] = {}
    for name, system in results.systems.items():
        adapter = system.adapter or Path(system.aligned).name
        own = names[name] = f"{recipe}:{adapter}" if name == recipe and adapter else name
        others = systems[own].sections if own in systems else ()  # older versions gave one adapter two names
        sections = tuple(one for one in others if not any(one.measures_same_as(section) for section in system.sections))
        aligned = _relative_to(run, Path(system.aligned)) if system.aligned else ""
        systems[own] = replace(system, name=own, sections=(*system.sections, *sections), aligned=aligned)
    return replace(results, systems=systems, primary=names.get(results.primary, ""))


def _relative_to(run: RunFolder, folder: Path) -> str:
    """A folder's path relative to the run's where it is inside, else its full path; the run may have been moved."""
    full, root = folder.expanduser().resolve(), run.path.resolve()
    if full.is_relative_to(root):
        return full.relative_to(root).as_posix()
    inside = folder if not folder.is_absolute() else Path(*folder.parts[-2:])
    if not full.is_dir() and inside.parts[:1] == ("align",) and (root / inside).is_dir():
        return inside.as_posix()
    return str(full)


def data_counts(run: RunFolder) -> DataCounts:
    """How many prompts and pairs a run has, and how many items were dropped by reason."""
    from collections import Counter

    from pairsight.formats.tables import DROPPED_SCHEMA
    from pairsight.store.sealed import sealed_rows, table_rows

    rows = table_rows(run.data)
    dropped: Counter[str] = Counter()
    if "dropped" in rows:
        dropped.update(row["reason"] for row in sealed_rows(run.data, "dropped", DROPPED_SCHEMA))
    num_prompts = BuildRecord.from_plain(run.config).num_prompts
    return DataCounts(
        prompts=rows.get("candidates", 0) if num_prompts is None else num_prompts,
        pairs=rows.get("pairs", rows.get("demonstrations", 0)),
        dropped=dict(sorted(dropped.items())),
    )
