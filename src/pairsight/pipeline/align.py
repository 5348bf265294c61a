"""Pairs -> adapter: what `align` does with a run or a dataset."""

import logging
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from pairsight.build_record import BuildRecord
from pairsight.config import option_facts, recorded, split
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.models.endpoint.model import PREFIX
from pairsight.models.profiles.profile import Profile
from pairsight.options import AlignOptions, recipe_class
from pairsight.pipeline.dataset import examples_of, kind_of, left_out, reference_in_words
from pairsight.pipeline.models import asked_profile, find_profile
from pairsight.pipeline.select import CandidateSet, Examples, load_candidates, select, select_once, strategy_of_run
from pairsight.records import Dropped, PreferencePair
from pairsight.registry import NamedPiece, is_file_name, losses
from pairsight.selection.strategy import Strategy, make_strategy
from pairsight.store.run_folder import RunFolder
from pairsight.training.config import TrainingConfig, TrainingSummary, is_sft, refuse_unused
from pairsight.training.ranks.launch import launched

if TYPE_CHECKING:
    from pairsight.training.forecast.forecast import Forecast

_LOG = logging.getLogger("pairsight.align")
Say = Callable[[str], None]
BuiltWith = Strategy | NamedPiece | None
"""The strategy that a run was built with: itself or, read from its `run.yaml`, by name and options."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A finished training."""

    adapter: Path
    merged: Path | None
    num_examples: int
    summary: TrainingSummary | None


@dataclass(frozen=True, slots=True)
class AlignSpec:
    """All of a training except its examples: the verb's options, the trainer's, and what chooses the examples."""

    options: AlignOptions
    training: TrainingConfig
    strategy: Strategy | None = None

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        recipe: str | None = None,
        built_with: BuiltWith = None,
        made: NamedPiece | None = None,
    ) -> Self:
        """The training that flat options ask for, over the model's preset over the recipe's defaults.

        A strategy that makes demonstrations is trained with the loss `sft` and the recipe's `default_sft_training`, and
        gives the adapter its name.

        Args:
            values: the flat options of `AlignOptions` and `TrainingConfig`.
            recipe: the run's recipe, "" for a dataset; None: it and `built_with` are read where `data` is a run.
            built_with: the strategy that the run was built with.
            made: the recipe with its own options in that run; None: none are known.

        Raises:
            ConfigError: an unknown option, a value out of range, or a loss that does not take demonstrations.
        """
        from pairsight.training.objective import training_config

        mine, rest = split(values, AlignOptions, TrainingConfig, "align")
        options = AlignOptions.parse(mine, "align")
        if options.name is not None and options.out is not None:
            raise ConfigError("align: --name is a folder's inside the run, and --out names another; give one of them")
        asked_profile(options.profile, options.chat_template)  # an unknown one is found before anything is read
        run = run_of(options)
        if recipe is None and run is not None:
            folder = RunFolder.open(run)
            record = BuildRecord.from_plain(folder.config)
            recipe, made, built_with = record.recipe_name, record.recipe, strategy_of_run(folder)
        elif recipe is None:
            gives, built_with = kind_of(options)
            if gives == "demonstrations" and not is_sft(rest.setdefault("loss", "sft")):
                raise ConfigError(f"{options.data} holds demonstrations, for --loss sft; found {rest['loss']}")
        origin = recipe_class(recipe) if recipe else None
        defaults = origin.default_training if origin is not None else None
        views = made.options.get(origin.views_option) if origin is not None and made is not None else 1
        if defaults is not None and isinstance(views, int) and views > 1:
            defaults = defaults.model_copy(update={"loss": "multi_negative"})
        strategy = strategy_of(options, built_with)
        if strategy is not None and strategy.makes_demonstrations:
            if not is_sft(rest.setdefault("loss", "sft")):
                raise ConfigError(
                    f"strategy '{strategy.name}' makes demonstrations, for --loss sft; found {rest['loss']}"
                )
            options = options.model_copy(update={"name": options.name or strategy.name})
            defaults = (origin.default_sft_training or defaults) if origin is not None else None
        start = None
        if options.adapter is not None:
            from pairsight.training.start import Start

            start = Start.read(options.adapter, options.model)
        training = training_config(rest, options.model, defaults, start)
        refuse_unused(rest, training, start is not None)
        _check(training, options)
        return cls(options, training, strategy)

    def selection(self) -> str:
        """How the examples were chosen, as YAML for people: what `align.yaml`, which is the trainer's, does not say."""
        plain = recorded(self.options)
        if self.strategy is not None:
            named = self.options.strategy or ""
            name = str(Path(named).resolve()) if is_file_name(named) else self.strategy.name
            plain |= {"strategy": name, "strategy_options": self.strategy.to_plain()}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _check(training: TrainingConfig, options: AlignOptions) -> None:
    """Refuse a merge of nothing, and a loss in a file that only a config names: the trainer trusts what it is given."""
    if options.merge and training.tuning == "full":
        raise ConfigError("merge: tuning=full trains a full model and no adapter to merge; leave --merge out")
    for loss in training.loss_names:
        if is_file_name(loss):
            losses.get(loss)


def align_run(spec: AlignSpec, *, quiet: bool = False, say: Say = lambda sentence: None) -> Aligned:
    """Train on a run's candidates, or on a dataset, as the spec says; `say` is told what a dataset holds.

    Raises:
        PairsightError: data or a model that cannot be used, or a folder of another training.
    """
    from pairsight.models.folders import check_model

    launched().refuse_other_count(spec.options.devices)
    run = run_of(spec.options)
    candidates = None if run is None else load_candidates(run)
    check_model(spec.options.model, template=False)  # see `find_profile`
    examples = limited(_examples(spec, candidates, say), spec)
    aligned = align(examples, spec, run, quiet=quiet)
    if run is None and (sentence := reference_in_words(examples, aligned.adapter)):
        say(sentence)
    return aligned


def forecast_run(
    spec: AlignSpec, *, memory: float | None = None, quiet: bool = False, say: Say = lambda sentence: None
) -> "Forecast":
    """What `align_run` would take, found without reading any weights; nothing is written.

    Args:
        spec: of the training.
        memory: GiB of a GPU that it is planned for; None: the device that is here, as it is now.
        quiet: no progress display.
        say: is told what a dataset holds.

    Raises:
        PairsightError: data or a model that cannot be used.
    """
    from pairsight.models.folders import check_model
    from pairsight.training.forecast.fake_training import Device
    from pairsight.training.forecast.forecast import forecast
    from pairsight.training.trainer import PreferenceTrainer

    options, run = spec.options, run_of(spec.options)
    if options.devices > 1:
        raise ConfigError("--dry-run is for one device; leave --devices out")
    candidates = None if run is None else load_candidates(run)
    check_model(options.model, template=False)
    examples = limited(_examples(spec, candidates, say), spec)
    progress = Progress("quiet" if quiet else "auto")
    profile = profile_of_training(options, run)
    trainer = PreferenceTrainer(
        options.model, out=".", config=spec.training, adapter=options.adapter, profile=profile, progress=progress
    )
    with progress:
        return forecast(trainer, examples, Device.of(memory))


def align(examples: Examples, spec: AlignSpec, run: Path | None, *, quiet: bool = False) -> Aligned:
    """Train on examples that are already chosen; see `PreferenceTrainer`.

    Where the strategy has a line that must end every question, it is written into the adapter's folder and the merged
    model's, and is added to the questions wherever these models answer.
    """
    from pairsight.models.folders import PROMPT_SUFFIX_FILE, prompt_suffix_json, read_prompt_suffix
    from pairsight.training.adapter import merged_model
    from pairsight.training.trainer import PreferenceTrainer

    options = spec.options
    out = Path(options.out) if options.out is not None else None
    if run is None and out is None:
        raise RunError("say where the adapter goes: --out DIR (only an adapter of a run has a default folder)")
    progress = Progress("quiet" if quiet else "auto")
    trainer = PreferenceTrainer(
        options.model,
        run=run,
        out=out,
        name=options.name,
        config=spec.training,
        adapter=options.adapter,
        profile=profile_of_training(options, run),
        progress=progress,
    )
    beside = {"selection.yaml": spec.selection().encode()}
    if suffix := spec.strategy.inference_suffix() if spec.strategy is not None else "":
        beside[PROMPT_SUFFIX_FILE] = prompt_suffix_json(suffix)
    if run is None:
        beside |= left_out(examples)
    if options.adapter is not None and (line := read_prompt_suffix(options.adapter)) not in ("", suffix):
        text = "%s was trained with '%s' at the end of every question, which this training leaves out"
        _LOG.warning(text, options.adapter, line)
    adapter = trainer.train(examples, beside)
    merged = merged_model(adapter, options.model) if options.merge and launched().rank == 0 else None
    return Aligned(adapter, merged, len(examples), TrainingSummary.read(adapter))


def profile_of_training(options: AlignOptions, run: Path | None) -> Profile | None:
    """The profile that the model is trained with: as asked, else as the run's completions were made, else the model's.

    Raises:
        ConfigError: an unknown or malformed profile.
        ModelError: the model was itself trained with another profile.
    """
    asked = asked_profile(options.profile, options.chat_template)
    record = None if run is None else BuildRecord.from_plain(RunFolder.open(run).config)
    here = record is not None and not all(name.startswith(PREFIX) for name in record.models)
    built = record.profile if record is not None and here else None  # an endpoint's profile pads at most
    if built is not None:
        from pairsight.models.profiles.choice import recorded_profile, same

        of_run = recorded_profile(built, str(run))
        if asked is None:
            asked = of_run
            _LOG.info("profile '%s', as %s was built with", of_run.name, run)
        elif not same(find_profile(asked, ()), of_run):
            _LOG.warning(
                "%s was built with profile '%s', and the training uses --profile %s: its prompts and images are others",
                *(run, of_run.name, asked if isinstance(asked, str) else asked.name),
            )
    return find_profile(asked, [options.model], [options.adapter] if options.adapter else [])


def strategy_of(options: AlignOptions, built_with: BuiltWith) -> Strategy | None:
    """The strategy that chooses, with the given options: the named one, else the build's own; None without either.

    Raises:
        ConfigError: an unknown strategy, code that the user did not name in this call, or an option it does not have.
    """
    if isinstance(built_with, Strategy):
        if options.strategy in (None, built_with.name):
            given = {**built_with.to_plain(), **options.strategy_options}
            return type(built_with).parse(given, f"strategy '{built_with.name}'")
        built_with = None
    name = options.strategy or (built_with.name if built_with is not None else None)
    if name is None:
        return None
    own = built_with.options if built_with is not None and name == built_with.name else {}
    return make_strategy(name, **{**own, **options.strategy_options})


def limited(examples: Examples, spec: AlignSpec) -> Examples:
    """The examples that remain after `text_only_prompts`, `max_length_difference`, `per_source` and `limit`.

    Raises:
        DataError: none remains, a source that no example is of, or demonstrations with `max_length_difference`.
    """
    from pairsight.formats.record_tables import Part, spooled

    options = spec.options
    items = examples.items
    if items and (not options.text_only_prompts or options.max_length_difference is not None):
        items = spooled(type(items[0]), _kept(items, options))
    if options.per_source:
        items = Part(items, array("q", _drawn_by_source(items, options.per_source, spec.training.seed)))
    if options.limit is not None and options.limit < len(items):
        drawn = random.Random(spec.training.seed).sample(range(len(items)), options.limit)
        items = Part(items, array("q", sorted(drawn)))
    if not items:
        raise DataError(f"{options.data}: no example is left to train on; see `pairsight inspect`")
    return replace(examples, items=items)


def _drawn_by_source(items: Sequence[Any], per_source: Mapping[str, int], seed: int) -> list[int]:
    """The numbers of at most the wanted number of examples of each of these sources, and of all others; in order."""
    wanted = {source.rstrip("/"): count for source, count in per_source.items()}
    of_source: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        of_source.setdefault(item.prompt.source.rstrip("/"), []).append(number)
    for source in wanted:
        if source not in of_source:
            known = ", ".join(f"'{name}' ({len(those)})" for name, those in of_source.items())
            raise DataError(f"per_source names '{source}', and no example is of it; there are {known or 'none'}")
    kept: list[int] = []
    for source, numbers in of_source.items():
        count = min(wanted.get(source, len(numbers)), len(numbers))
        kept += random.Random(f"{seed} {source}").sample(numbers, count)
    return sorted(kept)


def _kept(items: Sequence[Any], options: AlignOptions) -> Iterator[Any]:
    """The examples that are not too different in length, and on an image where that is asked."""
    from pairsight.selection.length_matching import match_lengths

    for item in items:
        if not options.text_only_prompts and not item.prompt.images:
            continue
        kept = item
        if options.max_length_difference is not None:
            if not isinstance(item, PreferencePair):
                raise DataError("max_length_difference needs preference pairs; this strategy makes demonstrations")
            kept = match_lengths(item, options.max_length_difference)
        if not isinstance(kept, Dropped):
            yield kept


def _examples(spec: AlignSpec, candidates: CandidateSet | None, say: Say) -> Examples:
    options = spec.options
    if candidates is None:
        return examples_of(options, spec.strategy, say)
    facts = option_facts(AlignOptions)
    for name in options.given():
        if facts[name].needs == "a dataset":
            flag = facts[name].flag
            raise ConfigError(f"{flag} says how a dataset is read, and {options.data} is a run; leave {flag} out")
    strategy = spec.strategy or candidates.strategy
    return select(candidates)[0] if strategy is None else select_once(candidates, strategy)


def run_of(options: AlignOptions) -> Path | None:
    """The run whose candidates are the data; None where the data is a file or folder of pairs."""
    path = Path(options.data)
    return path if (path / "run.yaml").is_file() else None
