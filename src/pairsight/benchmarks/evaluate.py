"""Evaluate a base model and its adapters on benchmarks: every answer kept, every difference with its interval."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.benchmarks.files.tables import write_answers, write_scores
from pairsight.benchmarks.likelihood import OptionRequest, RankOptions
from pairsight.benchmarks.results import Results, Section, System
from pairsight.benchmarks.results_file import merged, results_at, update_results
from pairsight.benchmarks.scoring import Answer, ScoredBenchmark, score_benchmark, without_answers
from pairsight.benchmarks.sections import EvaluationSettings, section
from pairsight.benchmarks.tasks import BenchmarkTask, EvaluationImages, LoadedTask, load_tasks, read_tasks, sources_of
from pairsight.bounded import as_object
from pairsight.engine.progress import Progress
from pairsight.engine.runner import Runner
from pairsight.engine.stage import Engine, Stage
from pairsight.errors import ConfigError, RunError
from pairsight.images.source import ImageSource
from pairsight.models.protocols import Generator, Sampling
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Completion, CompletionRequest, ItemError
from pairsight.seeds import derived_seed
from pairsight.store.ledger import Ledger
from pairsight.store.run_folder import RunFolder

if TYPE_CHECKING:
    from pairsight.engine.calls.calls import Caller


def answer_all(
    loaded: Sequence[LoadedTask],
    generator: Generator,
    runner: Runner,
    seed: int,
) -> list[list[tuple[Answer, ...]]]:
    """For each benchmark and group, one answer per sample; benchmarks with equal sampling share one pass.

    Benchmarks that rank options share one too.

    Args:
        loaded: the benchmarks.
        generator: the model that answers.
        runner: keeps the answers.
        seed: of sampled answers; each has a seed of its own. Greedy answers have none, so that the same question
            about the same image is answered once.
    """
    answers: list[list[tuple[Answer, ...]]] = [[] for _ in loaded]
    # All stages are made first: one that the model cannot serve is refused before anything is answered.
    stages = {item.task.answered_by: _stage(generator, item.task.answered_by) for item in loaded}
    for kind, stage in stages.items():
        mine = [index for index, item in enumerate(loaded) if item.task.answered_by == kind]
        requests = [request for index in mine for request in _requests(loaded[index], seed)]
        results = iter(runner(stage, requests))
        for index in mine:
            answers[index] = [
                tuple(_answer(loaded[index], sample.id, results) for sample in group) for group in loaded[index].groups
            ]
    return answers


def _requests(item: LoadedTask, seed: int) -> Iterator[CompletionRequest | OptionRequest]:
    greedy = item.task.sampling.temperature == 0
    for group in item.groups:
        for sample in group:
            if sample.id in item.errors:
                continue
            if item.task.answered_by is None:
                yield OptionRequest(item.task.with_suffix(sample.prompt), sample.target["options"])
            else:
                drawn = 0 if greedy else derived_seed(seed, item.task.name, sample.id)
                yield CompletionRequest(item.task.with_suffix(sample.prompt), seed=drawn)


def _answer(item: LoadedTask, sample_id: str, results: Iterator[Completion | ItemError]) -> Answer:
    if sample_id in item.errors:
        return Answer(None, error=item.errors[sample_id])
    result = next(results)
    if isinstance(result, ItemError):
        return Answer(None, error=f"{result.reason}: {result.detail}" if result.detail else result.reason)
    return Answer(result.text, result.finish_reason)


BASE = "base"

OpenModel = Callable[[str | None, ImageSource], Generator]
"""(adapter's folder or None, images) -> the model that answers."""


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
    engine: Engine | None = None,
    progress: Progress | None = None,
    caller: "Caller | None" = None,
) -> Results:
    """Answer all benchmarks with the base and each adapter, score them, and compare on the same items.

    Every answer is kept in OUT's own ledger, so that running again goes on where it stopped. Written to OUT:
    `answers-<model>.parquet`, `scores-<model>.parquet` and `results.json`, into which a later call with other adapters
    or benchmarks merges. A sample that fails for any model leaves the comparison of all, is counted and listed.

    Args:
        model: the base model's reference.
        tasks: the benchmarks; see `make_tasks`.
        open_model: what opens the model that answers.
        out: the evaluation's folder.
        adapters: name -> the folder of an adapter or of a full model.
        images: the folder that image names refer to; None: where each benchmark's file lies.
        export: a folder for each model's answers as the official script or server wants them.
        settings: parser, limit, seed, batch size, what bad samples do.
        engine: where answers are made; in this process when left out.
        progress: what shows how far it is.
        caller: what sends calls where a model is behind an endpoint, with their limits.

    Returns:
        What this call made: a system per adapter, or sections of the base where there is no adapter.

    Raises:
        DataError: a bad file, row or image, before any model loads; what they name is read before OUT is made.
        RunError: OUT belongs to another evaluation, or no question has an answer of every model.
    """
    chosen = replace(settings or EvaluationSettings(), model=model)
    models = _models(tasks, adapters or {})
    config, benchmarks = _known(Path(out), _Identity.of(model, tasks, images, chosen))
    root, skip_bad = Path(images) if images is not None else None, chosen.on_error == "skip"
    read = read_tasks(tasks, root, limit=chosen.limit, skip_bad=skip_bad)
    folder = RunFolder.create(out, config, free=("images",))
    with folder.lock("evaluate"), folder.log(), folder.ledger() as ledger:
        _add_benchmarks(folder, benchmarks)
        loaded = load_tasks(read, folder.blobs, skip_bad=skip_bad)
        runner = Runner(ledger, engine, progress, caller=caller)
        source = EvaluationImages(sources_of(read), folder.blobs)
        answers, fingerprints = {}, {}
        for name, adapter in models.items():
            generator = open_model(adapter, source)
            answers[name] = answer_all(loaded, generator, runner, chosen.seed)
            fingerprints[name] = generator.fingerprint
        _seal(folder, ledger, answers)
    if export is not None:
        _export(Path(export), loaded, answers)
    return _keep(folder.path, loaded, answers=answers, fingerprints=fingerprints, models=models, settings=chosen)


def _seal(folder: RunFolder, ledger: Ledger, answers: Mapping[str, Sequence[Sequence[Sequence[Answer]]]]) -> None:
    """Seal what the ledger holds; RunError where nothing of it can be scored."""
    from pairsight.store.sealed_results import seal_results

    seal_results(folder.data, ledger)
    if why := without_answers(answers):
        raise RunError(f"{why}; fix the cause, then `pairsight retry {folder.path}` and the same command ask again")


def _stage(generator: Generator, sampling: Sampling | None) -> Stage[Any, Completion]:
    """The stage that answers; for None it ranks options instead of writing answers."""
    if sampling is None:
        return RankOptions.of(generator)
    return GenerateCompletions(generator=generator, sampling=sampling, batch_size=4 * generator.batch_size)


def _keep(
    folder: Path,
    loaded: Sequence[LoadedTask],
    *,
    answers: Mapping[str, Sequence[Sequence[Sequence[Answer]]]],
    fingerprints: Mapping[str, str],
    models: Mapping[str, str | None],
    settings: EvaluationSettings,
) -> Results:
    """Score all answers and write the tables and `results.json`; returns what was added to it."""
    scored = {name: _score_all(loaded, answers, name) for name in models}
    found = _results(loaded, scored, fingerprints, models, settings)
    whole, _ = merged(results_at(folder / "results.json"), found)
    for name, parts in scored.items():
        kept = _measured(whole, name, fingerprints)
        write_answers(folder / f"answers-{name}.parquet", parts, keep=kept)
        write_scores(folder / f"scores-{name}.parquet", parts, keep=kept)
    update_results(folder / "results.json", found)
    return found


def _measured(whole: Results, name: str, fingerprints: Mapping[str, str]) -> set[str]:
    """The benchmarks that results still hold of a model: its rows of these stay in the tables."""
    systems = whole.systems.values() if name == BASE else [whole.systems[name]]
    sections = [section for system in systems for section in system.sections]
    sections += whole.sections if name == BASE else ()
    role = "base" if name == BASE else "aligned"
    return {section.name for section in sections if section.models.get(role, fingerprints[name]) == fingerprints[name]}


def _export(
    folder: Path, loaded: Sequence[LoadedTask], answers: Mapping[str, Sequence[Sequence[Sequence[Answer]]]]
) -> None:
    """Write `folder/<model>/<benchmark>/…`; a sample that failed has no answer there."""
    for model, of_model in answers.items():
        for item, rows in zip(loaded, of_model, strict=True):
            texts = {
                sample.id: answer.text
                for group, row in zip(item.groups, rows, strict=True)
                for sample, answer in zip(group, row, strict=True)
                if answer.text is not None
            }
            place = folder / model / item.task.name
            item.task.benchmark.write_answers(place, item.task.path, item.groups, texts)


def _score_all(
    loaded: Sequence[LoadedTask], answers: Mapping[str, Sequence[Sequence[Sequence[Answer]]]], model: str
) -> list[ScoredBenchmark]:
    """One model's answers under both parsers, on the groups that every model answered wholly."""
    parts = []
    for index, item in enumerate(loaded):
        rows = [of_model[index] for of_model in answers.values()]
        complete = [g for g in range(len(item.groups)) if all(a.text is not None for row in rows for a in row[g])]
        parts.append(score_benchmark(item.task.name, item.task.benchmark, item.groups, answers[model][index], complete))
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
        others = scored[name] if name else [None] * len(loaded)
        measured = {"base": base, "aligned": fingerprints[name]} if name else {"base": base}
        return tuple(
            section(item, part, other, settings, models=measured)
            for item, part, other in zip(loaded, scored[BASE], others, strict=True)
        )

    if len(models) == 1:
        return Results(sections=sections(None), base=base)
    aligned = {name: str(adapter) for name, adapter in models.items() if name != BASE}
    return Results(
        {
            name: System(name, sections(name), base=base, aligned=adapter, adapter=name)
            for name, adapter in aligned.items()
        }
    )


def is_system_name(name: str) -> bool:
    """Whether an adapter can be called so: its name is part of files' names, and `base` is taken."""
    return name != BASE and re.fullmatch(r"[\w.+-]+", name) is not None


def _models(tasks: Sequence[BenchmarkTask], adapters: Mapping[str, str | Path]) -> dict[str, str | None]:
    """The base and the adapters by name, where names and folders can be used."""
    names = [task.name for task in tasks]
    if not names:
        raise ConfigError("evaluate needs at least one benchmark: --benchmark NAME=PATH")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the benchmark '{name}' is asked for twice; give the second another name")
    for name, path in adapters.items():
        if not is_system_name(name):
            raise ConfigError(f"an adapter cannot be named '{name}': use letters, digits, . _ + -, and not '{BASE}'")
        if not Path(path).is_dir():
            raise ConfigError(f"adapter '{name}': there is no folder {path}")
    return {BASE: None, **{name: str(path) for name, path in adapters.items()}}


@dataclass(frozen=True, slots=True)
class _Identity:
    """What an evaluation is; adapters and other benchmarks may join it later. `benchmarks` are as JSON."""

    model: str
    benchmarks: Mapping[str, Mapping[str, object]]
    images: str | None
    limit: int | None
    seed: int

    @classmethod
    def of(
        cls, model: str, tasks: Sequence[BenchmarkTask], images: str | Path | None, settings: EvaluationSettings
    ) -> "_Identity":
        """What is asked for."""
        shown = {
            task.name: {
                "path": str(task.path),
                "benchmark": task.benchmark.name,
                "options": task.benchmark.to_plain(),
                "sampling": task.sampling.to_plain(),
                "prompt_suffix": task.prompt_suffix,
            }
            for task in tasks
        }
        read_again = json.loads(json.dumps(shown))
        return cls(model, read_again, str(images) if images else None, settings.limit, settings.seed)

    def to_plain(self) -> dict[str, object]:
        """The evaluation's `run.yaml`."""
        return {"kind": "evaluate"} | {field.name: getattr(self, field.name) for field in fields(self)}


def _known(out: Path, asked: _Identity) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The config of the evaluation in a folder, or what is asked where there is none; and its benchmarks with those
    that join.

    Raises:
        RunError: what is asked differs from it in more than further benchmarks.
    """
    if not (out / "run.yaml").is_file():
        return asked.to_plain(), asked.benchmarks
    there = RunFolder.open(out).config
    if there.get("kind") != "evaluate":
        raise RunError(f"{out} holds a run, not an evaluation; choose another --out")
    known = dict(as_object(there.get("benchmarks") or {}))
    same = (("model", asked.model), ("limit", asked.limit), ("seed", asked.seed))
    differences = [f"{name} {there.get(name)!r} there, {here!r} here" for name, here in same if there.get(name) != here]
    for name, task in asked.benchmarks.items():
        old = as_object(known.get(name, task))
        differing = [part for part in task if part == "path" and not _same_file(old.get(part), str(task[part]))]
        differing += [part for part in task if part != "path" and old.get(part) != task[part]]
        differences += [f"{part} of {name} {old.get(part)!r} there, {task[part]!r} here" for part in differing]
    if differences:
        raise RunError(
            f"{out} holds another evaluation ({'; '.join(differences)}); choose another --name or --out for a new one "
            "beside it, or the same options to go on with this one (further benchmarks may join it)"
        )
    return there, known | {name: task for name, task in asked.benchmarks.items() if name not in known}


def _add_benchmarks(folder: RunFolder, benchmarks: Mapping[str, object]) -> None:
    """Note benchmarks that join an evaluation."""
    if as_object(folder.config.get("benchmarks", {})).keys() < benchmarks.keys():
        RunFolder.create(folder.path, {**folder.config, "benchmarks": benchmarks}, update=True)


def _same_file(there: object, here: str) -> bool:
    return Path(str(there)).resolve() == Path(here).resolve()
