"""Decoder layers of the plain shape on packed rows: attention by spans, fewer passes, and a last layer cut short.

A prompt's tokens matter to the loss through what later tokens see of them. In the last layer nothing comes later but
the predicting tokens, so only those need queries, output and MLP; a saving of one layer's work on most tokens.

What a layer must know of the rows travels with the attention mask as its attribute `packed`.

Shapes: R rows, S tokens a row, N predicting tokens a row (padded), H heads, E width of a head, D width.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pairsight.training.families import language_model
from pairsight.training.fused_elementwise import rms_norm, rotate
from pairsight.training.spans import spans_of_some
from pairsight.training.tree_attention import TreeSpans, attend

PACKED = "packed"

_PLAIN_LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
"""Layers of one shape: norm, attention with rotary positions, residual, norm, MLP, residual."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What plain layers must know of packed rows.

    Args:
        needed_RN: places of the tokens that predict.
        tree: the row's spans, where there is one row that has them.
        needed_tree: those of the predicting tokens alone.
    """

    needed_RN: Tensor
    tree: TreeSpans | None
    needed_tree: TreeSpans | None


def use_plain_layers(model: Any) -> bool:
    """Let a model's layers take the short way; False for layers of another shape, which stay as they are."""
    layers = getattr(language_model(model), "layers", None)
    if layers is None or type(layers[-1]).__name__ not in _PLAIN_LAYERS:
        return False
    for layer in layers[:-1]:
        layer.forward = MethodType(_whole, layer)
    layers[-1].forward = MethodType(_last, layers[-1])
    return True


def has_plain_layers(model: Any) -> bool:
    """Whether `use_plain_layers` took hold of this model."""
    layers = getattr(language_model(model), "layers", None)
    return layers is not None and getattr(layers[-1].forward, "__func__", None) is _last


def packed(needed_RN: Tensor, tree: TreeSpans | None) -> Packed:
    """What the layers need, from the predicting tokens' places and the row's spans."""
    if tree is None:
        return Packed(needed_RN, None, None)
    some = spans_of_some(tree.spans, needed_RN[0].cpu().numpy())
    return Packed(needed_RN, tree, TreeSpans(some))


def _whole(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    about: Packed | None = getattr(attention_mask, PACKED, None)
    if about is None or attention_mask is None:
        return type(self).forward(self, hidden_states, attention_mask=attention_mask, **options)  # type: ignore[no-any-return]
    normed_RSD = rms_norm(self.input_layernorm, hidden_states)
    attention, turning = self.self_attn, options["position_embeddings"]
    query = rotate(_heads(attention.q_proj(normed_RSD), attention, "q_norm"), *turning)
    seen = _attention(attention, normed_RSD, query, turning, attention_mask, about.tree)
    return _mlp(self, hidden_states + attention.o_proj(seen))


def _last(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    about: Packed | None = getattr(attention_mask, PACKED, None)
    if about is None or attention_mask is None:
        return type(self).forward(self, hidden_states, attention_mask=attention_mask, **options)  # type: ignore[no-any-return]
    needed_RN, num_rows = about.needed_RN, len(about.needed_RN)
    rows_R1 = torch.arange(num_rows, device=needed_RN.device)[:, None]
    cos_RSE, sin_RSE = (t.expand(num_rows, -1, -1) for t in options["position_embeddings"])
    attention = self.self_attn
    normed_RSD = rms_norm(self.input_layernorm, hidden_states)
    query = _heads(attention.q_proj(normed_RSD[rows_R1, needed_RN]), attention, "q_norm")
    query = rotate(query, cos_RSE[rows_R1, needed_RN], sin_RSE[rows_R1, needed_RN])
    mask = attention_mask if about.needed_tree else attention_mask[rows_R1, 0, needed_RN][:, None]
    seen = _attention(attention, normed_RSD, query, (cos_RSE, sin_RSE), mask, about.needed_tree)
    return _mlp(self, hidden_states[rows_R1, needed_RN] + attention.o_proj(seen))


def _attention(  # noqa: PLR0917
    attention: Any,
    normed_RSD: Tensor,
    query_RNHE: Tensor,
    turning: tuple[Tensor, Tensor],
    mask: Tensor,
    tree: TreeSpans | None,
) -> Tensor:
    """What each query gathers from the keys and values of its row, [R, N, H · E]."""
    query = query_RNHE.transpose(1, 2)
    key = rotate(_heads(attention.k_proj(normed_RSD), attention, "k_norm"), *turning).transpose(1, 2)
    value = _heads(attention.v_proj(normed_RSD), attention, "").transpose(1, 2)
    if (groups := attention.num_key_value_groups) > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    dropout = attention.attention_dropout if attention.training else 0.0
    if tree is not None:
        return attend(query, key, value, tree, attention.scaling, dropout).flatten(2)
    seen = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=attention.scaling)
    return seen.transpose(1, 2).flatten(2)


def _mlp(layer: Any, hidden: Tensor) -> Tensor:
    changed: Tensor = layer.mlp(rms_norm(layer.post_attention_layernorm, hidden))
    return hidden + changed


def _heads(states_RSX: Tensor, attention: Any, norm: str) -> Tensor:
    """States by head, [R, S, H, E], normed where the model does."""
    heads_RSHE = states_RSX.view(*states_RSX.shape[:-1], -1, attention.head_dim)
    return rms_norm(getattr(attention, norm), heads_RSHE) if hasattr(attention, norm) else heads_RSHE
