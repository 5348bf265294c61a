"""LLaVA's weights by name: what its authors' code and what `transformers` call the same tensor.

Original: `model.layers…`, `model.mm_projector.{0,2}`, `model.vision_tower.vision_tower.vision_model…`, `lm_head`.
transformers: the names of the published `llava-hf` folders, which every version reads; later versions save others.
Source: github.com/haotian-liu/LLaVA, and the state dicts of both classes.
"""

import re
from collections.abc import Sequence

_PAIRS = (
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("lm_head.", "language_model.lm_head."),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
)
"""(original, transformers): how names begin."""

_LATER = (
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("lm_head.", "language_model.lm_head."),
    ("vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_tower.", "vision_tower.vision_model."),
)
"""(how later versions of transformers begin a name, how the published folders do)."""

_COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Tensors that follow from the config and that older versions saved."""


def to_transformers(name: str) -> str | None:
    """What transformers calls an original tensor; "" for one that follows from the config, None for an unknown one."""
    return _renamed(name, _PAIRS)


def to_original(name: str) -> str | None:
    """What LLaVA's authors call a tensor of transformers, by old or new names; "" and None as `to_transformers`."""
    if _COMPUTED.search(name):
        return ""
    published = _renamed(name, _LATER) or name
    return _renamed(published, [(hf, original) for original, hf in _PAIRS])


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    if _COMPUTED.search(name):
        return ""
    return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), None)
