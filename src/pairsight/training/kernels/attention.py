"""Attention over one packed row, span by span: no score is computed between siblings, nor above the diagonal.

The spans reach the layers in a `RowLayout`, an argument of the model's forward; without it this is transformers' own
SDPA with the dense mask.

Shapes: R rows (1 where there are spans), H heads, S tokens of the row, N queries, E width of a head, B queries of a
block, K keys they see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pairsight.training.batch import PackedBatch
from pairsight.training.families import Family, language_model
from pairsight.training.precision import product_dtype
from pairsight.training.tokens import Span, spans_of, spans_of_some

NAME = "pairsight_tree"
_BLOCK = 128
"""Queries per block, where a CPU attends block by block."""
_KEPT = 2**24
"""The most probabilities kept per layer, 64 MiB."""


class TreeSpans:
    """The spans of a row and, where dense attention needs them, their masks.

    Args:
        spans: of all queries, in their order.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = tuple(spans)
        self._masks: dict[tuple[Span, torch.dtype], Tensor] = {}

    def mask(self, span: Span, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """What is added to a span's scores; None: plain causal."""
        if not span.seen:
            return None
        if (span, dtype) not in self._masks:
            number = span.end - span.start
            later = torch.ones(number, span.seen + number, dtype=torch.bool, device=device).triu(span.seen + 1)
            mask = torch.zeros(later.shape, dtype=dtype, device=device).masked_fill_(later, torch.finfo(dtype).min)
            self._masks[span, dtype] = mask
        return self._masks[span, dtype]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """What a model's layers must know about the packed rows of one forward pass, apart from the dense mask.

    It is given to the model's forward as `row_layout`; transformers passes it on to every layer and to the attention
    function, like any argument that it does not know.

    Args:
        spans: of the tokens, by kind of layer; None for a kind that needs the dense mask.
        needed_RN: indices in their rows of the predicting tokens, if the last layer computes only those; else None.
        needed_spans: the spans of those tokens alone; None where the last layer needs the dense mask.
    """

    spans: Mapping[str, TreeSpans | None]
    needed_RN: Tensor | None = None
    needed_spans: TreeSpans | None = None

    def spans_for(self, attention: Any) -> TreeSpans | None:
        """The spans that an attention module of transformers may use; None: it needs the dense mask."""
        if len(self.spans) == 1:
            return next(iter(self.spans.values()))
        return self.spans.get(getattr(attention, "layer_type", ""))


def attend(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, tree: TreeSpans, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of a row's queries, each to what it sees.

    Args:
        query: [1, H, N, E].
        key, value: [1, H, S, E].
        tree: spans of the N queries.
        scaling: of the scores; None: 1 / √E.
        dropout: of the probabilities.

    Returns:
        [1, N, H, E], contiguous.

    Under autocast all three are cast to its type, as SDPA does.

    Source: ours.
    """
    dtype = product_dtype(query)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if not dropout and _is_worthwhile(query, tree.spans):
        return _by_blocks(query, key, value, tree.spans, scaling or query.shape[-1] ** -0.5)
    seen = tuple(span.keys for span in tree.spans)
    keys, values = _Seen.apply(key, seen), _Seen.apply(value, seen)  # type: ignore[no-untyped-call]
    pieces = []
    for span, keys_of_span, values_of_span in zip(tree.spans, keys, values, strict=True):
        mask = tree.mask(span, query.dtype, query.device)
        pieces.append(
            scaled_dot_product_attention(
                query[:, :, span.start : span.end],
                keys_of_span,
                values_of_span,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous()


def tree_attention(  # noqa: PLR0917 - as transformers calls it
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_layout: RowLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; `query`, `key`, `value` are [1, H, S, E] for a packed row."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    tree = None if row_layout is None else row_layout.spans_for(module)
    if tree is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = getattr(module, "num_key_value_groups", 1)
    return attend(query, repeat_kv(key, groups), repeat_kv(value, groups), tree, scaling, dropout), None


def use_tree_attention(model: Any) -> None:
    """Let the language model attend by spans, with the results of SDPA; only where it uses SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    decoder = language_model(model)
    if decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, tree_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        decoder.set_attn_implementation(NAME)


def _is_worthwhile(query: Tensor, spans: Sequence[Span]) -> bool:
    """Whether this is float32 on a CPU, and the probabilities that would be kept are within bounds."""
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return False
    kept = sum((b - a) * num_keys for span in spans for a, b, num_keys in _blocks(span))
    return query.shape[1] * kept <= _KEPT


def _by_blocks(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
    """Softmax(scaling · q kᵀ) v of what each query sees, block by block of queries.

    A CPU's fused attention computes every exponential again in the backward pass, and multiplies blocks above the
    diagonal for what a mask hides. Here each block of queries is multiplied only with the keys it sees, and the
    probabilities are kept. That takes memory of the order of tokens², so beyond a bound the fused one is used.

    Args:
        query: [1, H, N, E].
        key, value: [1, H, S, E].
        spans: of all N queries, in their order.
        scaling: of the scores.

    Returns:
        [1, N, H, E], contiguous.

    Source: ours.
    """
    out_NHE: Tensor = _Blocked.apply(query[0].contiguous(), key[0].contiguous(), value[0].contiguous(), spans, scaling)  # type: ignore[no-untyped-call]
    return out_NHE[None]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, q_HNE: Tensor, k_HSE: Tensor, v_HSE: Tensor, spans: Sequence[Span], scaling: float
    ) -> Tensor:
        heads, num_queries, width = q_HNE.shape
        out_NHE = q_HNE.new_empty(num_queries, heads, width)
        hidden_BB = torch.full((_BLOCK, _BLOCK), -torch.inf).triu_(1)
        kept = []
        for span in spans:
            keys, values = _pick(k_HSE, span.keys), _pick(v_HSE, span.keys)
            for start, end, num_keys in _blocks(span):
                size = end - start
                p_HBK = q_HNE.new_empty(heads, size, num_keys)
                given = keys[:, :num_keys].transpose(1, 2)
                torch.baddbmm(p_HBK, q_HNE[:, start:end], given, beta=0, alpha=scaling, out=p_HBK)
                p_HBK[:, :, num_keys - size :].add_(hidden_BB[:size, :size])
                torch.softmax(p_HBK, -1, out=p_HBK)
                out_NHE[start:end] = torch.bmm(p_HBK, values[:, :num_keys]).transpose(0, 1)
                kept.append(p_HBK)
        ctx.save_for_backward(q_HNE, k_HSE, v_HSE, out_NHE, *kept)
        ctx.spans, ctx.scaling = spans, scaling
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_HNE, k_HSE, v_HSE, out_NHE, *kept = ctx.saved_tensors
        along_HN1 = torch.linalg.vecdot(upstream[0], out_NHE).T[:, :, None]
        upstream_HNE = upstream[0].transpose(0, 1).contiguous()
        dq_HNE = torch.empty(q_HNE.shape)
        dk_HSE, dv_HSE = torch.zeros(k_HSE.shape), torch.zeros(v_HSE.shape)
        blocks = iter(kept)
        for span in ctx.spans:
            keys, values = _pick(k_HSE, span.keys), _pick(v_HSE, span.keys)
            several = len(span.keys) > 1
            dk, dv = (torch.zeros(keys.shape) if several else _pick(d, span.keys) for d in (dk_HSE, dv_HSE))
            for (start, end, num_keys), p_HBK in zip(_blocks(span), blocks, strict=False):
                above, query = upstream_HNE[:, start:end], q_HNE[:, start:end]
                dv[:, :num_keys] += torch.bmm(p_HBK.transpose(1, 2), above)
                ds_HBK = torch.bmm(above, values[:, :num_keys].transpose(1, 2))
                ds_HBK.sub_(along_HN1[:, start:end]).mul_(p_HBK)
                dq_HNE[:, start:end] = torch.bmm(ds_HBK, keys[:, :num_keys])
                dk[:, :num_keys] += torch.bmm(ds_HBK.transpose(1, 2), query)
            if several:
                _give_back(dk, dk_HSE, span.keys)
                _give_back(dv, dv_HSE, span.keys)
        return dq_HNE.mul_(ctx.scaling), dk_HSE.mul_(ctx.scaling), dv_HSE, None, None


def _blocks(span: Span) -> Iterator[tuple[int, int, int]]:
    """Queries [start, end) of each block, and the number of keys that its last query sees."""
    for start in range(span.start, span.end, _BLOCK):
        end = min(start + _BLOCK, span.end)
        yield start, end, span.seen + end - span.start


def _pick(states_HSE: Tensor, ranges: tuple[tuple[int, int], ...]) -> Tensor:
    pieces = [states_HSE[:, a:b] for a, b in ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _give_back(found: Tensor, total_HSE: Tensor, ranges: tuple[tuple[int, int], ...]) -> None:
    done = 0
    for a, b in ranges:
        total_HSE[:, a:b] += found[:, done : done + b - a]
        done += b - a


class _Seen(torch.autograd.Function):
    """Keys or values that each span sees. Their gradients are summed in float32: in bfloat16 each sum would round."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, seen: tuple[tuple[tuple[int, int], ...], ...]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.seen = states.shape, seen
        pieces = [[states[:, :, a:b] for a, b in ranges] for ranges in seen]
        return tuple(torch.cat(those, dim=2) if len(those) > 1 else those[0] for those in pieces)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        dtype = torch.promote_types(upstream[0].dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=dtype, device=upstream[0].device)
        for gradient, ranges in zip(upstream, ctx.seen, strict=True):
            done = 0
            for a, b in ranges:
                total[:, :, a:b] += gradient[:, :, done : done + b - a]
                done += b - a
        return total.to(upstream[0].dtype), None


def row_layout(batch: PackedBatch, family: Family, device: torch.device, *, cut_last_layer: bool) -> RowLayout:
    """What the layers must know about a batch.

    Args:
        batch: on the CPU.
        family: how the model sees a sequence.
        device: of the model.
        cut_last_layer: whether the last layer computes only the predicting tokens.
    """
    described = len(batch.parent_RS) == 1 and not bool((batch.block_RS >= 0).any())
    tree = TreeSpans(spans_of(batch.parent_RS[0].numpy())) if described else None
    spans = {kind: None if _is_cut(kind, batch, family) else tree for kind in family.layer_kinds}
    if not cut_last_layer:
        return RowLayout(spans)
    own = spans[family.last_kind]
    needed = None if own is None else TreeSpans(spans_of_some(own.spans, batch.needed_RN[0].numpy()))
    return RowLayout(spans, batch.needed_RN.to(device), needed)


def attention_masks(
    batch: PackedBatch, family: Family, dtype: torch.dtype, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """The mask that a model's forward takes, added to the scores: [R, 1, S, S], one per kind of layer if there are two.

    A sliding layer's window counts along the path: it is the same for a token whatever its siblings.

    Args:
        batch: on the CPU.
        family: how the model sees a sequence.
        dtype: of the mask.
        device: of the mask.
    """
    seen_RSS = tree_mask(batch.end_RS.to(device), batch.block_RS.to(device))
    masks: dict[str, Tensor] = {}
    for kind in family.layer_kinds:
        cut = _is_cut(kind, batch, family)
        masks[kind] = _additive(
            _within(seen_RSS, batch.depth_RS.to(device), family.window or 0) if cut else seen_RSS, dtype
        )
    return masks if len(masks) > 1 else next(iter(masks.values()))


def tree_mask(end_RS: Tensor, block_RS: Tensor) -> Tensor:
    """Token q sees token k when k <= q < end[k], or when both lie in one block; [R, S, S], boolean."""
    index_S = torch.arange(end_RS.shape[1], device=end_RS.device)
    q, k = index_S[None, :, None], index_S[None, None, :]
    seen = (k <= q) & (q < end_RS[:, None, :])
    if bool((block_RS >= 0).any()):
        seen |= (block_RS[:, :, None] == block_RS[:, None, :]) & (block_RS >= 0)[:, None, :]
    return seen


def _is_cut(kind: str, batch: PackedBatch, family: Family) -> bool:
    """Whether layers of a kind have a window that is shorter than some path of the batch."""
    if family.window is None or not (kind == "sliding_attention" or len(family.layer_kinds) == 1):
        return False
    return int(batch.depth_RS.max()) >= family.window


def _within(seen_RSS: Tensor, depth_RS: Tensor, window: int) -> Tensor:
    return seen_RSS & (depth_RS[:, :, None] - depth_RS[:, None, :] < window)


def _additive(seen_RSS: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen_RSS.shape, dtype=dtype, device=seen_RSS.device)
    return mask.masked_fill_(~seen_RSS, torch.finfo(dtype).min)[:, None]
