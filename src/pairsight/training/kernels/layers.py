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
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pairsight.training.families import language_model
from pairsight.training.kernels.attention import TreeSpans, attend
from pairsight.training.kernels.elementwise import rms_norm, rotate
from pairsight.training.precision import product_dtype
from pairsight.training.tokens import spans_of_some

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


def fuse_lora(policy: Any) -> int:
    """Let every plain adapter of a `peft` model take the short way when nothing speaks against it; returns how many."""
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in policy.modules():
        if type(module) is Linear and type(module.get_base_layer()) is nn.Linear:
            module.forward = MethodType(_forward, module)
            count += 1
    return count


def _forward(self: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    base = self.get_base_layer()
    names = [name for name in self.active_adapters if name in self.lora_A]
    plain = not (arguments or options or self.disable_adapters or self.merged) and len(names) == 1
    if not plain or names[0] in self.lora_variant or base.weight.requires_grad or self.lora_bias[names[0]]:
        return type(self).forward(self, x, *arguments, **options)  # type: ignore[no-any-return]
    dtype = product_dtype(x)
    bias = None if base.bias is None else base.bias.to(dtype)
    out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]).to(dtype),
        base.weight.to(dtype),
        bias,
        self.lora_A[names[0]].weight,
        self.lora_B[names[0]].weight,
        self.scaling[names[0]],
        _dropped_share(self.lora_dropout[names[0]]),
    )
    return out.view(*x.shape[:-1], -1)


def _dropped_share(dropout: nn.Module) -> float:
    return float(dropout.p) if isinstance(dropout, nn.Dropout) and dropout.training else 0.0


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_rI: Tensor,
        b_Or: Tensor,
        scaling: float,
        dropped: float,
    ) -> Tensor:
        out_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        kept_TI = torch.empty_like(x_TI, dtype=torch.bool).bernoulli_(1 - dropped) if dropped else None
        low_Tr = _those(x_TI, kept_TI) @ a_rI.to(x_TI.dtype).T
        ctx.scaling = scaling / (1 - dropped)  # what dropout keeps is scaled up; on the low rank that is free
        out_TO.addmm_(low_Tr, b_Or.to(x_TI.dtype).T, alpha=ctx.scaling)
        ctx.save_for_backward(x_TI, kept_TI, weight_OI, a_rI, b_Or, low_Tr)
        return out_TO

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        x_TI, kept_TI, weight_OI, a_rI, b_Or, low_Tr = ctx.saved_tensors
        gradient_TO, dtype = upstream[0], x_TI.dtype
        back_Tr = (gradient_TO @ b_Or.to(dtype)).mul_(ctx.scaling)
        gradient_a = (back_Tr.T @ _those(x_TI, kept_TI)).to(a_rI.dtype)
        gradient_b = (gradient_TO.T @ low_Tr).to(b_Or.dtype).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0] and kept_TI is None:
            gradient_x = (gradient_TO @ weight_OI).addmm_(back_Tr, a_rI.to(dtype))
        elif ctx.needs_input_grad[0]:
            gradient_x = (back_Tr @ a_rI.to(dtype)).mul_(kept_TI).addmm_(gradient_TO, weight_OI)
        return gradient_x, None, None, gradient_a, gradient_b, None, None


def _those(x_TI: Tensor, kept_TI: Tensor | None) -> Tensor:
    return x_TI if kept_TI is None else x_TI * kept_TI
