"""Pairs -> adapter: what `align` does with a run or a dataset."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from pairsight.config import recorded
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.images.source import WithImages
from pairsight.options import AlignOptions, recipe_class, split
from pairsight.pipeline.select import CandidateSet, Examples, load_candidates, make_strategy, select
from pairsight.records import PreferencePair
from pairsight.registry import is_file_name, losses
from pairsight.selection.strategy import Strategy
from pairsight.training.adapter import TrainingSummary
from pairsight.training.config import TrainingConfig, is_sft, refuse_unused

BuiltWith = Strategy | Mapping[str, object] | None
"""The strategy a run was built with or, as its `run.yaml` says it, its name and options."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A finished training."""

    adapter: Path
    merged: Path | None
    num_examples: int
    summary: TrainingSummary | None


@dataclass(frozen=True, slots=True)
class AlignSpec:
    """A training, complete but for its examples: the verb's options, the trainer's, and what chooses the examples."""

    options: AlignOptions
    training: TrainingConfig
    strategy: Strategy | None = None

    @classmethod
    def parse(cls, values: Mapping[str, object], recipe: str = "", built_with: BuiltWith = None) -> Self:
        """The training that flat options ask for, under the recipe's defaults and the model's preset.

        A strategy that makes demonstrations is learned from with the loss `sft` and the recipe's
        `default_sft_training`, and names the adapter.

        Args:
            values: the flat options of `AlignOptions` and `TrainingConfig`.
            recipe: the run's recipe; "" for a dataset.
            built_with: the strategy the run was built with.

        Raises:
            ConfigError: an unknown option, a value out of range, or a loss that demonstrations do not serve.
        """
        from pairsight.training.objective import training_config

        mine, rest = split(values, AlignOptions, TrainingConfig, "align")
        options = AlignOptions.parse(mine, "align")
        defaults: Mapping[str, object] | None = None
        if recipe:
            defaults = recipe_class(recipe).default_training
        strategy = strategy_of(options, built_with)
        if strategy is not None and strategy.makes_demonstrations:
            if not is_sft(rest.setdefault("loss", "sft")):
                raise ConfigError(
                    f"strategy '{strategy.name}' makes demonstrations, for --loss sft; found {rest['loss']}"
                )
            options = options.model_copy(update={"name": options.name or strategy.name})
            defaults = (recipe_class(recipe).default_sft_training or defaults) if recipe else None
        training = training_config(rest, options.model, defaults)
        refuse_unused(rest, training)
        if options.merge and training.tuning == "full":
            raise ConfigError(
                "merge: tuning=full leaves a whole model, there is no adapter to merge; leave --merge out"
            )
        for loss in training.loss_names:
            if is_file_name(loss):
                losses.get(loss)  # the trainer takes what it is given as the user's word
        return cls(options, training, strategy)

    def selection(self) -> str:
        """How the examples were chosen, as YAML for people: what `align.yaml`, the trainer's, does not know."""
        plain = recorded(self.options)
        if self.strategy is not None:
            named = self.options.strategy or ""
            name = str(Path(named).resolve()) if is_file_name(named) else self.strategy.name
            plain |= {"strategy": name, "strategy_options": self.strategy.to_plain()}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def align_from_options(values: Mapping[str, Any], quiet: bool = False) -> Aligned:
    """Align with the flat options of `AlignOptions` and `TrainingConfig`.

    The trainer's defaults are the recipe's when the data is a run; a model folder's own preset goes before them.

    Raises:
        PairsightError: an unknown option, data or a model that cannot be used, a folder of another training.
    """
    from pairsight.models.check import check_model

    run = _run_of(values.get("data", ""))
    candidates = None if run is None else load_candidates(run)
    spec = AlignSpec.parse(values, recipe_name(run), None if candidates is None else candidates.built_with)
    check_model(spec.options.model)
    return align(limited(_examples(spec, candidates), spec), spec, run, quiet=quiet)


def align(examples: Examples, spec: AlignSpec, run: Path | None, *, quiet: bool = False) -> Aligned:
    """Train on examples that are chosen already; see `PreferenceTrainer`.

    Where the strategy has a line that must end every question, it is left in the adapter's folder and the merged
    model's, and applied wherever these are asked.
    """
    from pairsight.models.folders import PROMPT_SUFFIX_FILE, prompt_suffix_json
    from pairsight.training.adapter import merged_model
    from pairsight.training.trainer import PreferenceTrainer

    options = spec.options
    out = Path(options.out) if options.out is not None else None
    if run is None and out is None:
        raise RunError("say where the adapter goes: --out DIR (only a run has a place of its own)")
    progress = Progress("quiet" if quiet else "auto")
    trainer = PreferenceTrainer(
        options.model, run=run, out=out, name=options.name, config=spec.training, progress=progress
    )
    beside = {"selection.yaml": spec.selection().encode()}
    if suffix := spec.strategy.inference_suffix() if spec.strategy is not None else "":
        beside[PROMPT_SUFFIX_FILE] = prompt_suffix_json(suffix)
    adapter = trainer.train(examples, beside)
    merged = merged_model(adapter, options.model) if options.merge else None
    return Aligned(adapter, merged, len(examples), TrainingSummary.read(adapter))


def strategy_of(options: AlignOptions, built_with: BuiltWith) -> Strategy | None:
    """The strategy that chooses: the named one, else the build's own, with the options given on top; None for neither.

    Raises:
        ConfigError: an unknown strategy, one that is code the user does not name, or an option it does not have.
    """
    if isinstance(built_with, Strategy):
        if options.strategy in (None, built_with.name):
            given = {**built_with.to_plain(), **options.strategy_options}
            return type(built_with).parse(given, f"strategy '{built_with.name}'")
        built_with = None
    own = dict(built_with or {})
    usual = own.pop("name", None)
    name = options.strategy or usual
    if name is None:
        return None
    return make_strategy(str(name), {**(own if name == usual else {}), **options.strategy_options})


def limited(examples: Examples, spec: AlignSpec) -> Examples:
    """The examples that `text_only_prompts`, `max_length_difference` and `limit` leave.

    Raises:
        DataError: none is left.
    """
    from pairsight.selection.length_matching import match_lengths

    options = spec.options
    items: list[Any] = [item for item in examples if options.text_only_prompts or item.prompt.images]
    if options.max_length_difference is not None:
        if any(not isinstance(item, PreferencePair) for item in items):
            raise DataError("max_length_difference needs preference pairs, and this strategy makes demonstrations")
        items, _ = match_lengths(items, options.max_length_difference)
    if options.limit is not None and options.limit < len(items):
        kept = sorted(random.Random(spec.training.seed).sample(range(len(items)), options.limit))
        items = [items[index] for index in kept]
    if not items:
        raise DataError(f"{options.data}: nothing is left to train on; see `pairsight inspect`")
    return replace(examples, items=tuple(items))


def _examples(spec: AlignSpec, candidates: CandidateSet | None) -> Examples:
    options = spec.options
    if candidates is not None:
        if options.format is not None:
            raise ConfigError(f"--format is for a file of pairs; {options.data} is a run: leave it out")
        chosen, _ = select(candidates, spec.strategy)
        return WithImages(chosen.items, chosen.images)
    from pairsight.formats.pairs import read_pairs

    if options.strategy is not None or options.strategy_options:
        raise DataError(f"--strategy chooses from a run's candidates; {options.data} holds chosen pairs already")
    if options.format is not None:
        from pairsight.formats.completions import read_given_pairs
        from pairsight.formats.prompts import make_format

        return read_given_pairs(options.data, make_format(options.format))
    return read_pairs(options.data)


def _run_of(data: str) -> Path | None:
    path = Path(data)
    return path if (path / "run.yaml").is_file() else None


def recipe_name(run: Path | None) -> str:
    """The recipe's name, or the `file.py:Class` that it came from."""
    if run is None:
        return ""
    from pairsight.store.run_folder import RunFolder

    config = RunFolder.open(run).config
    return str(config.get("recipe_file") or config.get("recipe", ""))
