"""The model in training: which parts are trained, and at which learning rate."""

import re
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from pairsight.errors import ConfigError, TrainingError
from pairsight.training.config import TrainingConfig
from pairsight.training.families import PROJECTORS, TOWERS, inner_model, language_model
from pairsight.training.kernels.attention import use_tree_attention
from pairsight.training.kernels.layers import use_plain_layers
from pairsight.training.precision import Precision, keep_trained_in_float32, read_4_bits
from pairsight.training.start import Start


def load_base(
    name: str, config: TrainingConfig, precision: Precision, device: torch.device, held: Collection[str] = ()
) -> Any:
    """The model that is trained and that is the reference: frozen, its forward by the fast paths.

    Args:
        name: a folder or a hub name.
        config: which parts keep more bits, or fewer.
        precision: the types of weights and products.
        device: where to.
        held: parts ("projector", "vision") that an adapter to go on from holds in full.
    """
    from pairsight.models.load import load_model

    model = load_model(
        name,
        dtype=precision.weights,
        device=device,
        float32_modules=float32_parts(config, held),
        in_4_bits=language_model if config.load_in_4bit else None,
    ).requires_grad_(False)
    if config.load_in_4bit:
        read_4_bits(model)
    use_fast_paths(model)
    return model


def use_fast_paths(model: Any) -> None:
    """Let a model's forward attend by spans and run plain layers."""
    use_tree_attention(model)
    use_plain_layers(model)


def make_policy(model: Any, config: TrainingConfig, start: Start | None = None) -> Any:
    """Freeze all, then unfreeze what the config trains: adapters or the language model, projector, vision tower.

    Args:
        model: the base.
        config: which parts, and how.
        start: the adapter to go on from; None: new adapters, which change nothing yet.

    Raises:
        ModelError: an adapter that does not fit.
        ConfigError: adapter targets that match no linear layer, or a part that this model does not have.
    """
    model.requires_grad_(False)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(config.seed)
    in_full = [name for names in open_parts(model, config).values() for name in names]
    if config.tuning == "full":
        for module in (language_model(model), model.get_output_embeddings()):
            module.requires_grad_(True)
        for name in in_full:
            model.get_submodule(name).requires_grad_(True)
        keep_trained_in_float32(model)
        return model
    if start is not None:
        policy = start.policy(model, config, in_full)
        keep_trained_in_float32(policy)
        return policy
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=lora_targets(model, config.lora_target_modules),
        modules_to_save=in_full or None,
        task_type="CAUSAL_LM",
    )
    policy = get_peft_model(model, settings)
    keep_trained_in_float32(policy)
    return policy


def lora_targets(model: Any, asked: tuple[str, ...]) -> str:
    """A pattern of the language model's linear layers that get adapters: all, or those with the given names.

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


def parameter_groups(policy: Any, config: TrainingConfig) -> list[dict[str, object]]:
    """Trained parameters by learning rate, the language model's first; vectors (norms, biases) get no weight decay."""
    asked = {
        "projector": config.projector_learning_rate,
        "vision": config.vision_learning_rate,
        "language": config.learning_rate,
    }
    rates = {part: rate for part, rate in asked.items() if rate is not None}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates[part_of(name)], decay), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda group: group[0][0] != config.learning_rate)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in ordered]


def num_trained(policy: Any) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in policy.parameters() if p.requires_grad)


def weight_sums(trained: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
    """A checksum of each trained tensor, by name; it changes when any of the tensor's values does, but for chance."""
    return {name: int(tensor.view(torch.int32).sum(dtype=torch.int64)) for name, tensor in trained}


def unchanged_parts(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[str, ...]:
    """Parts ("language", "projector", "vision") of which no trained tensor changed.

    Raises:
        TrainingError: nothing changed at all.
    """
    moved = {part_of(name) for name in before if before[name] != after[name]}
    if not moved:
        raise TrainingError(
            "the training changed no weight; see the losses and gradients in metrics.jsonl, and raise learning_rate"
        )
    return tuple(sorted({part_of(name) for name in before} - moved))


def movement_kept(policy: Any, dtype: torch.dtype) -> dict[str, float]:
    """The share of the change from the base that is kept when a merged model's weights are rounded, by kind.

    Formula: Σ (round(w) − w₀)(w − w₀) / Σ (w − w₀)², over the merged weights w of one kind and w₀ of the base.
    Source: ours.

    Args:
        policy: the base with its adapter, float32; it is not changed, and one layer at a time is merged on the side.
        dtype: the type that weights are rounded to.

    Returns:
        The share of "weights_with_adapters" and of "modules_trained_in_full": of each kind that there is and changed.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    sums: dict[str, tuple[float, float]] = {}
    for module in policy.modules():
        if isinstance(module, ModulesToSaveWrapper):
            kind, base = "modules_trained_in_full", module.original_module
            (trained,) = module.modules_to_save.values()
        elif isinstance(module, BaseTunerLayer):
            layer = deepcopy(module)
            layer.merge()
            kind, base, trained = "weights_with_adapters", module.get_base_layer(), layer.get_base_layer()
        else:
            continue
        for new, old in zip(trained.parameters(), base.parameters(), strict=True):
            moved = (new - old).detach().double()
            kept, total = sums.get(kind, (0.0, 0.0))
            kept += float(((new.detach().to(dtype).double() - old.detach().double()) * moved).sum())
            sums[kind] = kept, total + float(moved.square().sum())
    return {kind: kept / total for kind, (kept, total) in sums.items() if total}


def float32_parts(config: TrainingConfig, held: Collection[str] = ()) -> tuple[str, ...]:
    """Names of modules outside the language model that a config keeps in float32, as families call them.

    Those it trains in full or an adapter holds, and the projector behind a trained tower: its norms take the tower's
    float32 output.
    """
    if config.vision_learning_rate is not None or "vision" in held:
        return (*PROJECTORS, *TOWERS)
    return PROJECTORS if config.projector_learning_rate is not None or "projector" in held else ()


def open_parts(model: Any, config: TrainingConfig, held: Collection[str] = ()) -> dict[str, list[str]]:
    """Part ("projector", "vision") -> full names of its modules that are trained in full; only parts that are trained.

    Args:
        model: the base.
        config: which parts are trained.
        held: parts that count as trained, because an adapter to go on from holds them.

    Raises:
        ConfigError: a part that this model does not have.
    """
    wanted = {"projector": config.projector_learning_rate, "vision": config.vision_learning_rate}
    inside_language = {id(module) for module in language_model(model).modules()}
    opened: dict[str, list[str]] = {}
    for part, rate in wanted.items():
        if rate is None and part not in held:
            continue
        found = {
            name: module
            for name, module in model.named_modules()
            if name.rpartition(".")[2] in (PROJECTORS if part == "projector" else TOWERS)
            and id(module) not in inside_language
        }
        names = [n for n in found if not any(n.startswith(f"{other}.") for other in found)]
        if not names:
            raise ConfigError(f"{part}_learning_rate: {type(inner_model(model)).__name__} has no {part}")
        opened[part] = [piece for name in names for piece in _pieces(name, found[name], part)]
    return opened


def _pieces(name: str, module: nn.Module, part: str) -> list[str]:
    """Full names of what is trained of a module: the module itself, or its children where it cannot be trained as one.

    That is so for a list of modules, and for a tower with a projector inside, which belongs to the other part.
    """
    inside = part == "vision" and any(path.rpartition(".")[2] in PROJECTORS for path, _ in module.named_modules())
    if not inside and not isinstance(module, nn.ModuleList):
        return [name]
    if next(module.parameters(recurse=False), None) is not None:
        raise ConfigError(
            f"{part}_learning_rate: {name} holds a projector and weights of its own, which is not supported"
        )
    children = {child: one for child, one in module.named_children() if not (inside and child in PROJECTORS)}
    trained = {child: one for child, one in children.items() if next(one.parameters(), None) is not None}
    return [piece for child, one in trained.items() for piece in _pieces(f"{name}.{child}", one, part)]


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name: "language", "projector" or "vision"."""
    pieces = name.split(".")
    if any(piece in PROJECTORS for piece in pieces):
        return "projector"
    return "vision" if any(piece in TOWERS for piece in pieces) else "language"
