"""Decoder layers of the usual structure on packed rows: attention by spans, fewer passes, and a shorter last layer.

A prompt's tokens matter to the loss through what later tokens see of them. After the last layer only the predicting
tokens are used, so only those need queries, output and MLP there; this saves one layer's work on most tokens.

What a layer must know about the rows is its argument `row_layout`.

Norm and rotation take as few passes over memory as their arithmetic needs, forward and backward. Where states are in
bfloat16, sums over the width are in float32, as in the modules of transformers.

Shapes: R rows, S tokens per row, N predicting tokens per row (padded), H heads, E width of a head, D width, T tokens.
"""

import logging
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pairsight.training.families import base_model, deepstack_depth, language_model
from pairsight.training.kernels.attention import RowLayout, TreeSpans, attend
from pairsight.training.precision import product_dtype, stored_weight

_LOG = logging.getLogger("pairsight.training")


@dataclass(frozen=True, slots=True)
class Structure:
    """A decoder layer: x + after(attention(before(x))), then the same with the MLP; rotary positions in halves.

    Args:
        around_attention, around_mlp: names of the norms before and after; "" after: none.
        norms_heads: queries and keys are normed by head before they are rotated.
        one_plus: norms multiply by 1 + weight, in float32.
    """

    around_attention: tuple[str, str] = ("input_layernorm", "")
    around_mlp: tuple[str, str] = ("post_attention_layernorm", "")
    norms_heads: bool = False
    one_plus: bool = False

    def misfit(self, layer: Any) -> str:
        """What of a layer's weights is not as described; "" for nothing."""
        norms = {name for name in (*self.around_attention, *self.around_mlp) if name}
        attention = {"q_proj", "k_proj", "v_proj", "o_proj", *(("q_norm", "k_norm") if self.norms_heads else ())}
        expected = ((layer, {"self_attn", "mlp", *norms}), (layer.self_attn, attention))
        return ", ".join(sorted(name for module, names in expected for name in names ^ _holders(module)))

    def norm(self, module: Any, name: str, hidden: Tensor) -> Tensor:
        """States after a norm of a module; without a name as they are."""
        return rms_norm(getattr(module, name), hidden, one_plus=self.one_plus) if name else hidden


_PLAIN, _HEADS_NORMED = Structure(), Structure(norms_heads=True)
_STRUCTURES = {
    "LlamaDecoderLayer": _PLAIN,
    "MistralDecoderLayer": _PLAIN,
    "Qwen2DecoderLayer": _PLAIN,
    "Qwen2VLDecoderLayer": _PLAIN,
    "Qwen2_5_VLDecoderLayer": _PLAIN,
    "Qwen3DecoderLayer": _HEADS_NORMED,
    "Qwen3VLTextDecoderLayer": _HEADS_NORMED,
    "GemmaDecoderLayer": Structure(one_plus=True),
    "Gemma3DecoderLayer": Structure(
        around_attention=("input_layernorm", "post_attention_layernorm"),
        around_mlp=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        norms_heads=True,
        one_plus=True,
    ),
}
"""Layers by class. Their rotary tables arrive ready, with both halves equal, also where positions have several axes."""


def _holders(module: Any) -> set[str]:
    """Names of what holds numbers inside a module: its children, and its own weights and buffers."""
    return {name.partition(".")[0] for name in (*dict(module.named_parameters()), *dict(module.named_buffers()))}


def use_plain_layers(model: Any) -> bool:
    """Replace the forward of a model's layers by a faster one; the last computes the predicting tokens only.

    Returns:
        Whether it did. Layers of another structure are kept, which the log says; and the last layer computes all
        tokens where image features are added after it.
    """
    layers = getattr(language_model(model), "layers", None)
    if layers is None:
        _LOG.info("the language model lists no layers: they run as transformers has them")
        return False
    name = type(layers[-1]).__name__
    structure = _STRUCTURES.get(name)
    if structure is None:
        known = ", ".join(sorted(_STRUCTURES))
        _LOG.info("%s runs as transformers has it, the last layer on all tokens: fast are %s", name, known)
        return False
    if misfits := {misfit for layer in layers if (misfit := structure.misfit(layer))}:
        _LOG.warning("%s has or lacks %s and so runs as transformers has it", name, sorted(misfits)[0])
        return False
    last = len(layers) - 1 if deepstack_depth(model) < len(layers) else len(layers)
    for number, layer in enumerate(layers):
        layer.forward = _Forward(layer, structure, shortened=number == last)
    if last == len(layers):
        _LOG.info("image features are added after the last layer, which so computes all tokens")
    return True


def shortens_last_layer(model: Any) -> bool:
    """Whether the last layer of this model computes only the predicting tokens of packed rows."""
    layers = getattr(language_model(model), "layers", None)
    forward = None if layers is None else layers[-1].forward
    return isinstance(forward, _Forward) and forward.shortened


@dataclass(frozen=True, slots=True)
class _Forward:
    """The forward of a layer: ours for packed rows, else its own."""

    layer: Any
    structure: Structure
    shortened: bool

    def __call__(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        layer = self.layer
        layout: RowLayout | None = options.get("row_layout")
        if layout is None:
            return type(layer).forward(layer, hidden_states, attention_mask=attention_mask, **options)  # type: ignore[no-any-return]
        compute = _predicting_tokens if self.shortened and layout.needed_RN is not None else _all_tokens
        rotary = options["position_embeddings"]
        given = partial(compute, layer, self.structure, mask=attention_mask, layout=layout, rotary=rotary)
        if layer.gradient_checkpointing and layer.training:  # transformers does it in the replaced forward
            return layer._gradient_checkpointing_func(given, hidden_states)  # type: ignore[no-any-return]
        return given(hidden_states)


def _all_tokens(  # noqa: PLR0917
    layer: Any,
    structure: Structure,
    hidden_RSD: Tensor,
    mask: Tensor | None,
    layout: RowLayout,
    rotary: tuple[Tensor, Tensor],
) -> Tensor:
    before, after = structure.around_attention
    attention = layer.self_attn
    normed_RSD = structure.norm(layer, before, hidden_RSD)
    query = rotate(_heads(attention.q_proj(normed_RSD), attention, structure, "q_norm"), *rotary)
    seen = _attention(attention, structure, normed_RSD, query, rotary, mask, layout.spans_for(attention))
    return _mlp(layer, structure, hidden_RSD + structure.norm(layer, after, attention.o_proj(seen)))


def _predicting_tokens(  # noqa: PLR0917
    layer: Any,
    structure: Structure,
    hidden_RSD: Tensor,
    mask: Tensor | None,
    layout: RowLayout,
    rotary: tuple[Tensor, Tensor],
) -> Tensor:
    needed_RN = layout.needed_RN
    assert needed_RN is not None
    num_rows = len(needed_RN)
    rows_R1 = torch.arange(num_rows, device=needed_RN.device)[:, None]
    cos_RSE, sin_RSE = (t.expand(num_rows, -1, -1) for t in rotary)
    before, after = structure.around_attention
    attention = layer.self_attn
    normed_RSD = structure.norm(layer, before, hidden_RSD)
    query = _heads(attention.q_proj(normed_RSD[rows_R1, needed_RN]), attention, structure, "q_norm")
    query = rotate(query, cos_RSE[rows_R1, needed_RN], sin_RSE[rows_R1, needed_RN])
    if layout.needed_spans is None and mask is not None:
        mask = mask[rows_R1, 0, needed_RN][:, None]
    seen = _attention(attention, structure, normed_RSD, query, (cos_RSE, sin_RSE), mask, layout.needed_spans)
    changed = structure.norm(layer, after, attention.o_proj(seen))
    return _mlp(layer, structure, hidden_RSD[rows_R1, needed_RN] + changed)


def _attention(  # noqa: PLR0917
    attention: Any,
    structure: Structure,
    normed_RSD: Tensor,
    query_RNHE: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor | None,
    tree: TreeSpans | None,
) -> Tensor:
    """Attention of each query over the keys and values of its row, [R, N, H · E]."""
    query = query_RNHE.transpose(1, 2)
    key = rotate(_heads(attention.k_proj(normed_RSD), attention, structure, "k_norm"), *rotary).transpose(1, 2)
    value = _by_head(attention.v_proj(normed_RSD), attention).transpose(1, 2)
    dropout = attention.attention_dropout if attention.training else 0.0
    if tree is not None:
        return attend(query, key, value, tree, attention.scaling, dropout).flatten(2)
    assert mask is not None
    grouped = attention.num_key_value_groups > 1
    seen = scaled_dot_product_attention(query, key, value, mask, dropout, scale=attention.scaling, enable_gqa=grouped)
    return seen.transpose(1, 2).flatten(2)


def _mlp(layer: Any, structure: Structure, hidden: Tensor) -> Tensor:
    before, after = structure.around_mlp
    return hidden + structure.norm(layer, after, layer.mlp(structure.norm(layer, before, hidden)))


def _by_head(states_RSX: Tensor, attention: Any) -> Tensor:
    return states_RSX.view(*states_RSX.shape[:-1], -1, attention.head_dim)


def _heads(states_RSX: Tensor, attention: Any, structure: Structure, norm: str) -> Tensor:
    """States by head, [R, S, H, E], normed if the structure says so."""
    return structure.norm(attention, norm if structure.norms_heads else "", _by_head(states_RSX, attention))


def rms_norm(norm: Any, hidden: Tensor, *, one_plus: bool = False) -> Tensor:
    """The output of a module like `LlamaRMSNorm`: x · w / √(mean(x²) + ε).

    Args:
        norm: has `weight` and `variance_epsilon`; it is called itself if it is trained or has another type.
        hidden: [..., D].
        one_plus: like `Gemma3RMSNorm`, with 1 + w for w, multiplied before the states are rounded, and `eps`.
    """
    if norm.weight.requires_grad or hidden.dtype != norm.weight.dtype:
        return norm(hidden)  # type: ignore[no-any-return]
    if one_plus:
        return _OnePlusNorm.apply(hidden, norm.weight, norm.eps)  # type: ignore[no-any-return,no-untyped-call]
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
        inverse_T1 = _inverse_length(x_TD, epsilon)
        normed_TD = (x_TD * inverse_T1).to(hidden.dtype)
        ctx.save_for_backward(normed_TD, inverse_T1, weight_D)
        scaled: Tensor = normed_TD * weight_D
        return scaled.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        normed_TD, inverse_T1, weight_D = ctx.saved_tensors
        gradient, x_TD = upstream[0], normed_TD.float()
        back_TD = gradient.reshape(x_TD.shape).float() * weight_D
        return _norm_back(back_TD, x_TD, inverse_T1).to(gradient.dtype).view(gradient.shape), None, None


class _OnePlusNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        x_TD = hidden.reshape(-1, hidden.shape[-1])
        inverse_T1 = _inverse_length(x_TD.float(), epsilon)
        ctx.save_for_backward(x_TD, inverse_T1, weight_D)
        scaled_TD = (x_TD * inverse_T1).mul_(1 + weight_D.float())
        return scaled_TD.to(hidden.dtype).view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        x_TD, inverse_T1, weight_D = ctx.saved_tensors
        gradient = upstream[0]
        back_TD = gradient.reshape(x_TD.shape).float() * (1 + weight_D.float())
        back_TD = _norm_back(back_TD, x_TD * inverse_T1, inverse_T1)
        return back_TD.to(gradient.dtype).view(gradient.shape), None, None


def _inverse_length(x_TD: Tensor, epsilon: float) -> Tensor:
    length_T1: Tensor = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
    return length_T1.square_().mul_(1 / x_TD.shape[-1]).add_(epsilon).rsqrt_()


def _norm_back(back_TD: Tensor, normed_TD: Tensor, inverse_T1: Tensor) -> Tensor:
    """The gradient by the states, in `back_TD`, from that by the normed states."""
    along_T1 = torch.linalg.vecdot(back_TD, normed_TD)[:, None].mul_(-1 / normed_TD.shape[-1])
    return back_TD.addcmul_(normed_TD, along_T1).mul_(inverse_T1)


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

    plain = {Linear: nn.Linear}
    if getattr(base_model(policy), "is_loaded_in_4bit", False):
        from bitsandbytes.nn import Linear4bit
        from peft.tuners.lora import bnb

        plain[bnb.Linear4bit] = Linear4bit
    count = 0
    for module in policy.modules():
        if type(module) in plain and type(module.get_base_layer()) is plain[type(module)]:
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
    out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]).to(dtype),
        base.weight,
        getattr(base.weight, "quant_state", None),
        None if base.bias is None else base.bias.to(dtype),
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
        stored: Tensor,
        state: Any,
        bias_O: Tensor | None,
        a_rI: Tensor,
        b_Or: Tensor,
        scaling: float,
        dropped: float,
    ) -> Tensor:
        out_TO = torch.nn.functional.linear(x_TI, stored_weight(stored, state, x_TI.dtype), bias_O)
        kept_TI = torch.empty_like(x_TI, dtype=torch.bool).bernoulli_(1 - dropped) if dropped else None
        low_Tr = _after_dropout(x_TI, kept_TI) @ a_rI.to(x_TI.dtype).T
        ctx.state, ctx.scaling = state, scaling / (1 - dropped)  # the scale of dropout, applied where it costs nothing
        out_TO.addmm_(low_Tr, b_Or.to(x_TI.dtype).T, alpha=ctx.scaling)
        ctx.save_for_backward(x_TI, kept_TI, stored, a_rI, b_Or, low_Tr)
        return out_TO

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, None, Tensor, Tensor, None, None]:
        x_TI, kept_TI, stored, a_rI, b_Or, low_Tr = ctx.saved_tensors
        gradient_TO, dtype = upstream[0], x_TI.dtype
        back_Tr = (gradient_TO @ b_Or.to(dtype)).mul_(ctx.scaling)
        gradient_a = (back_Tr.T @ _after_dropout(x_TI, kept_TI)).to(a_rI.dtype)
        gradient_b = (gradient_TO.T @ low_Tr).to(b_Or.dtype).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            weight_OI = stored_weight(stored, ctx.state, dtype)
            if kept_TI is None:
                gradient_x = (gradient_TO @ weight_OI).addmm_(back_Tr, a_rI.to(dtype))
            else:
                gradient_x = (back_Tr @ a_rI.to(dtype)).mul_(kept_TI).addmm_(gradient_TO, weight_OI)
        return gradient_x, None, None, None, gradient_a, gradient_b, None, None


def _after_dropout(x_TI: Tensor, kept_TI: Tensor | None) -> Tensor:
    return x_TI if kept_TI is None else x_TI * kept_TI
