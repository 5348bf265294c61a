"""The commands that make a run again, written from what its folder records."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pairsight.build_record import BuildRecord
from pairsight.config import option_facts, plain_defaults
from pairsight.errors import PairsightError
from pairsight.options import ANNOTATION_FILE, AlignOptions, BuildOptions
from pairsight.registry import NamedPiece, Registry, is_file_name, recipes, strategies
from pairsight.reporting.page import visible
from pairsight.training.config import OF_ADAPTERS, PRESETS, TrainingConfig

Settings = list[tuple[str, object]]
"""Options with their plain values, in order."""


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What the files of a training say of it.

    Attributes:
        training: its name in the run, and the trainer's options in `align.yaml`.
        model: the base's name in `align.yaml`; "" where that file is missing or damaged.
        strategy: what chose the examples, in `selection.yaml`; its name is "" where it says none.
        selection: the options in `selection.yaml` that are not defaults.
    """

    training: NamedPiece
    model: str
    strategy: NamedPiece
    selection: tuple[tuple[str, object], ...]

    @classmethod
    def from_plain(cls, name: str, align: object, selection: object) -> Self:
        """The record in the contents of `align.yaml` and `selection.yaml`; what they do not say is empty."""
        trained = align if isinstance(align, Mapping) and isinstance(align.get("training"), Mapping) else {}
        chosen = selection if isinstance(selection, Mapping) else {}
        usual = plain_defaults(AlignOptions)
        noted = [option for option, facts in option_facts(AlignOptions).items() if facts.recorded and option in usual]
        return cls(
            training=NamedPiece(name, dict(_changes(trained.get("training"), None))),
            model=str(trained.get("model") or ""),
            strategy=NamedPiece(
                str(chosen.get("strategy") or ""), dict(_changes(chosen.get("strategy_options"), None))
            ),
            selection=tuple(_changes({option: chosen[option] for option in noted if option in chosen}, usual)),
        )


def build_command(run: Path, record: BuildRecord) -> list[str]:
    """What built the run, with all that is not a default: `pairsight build …` or, of a build in Python, the call."""
    recipe = record.recipe_name
    if not recipe:
        return []
    options = list(_changes(record.recipe.options, _defaults(recipes, recipe)))
    if record.options.get("prompts") is None and record.options.get("completions") is None:
        return [_python_call(run, record, options)]
    words = ["pairsight", "build", recipe]
    for model in record.models:
        words += ["--model", model]
    facts, reading = option_facts(BuildOptions), _reading(record)
    for name, value in reading:
        if facts[name].flag:
            words += _flag(facts[name].flag, value)
    settings = [(name, value) for name, value in reading if not facts[name].flag]
    if (run / ANNOTATION_FILE).is_file():
        file = f"{run.name}/{ANNOTATION_FILE}"
        settings = [(name, file if name == "annotation" else value) for name, value in settings]
    settings += [(name, value) for name, value in options if name not in BuildOptions.model_fields]
    for name, value in dict([*settings, *_strategy(record.built_with)]).items():
        words += ["--set", f"{name}={_yaml(value)}"]
    return [_line([*words, "--out", run.name])]


def align_command(run: Path, record: TrainingRecord, build: BuildRecord) -> list[str]:
    """`pairsight align …` with every option that is not the recipe's default, or that a model's preset may set.

    Args:
        run: the run's folder.
        record: the training.
        build: the run's build.
    """
    training, recipe = record.training, build.recipe_name
    if not record.model:
        return []
    try:
        given: TrainingConfig = recipes.get(recipe).default_training if recipe else TrainingConfig()
    except PairsightError:
        given = TrainingConfig()
    preset = {option for options in PRESETS.values() for option in options.given()} | {"min_steps_per_epoch"}
    usual = {option: value for option, value in given.to_plain().items() if option not in preset}
    words = ["pairsight", "align", run.name, "--model", record.model, "--name", training.name]
    chosen = _selection(record, build.built_with)
    for option, value in dict([*chosen, *_changes(training.options, usual)]).items():
        if option in OF_ADAPTERS and training.options.get("tuning") == "full":
            continue
        if option == "num_train_epochs" and training.options.get("max_steps", -1) != -1:
            continue
        words += ["--set", f"{option}={_yaml(value)}"]
    own = "" if "strategy" in dict(chosen) or build.built_with is None else build.built_with.name
    return [_line([*words, *plugin_flags(recipe, own)])]


def plugin_flags(*names: str) -> list[str]:
    """`--plugin FILE`, once for each file that a run's own recipe or strategy comes from."""
    files = dict.fromkeys(name.rpartition(":")[0] for name in names if is_file_name(name))
    return [word for file in files for word in ("--plugin", file)]


def _python_call(run: Path, record: BuildRecord, options: Settings) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in options)
    model = repr(record.models[0] if len(record.models) == 1 else list(record.models))
    rated = ", annotator=…" if record.fingerprints["annotator"] else ""
    made = f"{_class_name(record.recipe_name)}({arguments})"
    return visible(f"ps.build({made}, prompts, model={model}{rated}, run={run.name!r})", 2_000)


def _class_name(recipe: str) -> str:
    try:
        return f"ps.{recipes.get(recipe).__name__}"
    except PairsightError:
        return recipe


def _strategy(strategy: NamedPiece | None) -> Settings:
    if strategy is None:
        return []
    return [("strategy", strategy.name), *_changes(strategy.options, _defaults(strategies, strategy.name))]


def _reading(record: BuildRecord) -> Settings:
    """The recorded options of `build` that can change a result and are not defaults; the seed is always included."""
    found: Settings = []
    usual = plain_defaults(BuildOptions)
    for name, option in option_facts(BuildOptions).items():
        value = record.options.get(name)
        if value is None or name == "model" or not (option.recorded and option.results):
            continue
        default = usual[name]
        if isinstance(default, Mapping):
            value = dict(_changes(value, default))
        if name == "seed" or value not in ({}, default):
            found.append((name, value))
    return found


def _flag(flag: str, value: Any) -> list[str]:
    """A flag with its value, or once with each of several; of a mapping, `NAME=VALUE`."""
    if isinstance(value, Mapping):
        value = [f"{name}={one}" if name else one for name, one in value.items()]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (flag, str(one))]


def _selection(record: TrainingRecord, built_with: NamedPiece | None) -> Settings:
    """What of the choice of examples differs from the build's own."""
    strategy = record.strategy
    same = built_with is not None and built_with.name == strategy.name
    usual = built_with.options if built_with is not None and same else _defaults(strategies, strategy.name)
    named = [("strategy", strategy.name)] if strategy.name and not same else []
    own = dict(_changes(strategy.options, usual))
    return [*record.selection, *named, *([("strategy_options", own)] if own else [])]


def _defaults(registry: Registry, name: str) -> object:
    """The defaults of a recipe's or strategy's options as plain values; None where they cannot be found."""
    try:
        found: object = registry.get(name)().to_plain()
    except (PairsightError, ValueError):
        return None
    return found


def _changes(values: object, usual: object) -> Iterator[tuple[str, object]]:
    """The options in a mapping of plain values that another one does not have, or has with another value."""
    given, defaults = (one if isinstance(one, Mapping) else {} for one in (values, usual))
    for name, value in given.items():
        if defaults.get(name, ...) != value:
            yield str(name), value


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(words: list[str]) -> str:
    return visible(shlex.join(words), 2_000)
