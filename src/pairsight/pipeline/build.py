"""Prompts -> candidates -> pairs, in a run folder that resumes where it stopped."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from pairsight.engine.calls.options import CallOptions
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError
from pairsight.formats.completions import read_completions
from pairsight.formats.prompts import PromptSet, make_format, read_prompts
from pairsight.images.source import WithImages
from pairsight.models.protocols import Annotator
from pairsight.pipeline.models import Reference, check_reference, open_models
from pairsight.pipeline.options import BuildOptions, recipe_class, split
from pairsight.pipeline.select import CandidateSet, load_candidates, make_strategy, seal_build
from pairsight.recipes.recipe import Recipe, RecipeModels, StageRunner, with_answers
from pairsight.records import Candidates, Dropped, ImageCandidate, Prompt
from pairsight.registry import is_file_name, plugins, strategies
from pairsight.selection.strategy import Strategy
from pairsight.store.attempts import Attempts, Spent
from pairsight.store.blobs import BlobStore
from pairsight.store.encoding import decode, encode
from pairsight.store.ledger import Ledger
from pairsight.store.run_folder import RunFolder

Made = Callable[[Recipe, RecipeModels, StageRunner], Iterable[Candidates | Dropped]]


_OF_PROMPTS = (
    "question", "sources", "questions_per_dialogue", "per_source", "strip_short_answer", "dataset_answers",
)  # fmt: skip
"""Options of `build` that say which prompts are read from `prompts`, and how."""


@dataclass(frozen=True, slots=True)
class Source:
    """Prompts (or candidates) with images, what reading dropped, and the dataset's own answers by prompt id."""

    given: WithImages[Prompt] | WithImages[Candidates]
    dropped: tuple[Dropped, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """What identifies the content, in order."""
        digest = hashlib.sha256()
        for one in self.given:
            digest.update(encode(one).encode() + b"\n")
        return digest.hexdigest()

    def prompts(self) -> Iterator[Prompt]:
        """All prompts."""
        return (one.prompt if isinstance(one, Candidates) else one for one in self.given)

    def candidates(self, recipe: Recipe, models: RecipeModels, run: StageRunner) -> Iterator[Candidates | Dropped]:
        """What the recipe makes of it, without what reading dropped; given completions go straight to its annotator.

        Raises:
            ConfigError: given completions and a recipe that makes its own.
        """
        prompts = [one for one in self.given if isinstance(one, Prompt)]
        given = [one for one in self.given if isinstance(one, Candidates)]
        if given:
            yield from recipe.annotate(given, models, run)
        else:
            yield from with_answers(recipe.candidates(prompts, models, run), self.answers)


def read_source(options: BuildOptions) -> Source:
    """Read what the options name, every row and image checked.

    Raises:
        DataError: a bad file, row or image.
        ConfigError: both prompts and completions, or an option of reading prompts without prompts.
    """
    if options.prompts is None:
        fields = BuildOptions.model_fields
        unused = [name for name in _OF_PROMPTS if getattr(options, name) != fields[name].default]
        if unused:
            raise ConfigError(f"{' and '.join(map(repr, unused))} choose among --prompts FILE, and there is none")
        if options.format is not None and options.completions is None:
            raise ConfigError("--format says how --prompts or --completions is read, and neither is given")
    form = None if options.format is None else make_format(options.format)
    if options.completions is not None:
        if options.prompts is not None:
            raise ConfigError("give --prompts or --completions, not both")
        completions = read_completions(
            options.completions, images=options.images, format=form, on_error=options.on_error, limit=options.limit
        )
        return Source(completions, completions.dropped)
    if options.prompts is None:
        from pairsight.images.source import UnpackedImages

        return Source(WithImages((), UnpackedImages()))
    prompts = read_prompts(
        options.prompts,
        images=options.images,
        format=form,
        question=options.question,
        on_error=options.on_error,
        sources=options.sources,
        questions_per_dialogue=options.questions_per_dialogue,
        per_source=options.per_source,
        strip_short_answer=options.strip_short_answer,
        limit=options.limit,
        seed=options.seed,
    )
    return Source(prompts, prompts.dropped, prompts.answers if options.dataset_answers else {})


_LOG = logging.getLogger("pairsight.run")
FREE = (
    "model", "prompts", "completions", "images", "annotator", "writer", "engine", "workers", "calls", "endpoint",
    "recipe_file", "strategy_file", "format",
)  # fmt: skip
"""What may differ when a run is resumed: places, engines and limits. Models, also a recipe's own (its
`fingerprints()`), are told apart by their fingerprints."""


@dataclass(frozen=True, slots=True)
class Built:
    """A finished build: its run, the first of its models, what became of the prompts, and what paid stages cost."""

    run: Path
    model: str
    num_prompts: int
    num_pairs: int
    examples: Literal["pairs", "demonstrations"]
    dropped: Mapping[tuple[str, str], int]
    spent: Mapping[str, Spent]
    plugins: tuple[str, ...] = ()
    """Files that the recipe and the strategy came from."""


def build(
    recipe: Recipe,
    prompts: WithImages[Prompt],
    *,
    model: Reference | Sequence[Reference],
    run: str | Path,
    annotator: Annotator | Reference | None = None,
    writer: Reference | None = None,
    strategy: str | Strategy | None = None,
    dataset_answers: bool = False,
    engine: str = "local",
    workers: int = 1,
    update: bool = False,
    quiet: bool = False,
) -> CandidateSet:
    """Run a recipe, keep every completion and annotation in the run folder, and write its candidates and pairs.

    Args:
        recipe: e.g. `SeVa(noise_step=500)`.
        prompts: from `read_prompts`.
        model: what makes the completions: a folder, a hub name or `endpoint:NAME@URL`; several where the recipe may.
        run: the run's folder; an unfinished or finished run of the same recipe, prompts and models is resumed.
        annotator: who rates completions, where the recipe needs one: a reference, or an `Annotator`.
        writer: who writes texts, where the recipe needs one.
        strategy: how pairs are chosen; default: the recipe's own.
        dataset_answers: keep the prompts' own answers as completions, for the strategy `sft`.
        engine: "local", "processes" or "ray".
        workers: workers of the engine.
        update: let an existing run go on with other options; only what is then missing is computed.
        quiet: show no progress.

    Returns:
        The candidates with their images.

    Raises:
        RunError: the folder belongs to another run.
        ConfigError, ModelError: something that cannot work, found before any model loads.
    """
    _refuse_unused_models(recipe, annotator=annotator, writer=writer)
    references = [model] if isinstance(model, (str, Path)) else list(model)
    for reference in [*references, annotator, writer]:
        if isinstance(reference, (str, Path)):
            check_reference(reference)
    models = open_models(references, BlobStore(run), annotator=annotator, writer=writer)
    with plugins(strategy):
        chosen = strategy if isinstance(strategy, Strategy) else make_strategy(strategy or recipe.default_strategy)
    named = [str(one) for one in references]
    extra = {"model": named[0] if len(named) == 1 else named, "engine": engine, "workers": workers}
    if dataset_answers:
        extra["dataset_answers"] = True
    read = prompts if isinstance(prompts, PromptSet) else None
    answers = read.answers if read and dataset_answers else {}
    source = Source(prompts, read.dropped if read else (), answers)
    build_run(recipe, source, models, chosen, run=Path(run), extra=extra, update=update, quiet=quiet)
    return replace(load_candidates(run), built_with=chosen)


def build_from_options(values: Mapping[str, Any], update: bool = False, quiet: bool = False) -> Built:
    """Build with the flat options of `BuildOptions`, of the recipe and of the strategy.

    Raises:
        PairsightError: an unknown option, bad prompts, a model that cannot be used, a folder of another run.
    """
    options, recipe, strategy, source = _checked(values)
    models = open_models(
        options.models,
        BlobStore(options.out),
        annotator=options.annotator,
        writer=options.writer,
        endpoint=options.endpoint,
        trust_remote_code=options.trust_remote_code,
    )
    own = ("out", "strategy", "recipe", "format")
    extra = {name: value for name, value in options.to_plain().items() if name not in own}
    if options.format is not None:
        extra["format"] = str(Path(options.format).resolve()) if is_file_name(options.format) else options.format
    for name in ("recipe", "strategy"):
        given = getattr(options, name) or ""
        if is_file_name(given):
            extra[f"{name}_file"] = str(Path(given).resolve())
    return build_run(
        recipe,
        source,
        models,
        strategy,
        run=Path(options.out),
        extra=extra,
        calls=options.calls,
        update=update,
        quiet=quiet,
    )


def build_strategy(values: Mapping[str, Any]) -> Strategy:
    """The strategy that flat options of `build` ask for, with its own options among them."""
    recipe_type: Any = recipe_class(str(values.get("recipe", "")))
    name = str(values.get("strategy") or recipe_type.default_strategy)
    known = strategies.get(name).model_fields
    return make_strategy(name, {option: value for option, value in values.items() if option in known})


def check_build(values: Mapping[str, Any]) -> str:
    """Check all that can be checked without loading a model; says what would be built."""
    _, recipe, strategy, source = _checked(values)
    return f"build: {recipe.name}, {len(source.given)} prompts, strategy {strategy.name}"


def build_run(
    recipe: Recipe,
    source: Source,
    models: RecipeModels,
    strategy: Strategy,
    *,
    run: Path,
    extra: Mapping[str, Any],
    calls: CallOptions | None = None,
    update: bool = False,
    quiet: bool = False,
) -> Built:
    """The build itself, once everything is parsed; `extra` are further plain options to note in `run.yaml`."""
    from pairsight.engine.calls.calls import Caller
    from pairsight.engine.runner import Runner, open_engine

    own = recipe.fingerprints()
    told_apart = {f"{option}_fingerprint": found for option, found in own.items()}
    config = {**_identity(recipe, source, models, strategy), **told_apart, **extra}
    free = (*FREE, *(f"options.{option}" for option in own))
    folder = RunFolder.create(run, config, free=free, update=update)
    engine_name, workers = str(extra.get("engine", "local")), int(extra.get("workers", 1))
    with folder.lock("build"), folder.log(), Progress("quiet" if quiet else "auto") as progress:
        _keep_images(folder, source, progress)
        with folder.ledger() as ledger, open_engine(engine_name, workers) as engine:
            _forget_lost_images(ledger, folder.blobs)
            runner = Runner(ledger, engine, progress, caller=Caller(calls))
            made = source.candidates(recipe, models, runner)
            first = list(islice(made, 1))  # the stages do all their work before the first candidates come
            with progress.task("select") as task:
                kept = seal_build(folder, chain(source.dropped, first, made), strategy, task.advance)
            spent = Attempts(ledger).spent_by_stage()
        for line in progress.summary().splitlines():
            _LOG.info("summary: %s", line)
    named = extra.get("model", "")
    name = named if isinstance(named, str) else named[0]
    num_prompts = len(source.given) + len(source.dropped)
    examples: Literal["pairs", "demonstrations"] = "demonstrations" if strategy.makes_demonstrations else "pairs"
    files = (str(extra[one]).rpartition(":")[0] for one in ("recipe_file", "strategy_file") if one in extra)
    return Built(
        folder.path,
        str(name),
        num_prompts,
        kept.num_examples,
        examples,
        kept.dropped,
        spent,
        tuple(dict.fromkeys(files)),
    )


def _identity(recipe: Recipe, source: Source, models: RecipeModels, strategy: Strategy) -> dict[str, Any]:
    """What makes a run this run, as plain values."""
    fingerprints = [generator.fingerprint for generator in models.generators]
    return {
        "recipe": recipe.name,
        "options": recipe.to_plain(),
        "strategy": {"name": strategy.name, **strategy.to_plain()},
        "model_fingerprint": fingerprints[0] if len(fingerprints) == 1 else fingerprints,
        "annotator_fingerprint": None if models.annotator is None else models.annotator.fingerprint,
        "writer_fingerprint": None if models.writer is None else models.writer.fingerprint,
        "num_prompts": len(source.given) + len(source.dropped),
        "prompts_sha256": source.sha256,
    }


def _keep_images(folder: RunFolder, source: Source, progress: Progress) -> None:
    """Copy every image into the run, so that it needs the user's folder no more."""
    refs = {ref.sha256: ref for prompt in source.prompts() for ref in prompt.images}
    lost = folder.blobs.lost(refs.values())
    if lost:
        with progress.task("images", len(refs)) as task:
            task.advance(0, reused=len(refs) - len(lost))
            for ref in lost:
                folder.blobs.add_file(source.given.images.path(ref))
                task.advance()
        folder.blobs.remember(lost)


def _forget_lost_images(ledger: Ledger, blobs: BlobStore) -> None:
    """Let generated images be made again that are no longer among the blobs, or are damaged."""
    rows = ledger.read(
        "SELECT i.id, l.payload FROM payloads l JOIN items i ON i.id = l.item JOIN stages s ON s.id = i.stage "
        "WHERE s.name = 'generate_images'",
        (),
    )
    images = {item: decode(ImageCandidate, payload).image for item, payload in rows}
    lost = {ref.sha256 for ref in blobs.lost(images.values())}
    again = [item for item, ref in images.items() if ref.sha256 in lost]
    if again:
        _LOG.warning("%d generated images are lost or damaged and are made again", len(again))
        ledger.forget(again)


def _checked(values: Mapping[str, Any]) -> tuple[BuildOptions, Any, Strategy, Source]:
    """Everything parsed and read, and every model looked at, before anything is written or loaded."""
    recipe_type: Any = recipe_class(str(values.get("recipe", "")))
    strategy = build_strategy(values)
    known = type(strategy).model_fields
    others = {name: value for name, value in values.items() if name not in known or name in recipe_type.model_fields}
    mine, rest = split(others, BuildOptions, recipe_type, f"build {values.get('recipe')}", also=tuple(known))
    missing = [f"--{name}" for name in ("model", "out") if name not in mine]
    if missing:
        raise ConfigError(f"build needs {' and '.join(missing)}")
    options = BuildOptions.parse(mine, "build")
    recipe = recipe_type.parse(rest, options.recipe)
    _refuse_unused_models(recipe, annotator=options.annotator, writer=options.writer)
    if options.completions is not None and not recipe.takes_completions:
        raise ConfigError(f"recipe '{recipe.name}' makes its own completions; --completions is for feedback")
    for reference in [*options.models, options.annotator, options.writer]:
        if reference is not None:
            check_reference(reference)
    recipe.check()
    source = read_source(options)
    if not source.given.items and options.writer is None:
        raise DataError("there are no prompts to build from: --prompts FILE")
    return options, recipe, strategy, source


def _refuse_unused_models(recipe: Recipe, **given: object) -> None:
    """ConfigError for an annotator or a writer that the recipe would leave aside."""
    for role, model in given.items():
        if model is not None and role not in recipe.roles:
            raise ConfigError(f"recipe '{recipe.name}' uses no {role}: leave --{role} out")
