"""Evaluate a base model and its adapters on benchmarks: keep every answer, report differences with intervals."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.benchmarks.answering import answer_all
from pairsight.benchmarks.files.tables import write_answers, write_scores
from pairsight.benchmarks.judging import Answers, OpenJudge, check_judge, graded, judge_all
from pairsight.benchmarks.protocol import Benchmark
from pairsight.benchmarks.published import Scalar
from pairsight.benchmarks.results import Results, Section, System
from pairsight.benchmarks.results_file import merged, results_at, update_results
from pairsight.benchmarks.scoring import Answer, ScoredBenchmark, score_benchmark, without_answers
from pairsight.benchmarks.sections import EvaluationSettings, make_section
from pairsight.benchmarks.tasks import BenchmarkTask, EvaluationImages, LoadedTask, load_tasks, read_tasks, sources_of
from pairsight.bounded import as_object
from pairsight.engine.progress import Progress
from pairsight.engine.runner import Runner
from pairsight.engine.stage import Engine
from pairsight.errors import ConfigError, RunError
from pairsight.images.source import ImageSource
from pairsight.models.protocols import Generator
from pairsight.registry import ALLOWED_IN_A_NAME, BASE, is_adapter_name
from pairsight.store.ledger import Ledger
from pairsight.store.run_folder import RunFolder

if TYPE_CHECKING:
    from pairsight.engine.calls.calls import Caller


OpenModel = Callable[[str | None, ImageSource], Generator]
"""(the adapter's folder or None, images) -> the model that answers."""
Rules = Mapping[str, Sequence[Benchmark]]
"""Model -> the rule by which its answers to each benchmark are scored."""


def evaluate_models(
    model: str,
    tasks: Sequence[BenchmarkTask],
    open_model: OpenModel,
    *,
    out: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    images: str | Path | None = None,
    export: str | Path | None = None,
    settings: EvaluationSettings | None = None,
    identity: Mapping[str, Scalar] | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
    caller: "Caller | None" = None,
    judges: Sequence[OpenJudge] = (),
) -> Results:
    """Answer all benchmarks with the base and each adapter, score the answers, and compare on the same items.

    Every answer is kept in OUT's ledger, so that a repeated call resumes. Writes `answers-<model>.parquet`,
    `scores-<model>.parquet` and `results.json` to OUT; a later call with other adapters or benchmarks is merged into
    them. A sample that fails for any model is excluded from the comparison of all, counted and listed.

    Args:
        model: the base model's reference.
        tasks: the benchmarks; see `make_tasks`.
        open_model: opens the model that answers.
        out: the evaluation's folder.
        adapters: name -> the folder of an adapter or of a full model.
        images: the images' folder; None: the folder of each benchmark's file.
        export: a folder for each model's answers in the official script's or server's format.
        settings: parser, limit, seed, batch size, and how to treat bad samples.
        identity: the options, beside those of the benchmarks, that OUT is only continued with; None: from `settings`.
        engine: where answers are generated; None: in this process.
        progress: shows the progress.
        caller: sends calls to endpoints, with their limits.
        judges: open the judge of benchmarks that need one, and a second one to compare it with.

    Returns: the results of this call: a system per adapter, or the base's sections if there is no adapter.

    Raises:
        DataError: a bad file, record or image, before any model is loaded or OUT is created.
        RunError: OUT belongs to another evaluation, or no question was answered by every model.
    """
    settings = replace(settings or EvaluationSettings(), model=model)
    models = _models(tasks, adapters or {}, bool(judges))
    config, benchmarks = _joined(Path(out), _Identity.of(identity or settings.identity, tasks, images))
    read = read_tasks(tasks, None if images is None else Path(images), limit=settings.limit, skip_bad=settings.skip_bad)
    folder = RunFolder.create(out, config, free=("images",))
    with folder.lock("evaluate"), folder.log(), folder.ledger() as ledger:
        _add_benchmarks(folder, benchmarks)
        loaded = load_tasks(read, folder.blobs, skip_bad=settings.skip_bad)
        runner = Runner(ledger, engine, progress, caller=caller)
        source = EvaluationImages(sources_of(read), folder.blobs)
        opened = {name: open_model(adapter, source) for name, adapter in models.items()}
        answers = {name: answer_all(loaded, generator, runner, settings.seed) for name, generator in opened.items()}
        rules = _rules(loaded, answers, runner, settings.seed, [open_judge(source) for open_judge in judges])
        _seal(folder, ledger, answers)
    _export(export, loaded, answers, rules)
    fingerprints = {name: generator.fingerprint for name, generator in opened.items()}
    return _write_all(folder.path, loaded, rules, answers, fingerprints, models=models, settings=settings)


def _rules(
    loaded: Sequence[LoadedTask], answers: Mapping[str, Answers], runner: Runner, seed: int, judges: Sequence[Generator]
) -> Rules:
    """Each benchmark's rule for the answers of each model; that of a judged one holds the judge's verdicts."""
    rules: Rules = {name: [item.task.benchmark for item in loaded] for name in answers}
    for judge in reversed(judges):
        verdicts = judge_all(loaded, answers, judge, runner, seed)
        new = {name: graded(loaded, verdicts[name], judge.fingerprint) for name in answers}
        second = judge is not judges[-1]
        rules = {
            name: _compared(loaded, new[name], rules[name], answers[name]) if second else new[name] for name in new
        }
    return rules


def _compared(
    loaded: Sequence[LoadedTask], rules: Sequence[Benchmark], others: Sequence[Benchmark], answers: Answers
) -> list[Benchmark]:
    return [
        rule.compared(other, item.groups, _texts(item, by_group))
        for item, rule, other, by_group in zip(loaded, rules, others, answers, strict=True)
    ]


def _texts(item: LoadedTask, by_group: Sequence[Sequence[Answer]]) -> dict[str, str]:
    """Sample id -> answer text, without failed samples."""
    return {
        sample.id: answer.text
        for group, answers in zip(item.groups, by_group, strict=True)
        for sample, answer in zip(group, answers, strict=True)
        if answer.text is not None
    }


def _seal(folder: RunFolder, ledger: Ledger, answers: Mapping[str, Answers]) -> None:
    """Seal the ledger's results; RunError if nothing can be scored."""
    from pairsight.store.sealed_results import seal_results

    seal_results(folder.data, ledger)
    if why := without_answers(answers):
        raise RunError(
            f"{why}; fix the cause, then `pairsight retry {folder.path}` and the same command try them again"
        )


def _write_all(
    folder: Path,
    loaded: Sequence[LoadedTask],
    rules: Rules,
    answers: Mapping[str, Answers],
    fingerprints: Mapping[str, str],
    *,
    models: Mapping[str, str | None],
    settings: EvaluationSettings,
) -> Results:
    """Score all answers and write the tables and `results.json`; returns the new results."""
    scored = {name: _score_all(loaded, answers, rules, name) for name in models}
    results = _results(loaded, scored, fingerprints, models, settings)
    all_results, _ = merged(results_at(folder / "results.json"), results)
    for name, parts in scored.items():
        kept = _measured(all_results, name, fingerprints)
        write_answers(folder / f"answers-{name}.parquet", parts, keep=kept)
        write_scores(folder / f"scores-{name}.parquet", parts, keep=kept)
        if any(part.benchmark.verdicts() for part in parts):
            from pairsight.benchmarks.files.verdict_table import write_verdicts

            write_verdicts(folder / f"verdicts-{name}.parquet", parts, keep=kept)
    update_results(folder / "results.json", results)
    return results


def _measured(results: Results, name: str, fingerprints: Mapping[str, str]) -> set[str]:
    """The benchmarks for which results include a model; the tables keep its rows of these."""
    systems = results.systems.values() if name == BASE else [results.systems[name]]
    sections = [section for system in systems for section in system.sections]
    sections += results.sections if name == BASE else ()
    role = "base" if name == BASE else "aligned"
    return {section.name for section in sections if section.models.get(role, fingerprints[name]) == fingerprints[name]}


def _export(
    folder: str | Path | None, loaded: Sequence[LoadedTask], answers: Mapping[str, Answers], rules: Rules
) -> None:
    """Write `folder/<model>/<benchmark>/…`, without answers for failed samples; nothing without a folder."""
    if folder is None:
        return
    for model, of_model in answers.items():
        for item, rule, by_group in zip(loaded, rules[model], of_model, strict=True):
            texts = _texts(item, by_group)
            to = Path(folder) / model / item.task.name
            rule.write_answers(to, item.task.path, item.groups, texts)
            rule.write_verdicts(to, item.groups, texts, model)


def _score_all(
    loaded: Sequence[LoadedTask], answers: Mapping[str, Answers], rules: Rules, model: str
) -> list[ScoredBenchmark]:
    """Score one model's answers by both parsers, on the groups for which every model has what is scored."""
    parts = []
    for index, item in enumerate(loaded):
        by_model = [(of_model[index], rules[name][index]) for name, of_model in answers.items()]
        complete = [
            g
            for g, group in enumerate(item.groups)
            if all(
                all(answer.text is not None for answer in by_group[g]) and not rule.failures(group)
                for by_group, rule in by_model
            )
        ]
        rule = rules[model][index]
        parts.append(score_benchmark(item.task.name, rule, item.groups, answers[model][index], complete))
    return parts


def _results(
    loaded: Sequence[LoadedTask],
    scored: Mapping[str, Sequence[ScoredBenchmark]],
    fingerprints: Mapping[str, str],
    models: Mapping[str, str | None],
    settings: EvaluationSettings,
) -> Results:
    base = fingerprints[BASE]

    def sections(name: str | None) -> tuple[Section, ...]:
        aligned = scored[name] if name else [None] * len(loaded)
        measured = {"base": base, "aligned": fingerprints[name]} if name else {"base": base}
        return tuple(
            make_section(item, part, other, settings, models=measured)
            for item, part, other in zip(loaded, scored[BASE], aligned, strict=True)
        )

    if len(models) == 1:
        return Results(sections=sections(None), base=base)
    adapters = {name: str(folder) for name, folder in models.items() if name != BASE}
    return Results(
        {
            name: System(name, sections(name), base=base, aligned=folder, adapter=name)
            for name, folder in adapters.items()
        }
    )


def _models(
    tasks: Sequence[BenchmarkTask], adapters: Mapping[str, str | Path], has_judge: bool
) -> dict[str, str | None]:
    """The base and the adapters by name, after checking names and folders, and whether a judge is needed."""
    names = [task.name for task in tasks]
    if not names:
        raise ConfigError("evaluate needs at least one benchmark: --benchmark NAME=PATH")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the benchmark '{name}' is given twice; choose another name for the second")
    check_judge(tasks, has_judge)
    for name, path in adapters.items():
        if not is_adapter_name(name):
            raise ConfigError(f"an adapter cannot be named {name!r:.80}: {ALLOWED_IN_A_NAME}, and not '{BASE}'")
        if not Path(path).is_dir():
            raise ConfigError(f"adapter '{name}': there is no folder {path}")
    return {BASE: None, **{name: str(path) for name, path in adapters.items()}}


@dataclass(frozen=True, slots=True)
class _Identity:
    """What identifies an evaluation; adapters and benchmarks can be added later. `benchmarks` are JSON values."""

    options: Mapping[str, Scalar]
    benchmarks: Mapping[str, Mapping[str, object]]
    images: str | None

    @classmethod
    def of(
        cls, options: Mapping[str, Scalar], tasks: Sequence[BenchmarkTask], images: str | Path | None
    ) -> "_Identity":
        """The identity of a requested evaluation."""
        described = {
            task.name: {
                "path": str(task.path),
                "benchmark": task.benchmark.name,
                "options": task.benchmark.to_plain(),
                "sampling": task.sampling.to_plain(),
                "prompt_suffix": task.prompt_suffix,
            }
            for task in tasks
        }
        as_json = json.loads(json.dumps(described))
        return cls(options, as_json, str(images) if images else None)

    def to_plain(self) -> dict[str, object]:
        """The evaluation's `run.yaml`."""
        first = {"kind": "evaluate", "model": None, "benchmarks": self.benchmarks, "images": self.images}
        return first | dict(self.options)


def _joined(out: Path, asked: _Identity) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The config of an existing or new evaluation, and its benchmarks including the requested ones.

    Raises:
        RunError: the request differs from the existing evaluation in more than additional benchmarks.
    """
    if not (out / "run.yaml").is_file():
        return asked.to_plain(), asked.benchmarks
    existing = RunFolder.open(out).config
    if existing.get("kind") != "evaluate":
        raise RunError(f"{out} holds a run, not an evaluation; choose another --out")
    known = _benchmarks_of(out, existing)
    differences = [
        f"{name} {existing.get(name)!r} there, {value!r} here"
        for name, value in asked.options.items()
        if existing.get(name) != value
    ]
    for name, task in asked.benchmarks.items():
        old = known.get(name, task)
        differing = [part for part in task if part == "path" and not _same_file(old.get(part), str(task[part]))]
        differing += [part for part in task if part != "path" and old.get(part) != task[part]]
        differences += [f"{part} of {name} {old.get(part)!r} there, {task[part]!r} here" for part in differing]
    if differences:
        raise RunError(
            f"{out} holds another evaluation ({'; '.join(differences)}); choose another --name or --out for a new one, "
            "or use the same options to continue this one (benchmarks can be added)"
        )
    return existing, known | {name: task for name, task in asked.benchmarks.items() if name not in known}


def _benchmarks_of(out: Path, config: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """The benchmarks that an evaluation's config names, each with its settings."""
    try:
        return {name: as_object(task) for name, task in as_object(config.get("benchmarks") or {}).items()}
    except TypeError as error:
        raise RunError(
            f"{out / 'run.yaml'}: 'benchmarks' is damaged ({error}); choose another --name or --out"
        ) from None


def _add_benchmarks(folder: RunFolder, benchmarks: Mapping[str, object]) -> None:
    """Record benchmarks that were added to an evaluation."""
    if _benchmarks_of(folder.path, folder.config).keys() < benchmarks.keys():
        RunFolder.create(folder.path, {**folder.config, "benchmarks": benchmarks}, update=True)


def _same_file(first: object, second: str) -> bool:
    return Path(str(first)).resolve() == Path(second).resolve()
