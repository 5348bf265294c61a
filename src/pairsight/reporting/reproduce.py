"""The commands that make a run again, from what its folder says."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairsight.config import option_facts, plain_defaults
from pairsight.errors import PairsightError
from pairsight.options import AlignOptions, BuildOptions
from pairsight.registry import Registry, is_file_name, recipes, strategies
from pairsight.reporting.page import visible
from pairsight.training.config import OF_ADAPTERS, PRESETS, TrainingConfig


def build_command(run: Path, config: Mapping[str, object]) -> list[str]:
    """What built the run: `pairsight build …` or, where it was made in Python, the call; all that is not a default."""
    recipe = recipe_of(config)
    if not recipe:
        return []
    options = _different(config.get("options"), _defaults(recipes, recipe))
    if config.get("prompts") is None and config.get("completions") is None:
        return [_python_call(run, recipe, options, config)]
    words = ["pairsight", "build", recipe]
    for model in _models(config):
        words += ["--model", model]
    reading = _reading(config)
    facts = option_facts(BuildOptions)
    for name in [name for name in reading if facts[name].flag]:
        words += _flag(facts[name].flag, reading.pop(name))
    options = {name: value for name, value in options.items() if name not in BuildOptions.model_fields}
    for name, value in {**reading, **options, **_strategy(config)}.items():
        words += ["--set", f"{name}={_yaml(value)}"]
    return [_line([*words, "--out", run.name])]


def recipe_of(config: Mapping[str, object]) -> str:
    """The recipe as the verbs take it: `file.py:Class` where it came from a file; "" for none."""
    return str(config.get("recipe_file") or config.get("recipe") or "")


def strategy_of(config: Mapping[str, object]) -> dict[str, object] | None:
    """The run's strategy as its name (`file.py:Class` where it came from a file) and its options; None for none."""
    strategy = config.get("strategy")
    if not isinstance(strategy, Mapping) or "name" not in strategy:
        return None
    return {**strategy, "name": str(config.get("strategy_file") or strategy["name"])}


def align_command(
    run: Path,
    name: str,
    config: Mapping[str, object],
    recipe: str,
    *,
    selection: Mapping[str, object] | None = None,
    built_with: Mapping[str, object] | None = None,
) -> list[str]:
    """`pairsight align …` with every option that is not the recipe's default, or that a model's preset may set.

    Args:
        run: the run's folder.
        name: the training's.
        config: its `align.yaml`.
        recipe: the run's recipe.
        selection: its `selection.yaml`: how the examples were chosen.
        built_with: the strategy in `run.yaml`, its name `file.py:Class` where it came from a file.
    """
    training = config.get("training")
    if not isinstance(training, Mapping) or "model" not in config:
        return []
    try:
        given = dict(recipes.get(recipe).default_training) if recipe else {}
    except PairsightError:
        given = {}
    defaults = TrainingConfig.parse(given).to_plain()
    preset = {option for options in PRESETS.values() for option in options} | {"min_steps_per_epoch"}
    defaults = {option: value for option, value in defaults.items() if option not in preset}
    words = ["pairsight", "align", run.name, "--model", str(config["model"]), "--name", name]
    chosen = _selection(selection or {}, built_with)
    for option, value in {**chosen, **_different(training, defaults)}.items():
        if option in OF_ADAPTERS and training.get("tuning") == "full":
            continue
        words += ["--set", f"{option}={_yaml(value)}"]
    own = "" if "strategy" in chosen or not isinstance(built_with, Mapping) else str(built_with.get("name", ""))
    return [_line([*words, *plugin_flags(recipe, own)])]


def plugin_flags(*names: str) -> list[str]:
    """`--plugin FILE` for each file that a run's own recipe or strategy comes from, once."""
    files = dict.fromkeys(name.rpartition(":")[0] for name in names if is_file_name(name))
    return [word for file in files for word in ("--plugin", file)]


def _python_call(run: Path, recipe: str, options: Mapping[str, object], config: Mapping[str, object]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    models = _models(config)
    model = repr(models[0] if len(models) == 1 else models)
    rated = ", annotator=…" if config.get("annotator_fingerprint") else ""
    text = f"ps.build({_class_name(recipe)}({arguments}), prompts, model={model}{rated}, run={run.name!r})"
    return visible(text, 2_000)


def _class_name(recipe: str) -> str:
    try:
        return f"ps.{recipes.get(recipe).__name__}"
    except PairsightError:
        return recipe


def _models(config: Mapping[str, object]) -> list[str]:
    model = config.get("model")
    return [str(one) for one in model] if isinstance(model, list) else [str(model)] if model else []


def _strategy(config: Mapping[str, object]) -> dict[str, object]:
    strategy = strategy_of(config)
    if strategy is None:
        return {}
    name = strategy.pop("name")
    return {"strategy": name, **_different(strategy, _defaults(strategies, str(name)))}


def _reading(config: Mapping[str, object]) -> dict[str, object]:
    """The options of `build` in a `run.yaml` that can change a result and are no defaults; the seed is always said."""
    found = {}
    usual = plain_defaults(BuildOptions)
    for name, option in option_facts(BuildOptions).items():
        value = config.get(name)
        if value is None or name == "model" or not (option.recorded and option.results):
            continue
        default = usual[name]
        if isinstance(default, Mapping):
            value = _different(value, default)
        if name == "seed" or value not in ({}, default):
            found[name] = value
    return found


def _flag(flag: str, value: Any) -> list[str]:
    """A flag with its value, or once with each of several."""
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (flag, str(one))]


def _selection(selection: Mapping[str, object], built_with: Mapping[str, object] | None) -> dict[str, object]:
    """What of the choice of examples differs from the build's own."""
    facts, defaults = option_facts(AlignOptions), plain_defaults(AlignOptions)
    plain = {option: usual for option, usual in defaults.items() if facts[option].recorded}
    found = {option: selection[option] for option, usual in plain.items() if selection.get(option, usual) != usual}
    name = str(selection.get("strategy", ""))
    built = built_with if isinstance(built_with, Mapping) and built_with.get("name") == name else None
    if name and built is None:
        found["strategy"] = name
    own = _different(selection.get("strategy_options"), _defaults(strategies, name) if built is None else built)
    return {**found, "strategy_options": own} if own else found


def _defaults(registry: Registry, name: str) -> Mapping[str, object]:
    try:
        defaults: Mapping[str, object] = registry.get(name)().to_plain()
    except (PairsightError, ValueError):
        return {}
    return defaults


def _different(values: object, defaults: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(values, Mapping):
        return {}
    return {str(name): value for name, value in values.items() if defaults.get(name, ...) != value}


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(words: list[str]) -> str:
    return visible(shlex.join(words), 2_000)
