"""What a training step minimises: losses on the log-probs of some examples.

Shapes: B prompts, N image sets, K completions, Q sequences.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pairsight.errors import ConfigError
from pairsight.registry import losses as loss_registry
from pairsight.training.config import OF_THE_LOSS, TrainingConfig, loss_names, model_presets
from pairsight.training.loss_grid import LossFunction, LossInputs, LossSpec, Running, per_token
from pairsight.training.start import Start
from pairsight.training.tokens import TokenExample


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of the sum, with its options."""

    function: LossFunction
    spec: LossSpec
    weight: float
    options: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of some examples: its part of the batch's mean, and per-prompt values for logs, state and errors."""

    total: Tensor
    loss_B: Tensor
    rewards_BK: Tensor
    state: Mapping[str, Tensor]


def training_config(
    options: Mapping[str, object],
    model: str | Path | None = None,
    recipe_defaults: TrainingConfig | None = None,
    start: Start | None = None,
) -> TrainingConfig:
    """The config of a training: `options` over the model's preset over the recipe's defaults over the general ones.

    With another loss than the recipe's, or the preset's, their `OF_THE_LOSS` are left out: its own defaults hold.

    Args:
        options: what the user asked for, option name -> value.
        model: a model folder; its `pairsight.json` may name a `training_preset`.
        recipe_defaults: the recipe's `default_training`, of which only the options given in it count.
        start: an adapter to go on from, whose rank, scale and layers are kept.

    Raises:
        ConfigError: an unknown option or loss, a value out of range, or an option that no chosen loss takes, or that
            the adapter contradicts.
        ModelError: `pairsight.json` is damaged or names a preset that does not exist.
    """
    recipe = recipe_defaults or TrainingConfig()
    names = loss_names(options.get("loss", recipe.loss))
    merged: dict[str, object] = {}
    for defaults in (recipe, *model_presets(model, names)):
        theirs = set(loss_names(defaults.loss)) == set(names)
        merged |= {name: value for name, value in defaults.given().items() if theirs or name not in OF_THE_LOSS}
    if options.keys() & {"per_device_train_batch_size", "gradient_accumulation_steps"}:
        merged["min_steps_per_epoch"] = 0  # a batch size that the user set is kept
    config = TrainingConfig.parse({**merged, **options}, "training")
    if start is not None:
        config = start.settled(config, options.keys())
    objective = Objective(config)  # finds an option that no loss takes before any data is read
    if config.reference is not None and not objective.needs_reference:
        raise ConfigError(f"reference changes nothing, loss {' + '.join(config.loss_names)} compares with none")
    return config


class Objective:
    """A weighted sum of losses.

    Raises:
        ConfigError: an unknown loss, or an option that none of the losses takes.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._average = config.average_log_prob
        named = {"beta": config.beta, "label_smoothing": config.label_smoothing}
        for name in named.keys() & config.loss_options.keys():
            raise ConfigError(f"'{name}' is a separate option: give it as {name}, not inside loss_options")
        given = {**config.loss_options, **{name: value for name, value in named.items() if value is not None}}
        terms = []
        for name, weight in config.weights_by_loss.items():
            function = loss_registry.get(name)
            own = {option: given[option] for option in _options(function) if option in given}
            terms.append(Term(function, function.spec, weight, own))
        self.terms = tuple(terms)
        _refuse_what_no_loss_takes(config, terms, set(given))

    @property
    def needs_reference(self) -> bool:
        """Whether any loss uses reference log-probs."""
        return any(term.spec.reference for term in self.terms)

    @property
    def num_images(self) -> int:
        """Image sets that the losses use."""
        return max(term.spec.images for term in self.terms)

    @property
    def contrast(self) -> str:
        """The distortion that makes contrast images where the data has none."""
        return next((term.spec.contrast for term in self.terms if term.spec.contrast), "")

    @property
    def running(self) -> dict[str, Running]:
        """How the losses' running numbers are kept from step to step."""
        return {name: how for term in self.terms for name, how in term.spec.running.items()}

    @property
    def min_completions(self) -> int:
        """Completions an example must have."""
        return max(term.spec.min_completions for term in self.terms)

    def at_reference(self, x: LossInputs) -> float:
        """The largest loss of a prompt while the policy is the reference, as before the first step: its own scale."""
        assert x.reference_logps_BNK is not None
        start = replace(x, policy_logps_BNK=x.reference_logps_BNK)
        return float(self(start, num_prompts=1, num_tokens=1).loss_B.abs().max())

    def __call__(self, x: LossInputs, num_prompts: float, num_tokens: float) -> StepLoss:
        """The loss of B prompts as their part of a batch of `num_prompts` prompts and `num_tokens` chosen tokens."""
        averaged = per_token(x) if self._average else x
        parts: list[Tensor] = []
        state: dict[str, Tensor] = {}
        loss_B = torch.zeros_like(x.weights_B)
        rewards_BK: Tensor | None = None
        for term in self.terms:
            out = term.function(averaged if term.spec.takes_average else x, **term.options)
            denominator = num_prompts if term.spec.per == "prompt" else num_tokens
            weighted_B = term.weight * x.weights_B * out.loss_B
            parts.append(weighted_B.sum() / denominator)
            loss_B = loss_B + weighted_B.detach()
            rewards_BK = out.rewards_BK if rewards_BK is None or term.spec.reference else rewards_BK
            state.update(out.state)
        assert rewards_BK is not None
        return StepLoss(torch.stack(parts).sum(), loss_B, rewards_BK, state)


def loss_inputs(
    examples: Sequence[TokenExample],
    sums_Q: Tensor,
    reference_Q: Tensor | None,
    state: Mapping[str, float],
) -> LossInputs:
    """Sequence log-probs as the inputs of a loss.

    Args:
        examples: B examples, whose sequences follow each other in the order of Q.
        sums_Q: log-probs under the model.
        reference_Q: the same under the reference, or None.
        state: running numbers of losses that couple prompts.
    """
    num_images = max(e.num_images for e in examples)
    num_completions = max(e.num_completions for e in examples)
    index = torch.full((len(examples), num_images, num_completions), -1)
    lengths = torch.zeros(len(examples), num_completions)
    start = 0
    for b, example in enumerate(examples):
        for offset, (n, k) in enumerate(example.cells):
            index[b, n, k] = start + offset
            if n == 0:
                lengths[b, k] = len(example.sequences[k]) - example.sequences[k].prompt_length
        start += len(example.cells)
    device = sums_Q.device
    index, mask = index.clamp(min=0).to(device), (index >= 0).to(device)
    return LossInputs(
        torch.where(mask, sums_Q[index], 0.0),
        None if reference_Q is None else torch.where(mask, reference_Q.to(device)[index], 0.0),
        lengths.to(device),
        mask,
        torch.tensor([e.weight for e in examples], device=device),
        state,
    )


def _refuse_what_no_loss_takes(config: TrainingConfig, terms: Sequence[Term], given: set[str]) -> None:
    """Raise ConfigError for an option that changes nothing under these losses; it lists what they take."""
    which = " + ".join(config.loss_names)
    allowed = {option: None for term in terms for option in _options(term.function)}
    for name in sorted(given):
        if name not in allowed:
            raise ConfigError(f"loss {which} has no option '{name}'; it takes {', '.join(allowed) or 'none'}")
    if config.average_log_prob and not any(term.spec.takes_average for term in terms):
        raise ConfigError(
            f"average_log_prob changes nothing under loss {which}, which takes {', '.join(allowed) or 'no option'}"
        )


def _options(function: LossFunction) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
