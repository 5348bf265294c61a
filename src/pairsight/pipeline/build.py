"""Prompts -> candidates -> pairs, in a run folder that resumes where it stopped."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal, Self

import yaml

from pairsight.config import option_facts, recorded, split
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError
from pairsight.formats.prompts import PromptSet
from pairsight.images.source import WithImages
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.profiles.profile import Profile
from pairsight.models.protocols import Annotator
from pairsight.options import ANNOTATION_FILE, BuildOptions, recipe_class
from pairsight.pipeline.models import (
    ModelName,
    asked_profile,
    check_model_name,
    check_servers,
    find_profile,
    open_models,
)
from pairsight.pipeline.select import CandidateSet, load_candidates, seal_build
from pairsight.pipeline.source import Source, read_source
from pairsight.recipes.recipe import Recipe, RecipeModels
from pairsight.records import ImageCandidate, Prompt
from pairsight.registry import is_file_name, plugins, strategies
from pairsight.selection.strategy import Strategy, make_strategy
from pairsight.store.attempts import Attempts, Spent
from pairsight.store.blobs import BlobStore
from pairsight.store.durable import write_file
from pairsight.store.encoding import decode
from pairsight.store.ledger import Ledger
from pairsight.store.run_folder import RunFolder

_LOG = logging.getLogger("pairsight.run")


@dataclass(frozen=True, slots=True)
class BuildChoice:
    """What flat options of a build choose, before any file or model is looked for."""

    options: BuildOptions
    recipe: Recipe
    strategy: Strategy

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """The choice of flat options of `BuildOptions`, of the recipe and of the strategy.

        Raises:
            ConfigError: an unknown option, or one that changes nothing beside the others.
        """
        recipe_type = recipe_class(str(values.get("recipe", "")))
        name = str(values.get("strategy") or recipe_type.default_strategy)
        known = strategies.get(name).model_fields
        strategy = make_strategy(name, **{option: value for option, value in values.items() if option in known})
        others = {
            name: value for name, value in values.items() if name not in known or name in recipe_type.model_fields
        }
        mine, rest = split(others, BuildOptions, recipe_type, f"build {values.get('recipe')}", also=tuple(known))
        alone = mine.get("completions") is not None and not recipe_type.models_with_completions
        needed = ("out",) if alone else ("model", "out")
        missing = [f"--{name}" for name in needed if name not in mine]
        if missing:
            raise ConfigError(f"build needs {' and '.join(missing)}")
        options = BuildOptions.parse(mine, "build")
        if not alone and not options.models:
            raise ConfigError("build: --model names no model")
        recipe = recipe_type.parse(rest, options.recipe)
        _refuse_unused_models(recipe, annotator=options.annotator, writer=options.writer)
        if options.completions is not None and not recipe.takes_completions:
            raise ConfigError(
                f"recipe '{recipe.name}' makes its own completions; --completions is for feedback and seva"
            )
        if options.annotation != OURS and not recipe.annotates:
            raise ConfigError(f"annotation changes nothing, recipe '{recipe.name}' asks no annotator; leave it out")
        given = recipe.unused(prompts=options.prompts is not None, completions=options.completions is not None)
        for why, unused in given.items():
            if name := next((name for name in unused if name in values), ""):
                raise ConfigError(f"{name} changes nothing, {why}; leave {name} out")
        return cls(options, recipe, strategy)


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """All of a build: everything is parsed and read before anything is written or any model loads."""

    options: BuildOptions
    recipe: Recipe
    strategy: Strategy
    source: Source
    profile: Profile | None = None
    """What the models that make completions are used with."""

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """The build that flat options of `BuildOptions`, of the recipe and of the strategy ask for.

        Models are checked, not loaded.

        Raises:
            PairsightError: an unknown option, bad prompts, or a model that cannot be used.
        """
        choice = BuildChoice.parse(values)
        options, recipe, strategy = choice.options, choice.recipe, choice.strategy
        for model_name in options.models:
            check_model_name(model_name, template=False)
        for asked in filter(None, (options.annotator, options.writer)):
            check_model_name(asked)
        profile = find_profile(asked_profile(options.profile, options.chat_template), options.models)
        check_servers(options.calls, options.to_plain(), recipe.to_plain())
        recipe.check()
        recipe.check_generators(options.models)
        source = read_source(options)
        if not source.given.items and options.writer is None:
            raise DataError("there are no prompts to build from: --prompts FILE")
        return cls(options, recipe, strategy, source, profile)

    @property
    def num_prompts(self) -> int:
        """How many prompts were given, also those that reading dropped."""
        return len(self.source.given) + len(self.source.dropped)

    @property
    def files(self) -> dict[str, str]:
        """`recipe_file` and `strategy_file`: the `file.py:Class` of a recipe or strategy that comes from a file."""
        named = {"recipe_file": self.options.recipe, "strategy_file": self.options.strategy or ""}
        return {name: str(Path(given).resolve()) for name, given in named.items() if is_file_name(given)}

    def to_plain(self, models: RecipeModels, own: Mapping[str, str | list[str]]) -> dict[str, object]:
        """What `run.yaml` says of the build; `own` are the fingerprints of models that the recipe's options name."""
        plain = recorded(self.options)
        if not self.source.is_read:  # made in Python: only the options that say how it was made
            answers = {"dataset_answers": True} if self.options.dataset_answers else {}
            noted = ("model", "annotation", "engine", "workers")
            plain = {name: plain[name] for name in noted if name in plain} | answers
        elif is_file_name(form := str(plain.get("format", ""))):
            plain["format"] = str(Path(form).resolve())
        if self.profile is not None:
            plain["profile_options"] = self.profile.to_plain()
        fingerprints = [generator.fingerprint for generator in models.generators]
        return {
            "recipe": self.recipe.name,
            "options": recorded(self.recipe),
            "strategy": {"name": self.strategy.name, **recorded(self.strategy)},
            "model_fingerprint": fingerprints[0] if len(fingerprints) == 1 else fingerprints,
            "annotator_fingerprint": None if models.annotator is None else models.annotator.fingerprint,
            "writer_fingerprint": None if models.writer is None else models.writer.fingerprint,
            "num_prompts": self.num_prompts,
            "prompts_sha256": self.source.sha256,
            **{f"{option}_fingerprint": found for option, found in own.items()},
            **plain,
            **self.files,
        }

    def free(self, own: Collection[str]) -> tuple[str, ...]:
        """The names in `run.yaml` whose values may differ when a run is resumed.

        Models and files are among them: they are compared by their content.

        Args:
            own: the recipe's options that name models.
        """
        free = [name for name, option in option_facts(BuildOptions).items() if not option.compared]
        return (*free, "profile_options", "recipe_file", "strategy_file", *(f"options.{option}" for option in own))


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
    """The Python files that the recipe and the strategy come from."""
    failed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Stage -> reason -> number of its items that failed."""
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What the recipe measured before its stages: name -> figures."""


def build(
    recipe: Recipe,
    prompts: WithImages[Prompt],
    *,
    model: ModelName | Sequence[ModelName],
    run: str | Path,
    annotator: Annotator | ModelName | None = None,
    annotation: AnnotationOptions = OURS,
    writer: ModelName | None = None,
    strategy: str | Strategy | None = None,
    dataset_answers: bool = False,
    profile: str | Profile | None = None,
    engine: str = "local",
    workers: int = 1,
    update: bool = False,
    quiet: bool = False,
) -> CandidateSet:
    """Run a recipe, keep every completion and annotation in the run folder, and write its candidates and pairs.

    Args:
        recipe: e.g. `SeVa(noise_step=500)`.
        prompts: from `read_prompts`.
        model: what makes the completions: a folder, a hub name or `endpoint:NAME@URL`; several where the recipe allows.
        run: the run's folder; an existing run of the same recipe, prompts and models is resumed.
        annotator: what rates the completions, where the recipe needs it: a model's name, or an `Annotator`.
        annotation: how an annotator that is named, or a judge, is asked and answers.
        writer: the model that writes texts, where the recipe needs one.
        strategy: how pairs are chosen; default: the recipe's own.
        dataset_answers: keep the prompts' own answers as completions, for the strategy `sft`.
        profile: how images are shown and prompts written: a name, a YAML file, "none", or a `Profile`.
        engine, workers: "local", "processes" or "ray", and how many workers it has.
        update: change the options of an existing run; only what is then missing is computed.
        quiet: show no progress.

    Returns:
        The candidates with their images.

    Raises:
        RunError: the folder belongs to another run.
        ConfigError, ModelError: options or models that cannot work, found before any model loads.
    """
    _refuse_unused_models(recipe, annotator=annotator, writer=writer)
    model_names = [model] if isinstance(model, (str, Path)) else list(model)
    for model_name in [*model_names, annotator, writer]:
        if isinstance(model_name, (str, Path)):
            check_model_name(model_name, template=model_name not in model_names)
    found = find_profile(profile, model_names)
    models = open_models(
        model_names, BlobStore(run), annotator=annotator, annotation=annotation, writer=writer, profile=found
    )
    with plugins(strategy):
        chosen = strategy if isinstance(strategy, Strategy) else make_strategy(strategy or recipe.default_strategy)
    named = [str(one) for one in model_names]
    values = {
        "recipe": recipe.name, "model": named[0] if len(named) == 1 else named, "out": str(run),
        "annotation": annotation, "dataset_answers": dataset_answers, "engine": engine, "workers": workers,
    }  # fmt: skip
    spec = BuildSpec(BuildOptions.parse(values, "build"), recipe, chosen, _given(prompts, dataset_answers), found)
    build_run(spec, models, update=update, quiet=quiet)
    return replace(load_candidates(run), built_with=chosen)


def _given(prompts: WithImages[Prompt], with_answers: bool) -> Source:
    read = prompts if isinstance(prompts, PromptSet) else None
    return Source(prompts, read.dropped if read else (), read.answers if read and with_answers else {})


def build_run(
    spec: BuildSpec, models: RecipeModels | None = None, *, update: bool = False, quiet: bool = False
) -> Built:
    """Do what a spec says, in a run folder that resumes where it stopped.

    Args:
        spec: the build.
        models: the models by role; None: those that the spec's options name.
        update: change the options of an existing run; only what is then missing is computed.
        quiet: show no progress.

    Raises:
        PairsightError: a model that cannot be used, or a folder of another run.
    """
    from pairsight.engine.calls.calls import Caller
    from pairsight.engine.runner import Runner, open_engine
    from pairsight.store.sealed_results import results_of_plans

    options, source, strategy = spec.options, spec.source, spec.strategy
    if models is None:
        models = open_models(
            options.models,
            BlobStore(options.out),
            annotator=options.annotator,
            writer=options.writer,
            endpoint=options.endpoint,
            annotation=options.annotation,
            trust_remote_code=options.trust_remote_code,
            profile=spec.profile,
            load_in_4bit=bool(options.load_in_4bit),
        )
    own = spec.recipe.fingerprints()
    folder = RunFolder.create(options.out, spec.to_plain(models, own), free=spec.free(own), update=update)
    with folder.lock("build"), folder.log(), Progress("quiet" if quiet else "auto") as progress:
        _keep_annotation(folder, options.annotation)
        _keep_images(folder, source, progress)
        with folder.ledger() as ledger, open_engine(options.engine, options.workers) as engine:
            _forget_lost_images(ledger, folder.blobs)
            runner = Runner(ledger, engine, progress, caller=Caller(options.calls), refuse_all_failed=True)
            measured = _measured(folder, spec, models)
            made = source.candidates(spec.recipe, models, runner)
            first = list(islice(made, 1))  # all stages do their work before they return the first candidates
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
        measured,
    )


def _measured(folder: RunFolder, spec: BuildSpec, models: RecipeModels) -> Mapping[str, Mapping[str, float]]:
    """What the recipe measures before its stages, kept in `measured.json` and logged."""
    measured = spec.recipe.measured([one for one in spec.source.given if isinstance(one, Prompt)], models)
    if measured:
        write_file(folder.path / "measured.json", json.dumps(measured, indent=2).encode())
        _LOG.info("measured: %s", json.dumps(measured))
    return measured


def _keep_annotation(folder: RunFolder, annotation: AnnotationOptions) -> None:
    """Write the options of annotation to a file of their own, where they are not ours: a guide is a long text."""
    if annotation != OURS:
        asked: str = yaml.safe_dump(annotation.to_plain(), sort_keys=False, allow_unicode=True)
        write_file(folder.path / ANNOTATION_FILE, asked.encode())


def _keep_images(folder: RunFolder, source: Source, progress: Progress) -> None:
    """Copy every image into the run, which then no longer needs the user's folder."""
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
    """Forget the generated images whose blobs are missing or damaged, so that they are made again."""
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
    """ConfigError for an annotator or a writer that the recipe does not use."""
    for role, model in given.items():
        if model is not None and role not in recipe.roles:
            raise ConfigError(f"recipe '{recipe.name}' uses no {role}; leave --{role} out")
