"""Where a training run's defaults come from: the user, then the model's preset, then the recipe, then ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pairsight.errors import ConfigError, ModelError, did_you_mean
from pairsight.training.config import TrainingConfig, loss_names

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Measured on the embedded model: with pairs 1e-4 to 2e-4 works, 5e-4 collapses recall.
        "tiny": MappingProxyType(
            {
                "learning_rate": 2e-4,
                "lora_r": 16,
                "lora_alpha": 32.0,
                "beta": 0.1,
                "per_device_train_batch_size": 32,
                "gradient_accumulation_steps": 1,
                "num_train_epochs": 2.0,
            }
        ),
    }
)
"""A preset's options; those in `OF_THE_LOSS` are meant for `dpo`."""
SFT_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"tiny": MappingProxyType({"learning_rate": 5e-4})}  # measured: imitation alone needs and bears more than pairs
)
"""A preset's options that differ when the loss is `sft` alone."""
OF_THE_LOSS = ("beta", "label_smoothing", "average_log_prob", "loss_options", "loss_weights")
"""What has another meaning, or none, under another loss. A recipe's or preset's value holds for its own loss only; all
else (learning rate, rank, batch size, epochs, ...) belongs to the recipe and is kept whatever the loss."""

_USUAL_LOSS = str(TrainingConfig.model_fields["loss"].default)


def training_config(
    options: Mapping[str, Any],
    model: str | Path | None = None,
    recipe_defaults: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """The config of a run: `options` over the model's preset over the recipe's defaults over those of a bare dataset.

    With another loss than the recipe's, or the preset's, their `OF_THE_LOSS` are left out: the loss's own hold.

    Args:
        options: what the user asked for, option name -> value.
        model: a model folder; its `pairsight.json` may name a `training_preset`.
        recipe_defaults: the recipe's `default_training`.

    Raises:
        ConfigError: an unknown option or loss, a value out of range, or an option that no chosen loss takes.
        ModelError: `pairsight.json` is damaged or names a preset that does not exist.
    """
    from pairsight.training.objective import Objective

    recipe = recipe_defaults or {}
    names = loss_names(options.get("loss", recipe.get("loss", _USUAL_LOSS)))
    merged: dict[str, Any] = {}
    for defaults in (recipe, model_preset(model, names)):
        theirs = set(loss_names(defaults.get("loss", _USUAL_LOSS))) == set(names)
        merged |= {name: value for name, value in defaults.items() if theirs or name not in OF_THE_LOSS}
    if options.keys() & {"per_device_train_batch_size", "gradient_accumulation_steps"}:
        merged["min_steps_per_epoch"] = 0  # a batch size of one's own is kept
    config = TrainingConfig.parse({**merged, **options}, "training")
    Objective(config)  # so that an option which no loss takes is found before any data is read
    return config


def refuse_unused(options: Mapping[str, Any], config: TrainingConfig) -> None:
    """ConfigError for an option that the user gave and that changes nothing beside the others.

    Args:
        options: what the user gave, without any defaults.
        config: the config made with them.
    """
    lora = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
    unused = {
        "tuning=full trains no adapters": lora if config.tuning == "full" else (),
        "nothing is held out: set eval_fraction": ("eval_steps",) if not config.eval_fraction else (),
        "share_prefixes=false takes one sequence a pass": () if config.share_prefixes else ("max_tokens_per_pass",),
    }
    for why, names in unused.items():
        for name in names:
            if name in options:
                raise ConfigError(f"{name} changes nothing, {why}; leave {name} out")


def is_sft(loss: Any) -> bool:
    """Whether a loss, a name or a list of names, is `sft` alone: what demonstrations are for."""
    return loss_names(loss) == ("sft",)


def model_preset(model: str | Path | None, loss: Any = None) -> Mapping[str, Any]:
    """The options a model folder asks for in its `pairsight.json`, for a loss; none for other models."""
    file = Path(model) / "pairsight.json" if model is not None else None
    if file is None or not file.is_file():
        return {}
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("training_preset")
    except (ValueError, AttributeError):
        raise ModelError(f"{file} must hold a JSON object") from None
    if name is None:
        return {}
    if name not in PRESETS:
        raise ModelError(f"{file}: unknown training_preset {name!r}{did_you_mean(str(name), list(PRESETS))}")
    return {**PRESETS[name], **(SFT_PRESETS.get(name, {}) if is_sft(loss) else {})}
