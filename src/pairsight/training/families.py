"""What prefix sharing must know about a model family, read from the loaded model itself."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Bidirectional = Literal["none", "image", "prompt"]

PROJECTORS = ("multi_modal_projector", "connector", "merger", "deepstack_merger_list")
TOWERS = ("vision_tower", "vision_model", "visual")
"""Names that families give to the parts between pixels and language model."""

_MASKED_BY_US = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Family:
    """How a model sees a sequence.

    Args:
        placeholder: the token id of a piece of an image; None for text-only models.
        bidirectional: what a token sees besides the past: its own image's tokens, or all of the prompt.
        window: tokens of the past that a sliding layer sees, along the path; None without such layers.
        layer_kinds: the kinds of attention layers, one mask each.
        last_kind: that of the last layer.
        first_position: the position of a sequence's first token.
        rope_index: positions come from the model's own rule on the full prompt (several axes).
        obstacle: why prefixes cannot be shared; empty when they can.
    """

    placeholder: int | None
    bidirectional: Bidirectional
    window: int | None
    layer_kinds: tuple[str, ...]
    last_kind: str
    first_position: int
    rope_index: bool
    obstacle: str


def describe(model: Any) -> Family:
    """The family of a loaded `transformers` model."""
    config = model.config
    text = config.get_text_config()
    by_layer = getattr(text, "layer_types", None) or ["full_attention"]
    kinds = tuple(sorted(set(by_layer)))
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if getattr(text, "layer_types", None) and "sliding_attention" not in kinds:
        window = None
    inner = inner_model(model)
    placeholder = getattr(config, "image_token_id", None)
    takes_features = placeholder is None or "mm_encoder_outputs" in inspect.signature(inner.forward).parameters
    name = config.model_type
    return Family(
        placeholder=placeholder,
        bidirectional="prompt" if name == "paligemma" else "image" if name == "gemma3" else "none",
        window=window,
        layer_kinds=kinds,
        last_kind=by_layer[-1],
        first_position=1 if name == "paligemma" else 0,
        rope_index=hasattr(inner, "get_rope_index"),
        obstacle=_obstacle(name, text, kinds, takes_features),
    )


def _obstacle(name: str, text: Any, kinds: Sequence[str], takes_features: bool) -> str:
    """Why prefixes cannot be shared, by a model's type and the config of its language model."""
    strange = [kind for kind in kinds if kind not in _MASKED_BY_US]
    two_way = getattr(text, "use_bidirectional_attention", None)
    reasons = {
        f"layers of kind {', '.join(strange)} carry a state along the sequence": strange,
        "its forward does not take image features (mm_encoder_outputs)": not takes_features,
        "its sliding layers and its bidirectional prompt cannot be combined": name == "paligemma" and len(kinds) > 1,
        "tokens of an image see each other both ways, but in its sliding layers only": two_way == "vision",  # Gemma 4
        "its tokens see later tokens": two_way and name != "paligemma",
        "its head caps logits (final_logit_softcapping)": getattr(text, "final_logit_softcapping", None),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def base_model(model: Any) -> Any:
    """The `transformers` model inside a `peft` one, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def inner_model(model: Any) -> Any:
    """The model without its language-model head."""
    return base_model(model).model


def language_model(model: Any) -> Any:
    """The decoder stack alone, without head, vision tower and projector."""
    inner = inner_model(model)
    for name in ("language_model", "text_model"):
        if hasattr(inner, name):
            return getattr(inner, name)
    return inner


def deepstack_depth(model: Any) -> int:
    """After how many of its first layers a language model adds image features (DeepStack)."""
    if "deepstack_visual_embeds" not in inspect.signature(language_model(model).forward).parameters:
        return 0
    return len(model.config.vision_config.deepstack_visual_indexes)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout inside, and as it was after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def counted_positions(family: Family, count: int) -> NDArray[np.int64]:
    """Positions that only count tokens, [axes, count]."""
    return np.tile(np.arange(count) + family.first_position, (3 if family.rope_index else 1, 1))


def prompt_positions(model: Any, family: Family, input_ids: Tensor, extra: dict[str, Tensor]) -> Tensor | None:
    """Positions of a prompt's tokens and of the next one, [axes, T + 1]; None where they only count tokens.

    Args:
        input_ids: the prompt's tokens, [T].
        extra: the processor's tensors of this prompt, with `mm_token_type_ids` [T] where the family has them.
    """
    if not family.rope_index or not any(name.endswith("grid_thw") for name in extra):
        return None
    rule = inner_model(model).get_rope_index
    known = inspect.signature(rule).parameters
    arguments = {name: value for name, value in extra.items() if name in known}
    if "mm_token_type_ids" in arguments:
        arguments["mm_token_type_ids"] = torch.cat([arguments["mm_token_type_ids"], torch.zeros(1).long()])[None]
    full = torch.cat([input_ids, torch.zeros(1, dtype=input_ids.dtype)])[None]
    positions, _ = rule(full, attention_mask=torch.ones_like(full), **arguments)
    return torch.as_tensor(positions[:, 0], dtype=torch.long)
