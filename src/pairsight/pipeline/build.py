"""Prompts -> candidates -> pairs, in a run folder that resumes where it stopped."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self

from pairsight.config import option_facts, recorded
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError
from pairsight.formats.completions import read_completions
from pairsight.formats.prompts import PromptSet, make_format, read_prompts
from pairsight.images.source import WithImages
from pairsight.models.protocols import Annotator
from pairsight.options import BuildOptions, recipe_class, split
from pairsight.pipeline.models import Reference, check_reference, open_models
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


@dataclass(frozen=True, slots=True)
class Source:
    """Prompts (or candidates) with images, what reading dropped, and the dataset's own answers by prompt id.

    `is_read` says that options name the files it was read from; else it was given in Python.
    """

    given: WithImages[Prompt] | WithImages[Candidates]
    dropped: tuple[Dropped, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    is_read: bool = False

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
        fields, facts = BuildOptions.model_fields, option_facts(BuildOptions)
        of_prompts = [name for name, option in facts.items() if option.needs == "prompts"]
        unused = [name for name in of_prompts if getattr(options, name) != fields[name].default]
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
        return Source(completions, completions.dropped, is_read=True)
    if options.prompts is None:
        from pairsight.images.source import UnpackedImages

        return Source(WithImages((), UnpackedImages()), is_read=True)
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
    return Source(prompts, prompts.dropped, prompts.answers if options.dataset_answers else {}, is_read=True)


_LOG = logging.getLogger("pairsight.run")


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A build, complete: everything parsed and read before anything is written or loaded."""

    options: BuildOptions
    recipe: Recipe
    strategy: Strategy
    source: Source

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """The build that flat options of `BuildOptions`, of the recipe and of the strategy ask for; its models are
        looked at, not loaded.

        Raises:
            PairsightError: an unknown option, bad prompts, a model that cannot be used.
        """
        recipe_type: Any = recipe_class(str(values.get("recipe", "")))
        strategy = build_strategy(values)
        known = type(strategy).model_fields
        others = {
            name: value for name, value in values.items() if name not in known or name in recipe_type.model_fields
        }
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
        return cls(options, recipe, strategy, source)

    @property
    def num_prompts(self) -> int:
        """Prompts given, also those that reading dropped."""
        return len(self.source.given) + len(self.source.dropped)

    @property
    def files(self) -> dict[str, str]:
        """`recipe_file` and `strategy_file`: the `file.py:Class` of those that come from one."""
        named = {"recipe_file": self.options.recipe, "strategy_file": self.options.strategy or ""}
        return {name: str(Path(given).resolve()) for name, given in named.items() if is_file_name(given)}

    def record(self, models: RecipeModels, own: Mapping[str, object]) -> dict[str, object]:
        """What `run.yaml` says of the build, as plain values; `own` are the fingerprints of the recipe's models."""
        fingerprints = [generator.fingerprint for generator in models.generators]
        return {
            "recipe": self.recipe.name,
            "options": self.recipe.to_plain(),
            "strategy": {"name": self.strategy.name, **self.strategy.to_plain()},
            "model_fingerprint": fingerprints[0] if len(fingerprints) == 1 else fingerprints,
            "annotator_fingerprint": None if models.annotator is None else models.annotator.fingerprint,
            "writer_fingerprint": None if models.writer is None else models.writer.fingerprint,
            "num_prompts": self.num_prompts,
            "prompts_sha256": self.source.sha256,
            **{f"{option}_fingerprint": found for option, found in own.items()},
            **self._recorded(),
            **self.files,
        }

    def _recorded(self) -> dict[str, object]:
        """The options under their own names; of a build made in Python those that say how it was made."""
        plain = recorded(self.options)
        if not self.source.is_read:
            answers = {"dataset_answers": True} if self.options.dataset_answers else {}
            return {name: plain[name] for name in ("model", "engine", "workers")} | answers
        if is_file_name(form := str(plain.get("format", ""))):
            plain["format"] = str(Path(form).resolve())
        return plain

    def free(self, own: Mapping[str, object]) -> tuple[str, ...]:
        """What of the record may differ when a run is resumed; models and files are distinguished by their content."""
        free = [name for name, option in option_facts(BuildOptions).items() if not option.compared]
        return (*free, "recipe_file", "strategy_file", *(f"options.{option}" for option in own))


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
    failed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Stage -> reason -> how many of its items failed."""


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
    values = {
        "recipe": recipe.name, "model": named[0] if len(named) == 1 else named, "out": str(run),
        "dataset_answers": dataset_answers, "engine": engine, "workers": workers,
    }  # fmt: skip
    read = prompts if isinstance(prompts, PromptSet) else None
    answers = read.answers if read and dataset_answers else {}
    source = Source(prompts, read.dropped if read else (), answers)
    spec = BuildSpec(BuildOptions.parse(values, "build"), recipe, chosen, source)
    build_run(spec, models, update=update, quiet=quiet)
    return replace(load_candidates(run), built_with=chosen)


def build_from_options(values: Mapping[str, object], update: bool = False, quiet: bool = False) -> Built:
    """Build with the flat options of `BuildOptions`, of the recipe and of the strategy.

    Raises:
        PairsightError: an unknown option, bad prompts, a model that cannot be used, a folder of another run.
    """
    spec = BuildSpec.parse(values)
    options = spec.options
    models = open_models(
        options.models,
        BlobStore(options.out),
        annotator=options.annotator,
        writer=options.writer,
        endpoint=options.endpoint,
        trust_remote_code=options.trust_remote_code,
    )
    return build_run(spec, models, update=update, quiet=quiet)


def build_strategy(values: Mapping[str, object]) -> Strategy:
    """The strategy that flat options of `build` ask for, with its own options among them."""
    recipe_type: Any = recipe_class(str(values.get("recipe", "")))
    name = str(values.get("strategy") or recipe_type.default_strategy)
    known = strategies.get(name).model_fields
    return make_strategy(name, {option: value for option, value in values.items() if option in known})


def check_build(values: Mapping[str, object]) -> str:
    """Check all that can be checked without loading a model; says what would be built."""
    spec = BuildSpec.parse(values)
    return f"build: {spec.recipe.name}, {len(spec.source.given)} prompts, strategy {spec.strategy.name}"


def build_run(spec: BuildSpec, models: RecipeModels, *, update: bool = False, quiet: bool = False) -> Built:
    """The build itself, once everything is parsed."""
    from pairsight.engine.calls.calls import Caller
    from pairsight.engine.runner import Runner, open_engine
    from pairsight.store.sealed_results import results_of_plans

    options, source, strategy = spec.options, spec.source, spec.strategy
    own = spec.recipe.fingerprints()
    folder = RunFolder.create(options.out, spec.record(models, own), free=spec.free(own), update=update)
    with folder.lock("build"), folder.log(), Progress("quiet" if quiet else "auto") as progress:
        _keep_images(folder, source, progress)
        with folder.ledger() as ledger, open_engine(options.engine, options.workers) as engine:
            _forget_lost_images(ledger, folder.blobs)
            runner = Runner(ledger, engine, progress, caller=Caller(options.calls), refuse_all_failed=True)
            made = source.candidates(spec.recipe, models, runner)
            first = list(islice(made, 1))  # the stages do all their work before the first candidates come
            with progress.task("select") as task:
                results = results_of_plans(ledger, runner.plans)
                kept = seal_build(folder, chain(source.dropped, first, made), strategy, task.advance, results)
            spent = Attempts(ledger).spent_by_stage()
        for line in progress.summary().splitlines():
            _LOG.info("summary: %s", line)
    return Built(
        folder.path,
        next(iter(options.models), ""),
        spec.num_prompts,
        kept.num_examples,
        "demonstrations" if strategy.makes_demonstrations else "pairs",
        kept.dropped,
        spent,
        tuple(dict.fromkeys(file.rpartition(":")[0] for file in spec.files.values())),
        dict(runner.failed),
    )


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


def _refuse_unused_models(recipe: Recipe, **given: object) -> None:
    """ConfigError for an annotator or a writer that the recipe would leave aside."""
    for role, model in given.items():
        if model is not None and role not in recipe.roles:
            raise ConfigError(f"recipe '{recipe.name}' uses no {role}: leave --{role} out")
