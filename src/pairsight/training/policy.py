"""The model in training: which parts move, and at which learning rate."""

import re
from typing import Any

import torch
from torch import nn

from pairsight.errors import ConfigError
from pairsight.training.config import TrainingConfig
from pairsight.training.families import inner_model, language_model

_PROJECTORS = ("multi_modal_projector", "connector", "merger", "deepstack_merger_list")
_TOWERS = ("vision_tower", "vision_model", "visual")


def make_policy(model: Any, config: TrainingConfig) -> Any:
    """Freeze all, then open what the config trains: adapters or the language model, projector, vision tower.

    Raises:
        ConfigError: adapter targets that match no linear layer, or a part that this model does not have.
    """
    model.requires_grad_(False)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(config.seed)
    whole = _open_parts(model, config)
    if config.tuning == "full":
        for module in (language_model(model), model.get_output_embeddings()):
            module.requires_grad_(True)
        for name in whole:
            model.get_submodule(name).requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=lora_targets(model, config.lora_target_modules),
        modules_to_save=whole or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def lora_targets(model: Any, asked: tuple[str, ...]) -> str:
    """A pattern of the language model's linear layers that get adapters: all, or those with the names asked for.

    Raises:
        ConfigError: a name that no linear layer of the language model has.
    """
    prefix = next(name for name, module in model.named_modules() if module is language_model(model))
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{prefix}.")
    }
    if unknown := [name for name in asked if name not in found]:
        raise ConfigError(
            f"lora_target_modules: no linear layer '{unknown[0]}' in the language model; "
            f"there are {', '.join(sorted(found))}"
        )
    names = "|".join(sorted(re.escape(name) for name in (asked or found)))
    return rf"(.*\.)?{re.escape(prefix)}\..*\.({names})"


def parameter_groups(policy: Any, config: TrainingConfig) -> list[dict[str, Any]]:
    """Trained parameters by learning rate, the language model's first; vectors (norms, biases) get no weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            rate = {
                "projector": config.projector_learning_rate,
                "vision": config.vision_learning_rate,
                "language": config.learning_rate,
            }[_part(name)]
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate or config.learning_rate, decay), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda group: group[0][0] != config.learning_rate)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in ordered]


def vision_frozen(config: TrainingConfig) -> bool:
    """Whether nothing between pixels and language model is trained, so that features can be kept."""
    return config.projector_learning_rate is None and config.vision_learning_rate is None


def _open_parts(model: Any, config: TrainingConfig) -> list[str]:
    """Full names of the modules besides the language model that are trained whole."""
    wanted = {"projector": config.projector_learning_rate, "vision": config.vision_learning_rate}
    inner = inner_model(model)
    language = language_model(model)
    inside_language = {id(module) for module in language.modules()}
    opened: list[str] = []
    for part, rate in wanted.items():
        if rate is None:
            continue
        names = [
            name
            for name, module in model.named_modules()
            if name.rpartition(".")[2] in (_PROJECTORS if part == "projector" else _TOWERS)
            and id(module) not in inside_language
        ]
        names = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
        if not names:
            raise ConfigError(f"{part}_learning_rate: {type(inner).__name__} has no {part}")
        opened += names
    return opened


def _part(name: str) -> str:
    pieces = name.split(".")
    if any(piece in _PROJECTORS for piece in pieces):
        return "projector"
    return "vision" if any(piece in _TOWERS for piece in pieces) else "language"
