"""Decoder layers of the usual structure on packed rows: attention by spans, fewer passes, and a shorter last layer.

A prompt's tokens matter to the loss through what later tokens see of them. After the last layer only the predicting
tokens are used, so only those need queries, output and MLP there; this saves one layer's work on most tokens.

What a layer must know about the rows is its argument `row_layout`.

Norm and rotation take as few passes over memory as their arithmetic needs, forward and backward. Where states are in
bfloat16, sums over the width are in float32, as in the modules of transformers.

Shapes: R rows, S tokens per row, N predicting tokens per row (padded), H heads, E width of a head, D width, T tokens.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pairsight.training.families import language_model
from pairsight.training.kernels.attention import RowLayout, TreeSpans, attend
from pairsight.training.precision import product_dtype

_PLAIN_LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
"""Layers of one structure: norm, attention with rotary positions, residual, norm, MLP, residual."""


def use_plain_layers(model: Any) -> bool:
    """Replace the forward of a model's layers by a faster one; False where they have another structure and are kept."""
    layers = getattr(language_model(model), "layers", None)
    if layers is None or type(layers[-1]).__name__ not in _PLAIN_LAYERS:
        return False
    for layer in layers[:-1]:
        layer.forward = MethodType(_full_layer, layer)
    layers[-1].forward = MethodType(_last_layer, layers[-1])
    return True


def has_plain_layers(model: Any) -> bool:
    """Whether `use_plain_layers` replaced the layers of this model."""
    layers = getattr(language_model(model), "layers", None)
    return layers is not None and getattr(layers[-1].forward, "__func__", None) is _last_layer


def _full_layer(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    return _run(_all_tokens, self, hidden_states, attention_mask, options)


def _last_layer(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    return _run(_predicting_tokens, self, hidden_states, attention_mask, options)


def _run(
    compute: Callable[..., Tensor], layer: Any, hidden_RSD: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """A layer's output: by `compute` for packed rows, else by the layer's own forward."""
    layout: RowLayout | None = options.get("row_layout")
    if layout is None or layout.needed_RN is None:
        return type(layer).forward(layer, hidden_RSD, attention_mask=mask, **options)  # type: ignore[no-any-return]
    given = partial(compute, layer, mask=mask, layout=layout, rotary=options["position_embeddings"])
    if layer.gradient_checkpointing and layer.training:  # transformers does it in the replaced forward
        return layer._gradient_checkpointing_func(given, hidden_RSD)  # type: ignore[no-any-return]
    return given(hidden_RSD)


def _all_tokens(
    layer: Any, hidden_RSD: Tensor, mask: Tensor | None, layout: RowLayout, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    normed_RSD = rms_norm(layer.input_layernorm, hidden_RSD)
    attention = layer.self_attn
    query = rotate(_heads(attention.q_proj(normed_RSD), attention, "q_norm"), *rotary)
    seen = _attention(attention, normed_RSD, query, rotary, mask, layout.spans_for(attention))
    return _mlp(layer, hidden_RSD + attention.o_proj(seen))


def _predicting_tokens(
    layer: Any, hidden_RSD: Tensor, mask: Tensor | None, layout: RowLayout, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    needed_RN = layout.needed_RN
    assert needed_RN is not None
    num_rows = len(needed_RN)
    rows_R1 = torch.arange(num_rows, device=needed_RN.device)[:, None]
    cos_RSE, sin_RSE = (t.expand(num_rows, -1, -1) for t in rotary)
    attention = layer.self_attn
    normed_RSD = rms_norm(layer.input_layernorm, hidden_RSD)
    query = _heads(attention.q_proj(normed_RSD[rows_R1, needed_RN]), attention, "q_norm")
    query = rotate(query, cos_RSE[rows_R1, needed_RN], sin_RSE[rows_R1, needed_RN])
    if layout.needed_spans is None and mask is not None:
        mask = mask[rows_R1, 0, needed_RN][:, None]
    seen = _attention(attention, normed_RSD, query, (cos_RSE, sin_RSE), mask, layout.needed_spans)
    return _mlp(layer, hidden_RSD[rows_R1, needed_RN] + attention.o_proj(seen))


def _attention(  # noqa: PLR0917
    attention: Any,
    normed_RSD: Tensor,
    query_RNHE: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor | None,
    tree: TreeSpans | None,
) -> Tensor:
    """Attention of each query over the keys and values of its row, [R, N, H · E]."""
    query = query_RNHE.transpose(1, 2)
    key = rotate(_heads(attention.k_proj(normed_RSD), attention, "k_norm"), *rotary).transpose(1, 2)
    value = _heads(attention.v_proj(normed_RSD), attention, "").transpose(1, 2)
    if (groups := attention.num_key_value_groups) > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    dropout = attention.attention_dropout if attention.training else 0.0
    if tree is not None:
        return attend(query, key, value, tree, attention.scaling, dropout).flatten(2)
    assert mask is not None
    seen = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=attention.scaling)
    return seen.transpose(1, 2).flatten(2)


def _mlp(layer: Any, hidden: Tensor) -> Tensor:
    changed: Tensor = layer.mlp(rms_norm(layer.post_attention_layernorm, hidden))
    return hidden + changed


def _heads(states_RSX: Tensor, attention: Any, norm: str) -> Tensor:
    """States by head, [R, S, H, E], normed if the model does that."""
    heads_RSHE = states_RSX.view(*states_RSX.shape[:-1], -1, attention.head_dim)
    return rms_norm(getattr(attention, norm), heads_RSHE) if hasattr(attention, norm) else heads_RSHE


def rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """The output of a module like `LlamaRMSNorm`: x · w / √(mean(x²) + ε).

    Args:
        norm: has `weight` and `variance_epsilon`; it is called itself if it is trained or has another type.
        hidden: [..., D].
    """
    if norm.weight.requires_grad or hidden.dtype != norm.weight.dtype:
        return norm(hidden)  # type: ignore[no-any-return]
    return _Norm.apply(hidden, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def rotate(states_RSHE: Tensor, cos_RSE: Tensor, sin_RSE: Tensor) -> Tensor:
    """Rotary positions: the halves (a, b) of each head become (a cos − b sin, b cos + a sin).

    Args:
        states_RSHE: queries or keys.
        cos_RSE, sin_RSE: both halves equal; the product is computed in the wider type of these and the states.

    Returns:
        [R, S, H, E] in the states' type.
    """
    return _Rotation.apply(states_RSHE, cos_RSE[:, :, None], sin_RSE[:, :, None])  # type: ignore[no-any-return,no-untyped-call]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        x_TD = hidden.reshape(-1, hidden.shape[-1]).float()
        length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        inverse_T1 = length_T1.square_().mul_(1 / x_TD.shape[-1]).add_(epsilon).rsqrt_()
        normed_TD = (x_TD * inverse_T1).to(hidden.dtype)
        ctx.save_for_backward(normed_TD, inverse_T1, weight_D)
        scaled: Tensor = normed_TD * weight_D
        return scaled.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        normed_TD, inverse_T1, weight_D = ctx.saved_tensors
        gradient, x_TD = upstream[0], normed_TD.float()
        back_TD = gradient.reshape(x_TD.shape).float() * weight_D
        along_T1 = torch.linalg.vecdot(back_TD, x_TD)[:, None].mul_(-1 / x_TD.shape[-1])
        back_TD.addcmul_(x_TD, along_T1).mul_(inverse_T1)
        return back_TD.to(gradient.dtype).view(gradient.shape), None, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_RSHE: Tensor, cos_RS1E: Tensor, sin_RS1E: Tensor) -> Tensor:
        ctx.save_for_backward(cos_RS1E, sin_RS1E)
        return _turn(states_RSHE, cos_RS1E, sin_RS1E, 1.0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        cos_RS1E, sin_RS1E = ctx.saved_tensors
        return _turn(upstream[0], cos_RS1E, sin_RS1E, -1.0), None, None


def _turn(states_RSHE: Tensor, cos_RS1E: Tensor, sin_RS1E: Tensor, direction: float) -> Tensor:
    half = states_RSHE.shape[-1] // 2
    given = states_RSHE.to(torch.promote_types(states_RSHE.dtype, cos_RS1E.dtype))
    cos_RS1E, sin_RS1E = cos_RS1E.to(given.dtype), sin_RS1E.to(given.dtype)
    turned = given * cos_RS1E
    turned[..., :half].addcmul_(given[..., half:], sin_RS1E[..., :half], value=-direction)
    turned[..., half:].addcmul_(given[..., :half], sin_RS1E[..., half:], value=direction)
    return turned.to(states_RSHE.dtype)


def fuse_lora(policy: Any) -> int:
    """Replace the forward of each plain `peft` adapter by a faster one with the same result; returns how many."""
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
        low_Tr = _after_dropout(x_TI, kept_TI) @ a_rI.to(x_TI.dtype).T
        ctx.scaling = scaling / (1 - dropped)  # the scale of dropout, applied where it costs nothing
        out_TO.addmm_(low_Tr, b_Or.to(x_TI.dtype).T, alpha=ctx.scaling)
        ctx.save_for_backward(x_TI, kept_TI, weight_OI, a_rI, b_Or, low_Tr)
        return out_TO

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        x_TI, kept_TI, weight_OI, a_rI, b_Or, low_Tr = ctx.saved_tensors
        gradient_TO, dtype = upstream[0], x_TI.dtype
        back_Tr = (gradient_TO @ b_Or.to(dtype)).mul_(ctx.scaling)
        gradient_a = (back_Tr.T @ _after_dropout(x_TI, kept_TI)).to(a_rI.dtype)
        gradient_b = (gradient_TO.T @ low_Tr).to(b_Or.dtype).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0] and kept_TI is None:
            gradient_x = (gradient_TO @ weight_OI).addmm_(back_Tr, a_rI.to(dtype))
        elif ctx.needs_input_grad[0]:
            gradient_x = (back_Tr @ a_rI.to(dtype)).mul_(kept_TI).addmm_(gradient_TO, weight_OI)
        return gradient_x, None, None, gradient_a, gradient_b, None, None


def _after_dropout(x_TI: Tensor, kept_TI: Tensor | None) -> Tensor:
    return x_TI if kept_TI is None else x_TI * kept_TI
