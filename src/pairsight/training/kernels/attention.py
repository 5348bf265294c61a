"""Attention over one packed row, span by span: no score is computed between siblings, nor above the diagonal.

The spans travel with the dense mask as its attribute `tree`; without it this is transformers' own SDPA.

Shapes: R rows (1 where there are spans), H heads, S tokens of the row, N queries, E width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pairsight.training.batch import PackedBatch
from pairsight.training.families import Family, language_model
from pairsight.training.kernels.blocked_attention import blocked_attention, is_worthwhile
from pairsight.training.precision import product_dtype
from pairsight.training.tokens import Span, spans_of

NAME = "pairsight_tree"


class TreeSpans:
    """The spans of a row and, where dense attention needs them, their masks.

    Args:
        spans: in the order of the queries, which they cover.
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

    Under autocast all three are brought to its type, as SDPA's own are.

    Source: ours.
    """
    dtype = product_dtype(query)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if not dropout and is_worthwhile(query, tree.spans):
        return blocked_attention(query, key, value, tree.spans, scaling or query.shape[-1] ** -0.5)
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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; `query`, `key`, `value` are [1, H, S, E] for a packed row."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    tree: TreeSpans | None = getattr(attention_mask, "tree", None)
    if tree is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = getattr(module, "num_key_value_groups", 1)
    return attend(query, repeat_kv(key, groups), repeat_kv(value, groups), tree, scaling, dropout), None


def use_tree_attention(model: Any) -> None:
    """Let the language model attend by spans; only where it uses SDPA, whose results these are."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    decoder = language_model(model)
    if decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, tree_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        decoder.set_attn_implementation(NAME)


class _Seen(torch.autograd.Function):
    """Keys or values that each span sees. Their gradients add up in float32: in bfloat16 each sum would round."""

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


def tree_mask(end_RS: Tensor, block_RS: Tensor) -> Tensor:
    """Token q sees token k when k <= q < end[k], or when both lie in one block; [R, S, S], boolean."""
    place_S = torch.arange(end_RS.shape[1], device=end_RS.device)
    q, k = place_S[None, :, None], place_S[None, None, :]
    seen = (k <= q) & (q < end_RS[:, None, :])
    if bool((block_RS >= 0).any()):
        seen |= (block_RS[:, :, None] == block_RS[:, None, :]) & (block_RS >= 0)[:, None, :]
    return seen


def attention_masks(batch: PackedBatch, family: Family, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """The mask a model's forward takes: added to the scores, [R, 1, S, S], one per kind of layer where there are two.

    A sliding layer's window counts along the path: it is the same for a token whatever its siblings.
    """
    seen_RSS = tree_mask(batch.end_RS, batch.block_RS)
    masks: dict[str, Tensor] = {}
    for kind in family.layer_kinds:
        slides = family.window is not None and (kind == "sliding_attention" or len(family.layer_kinds) == 1)
        slides = slides and int(batch.depth_RS.max()) >= (family.window or 0)
        masks[kind] = _additive(_within(seen_RSS, batch.depth_RS, family.window or 0) if slides else seen_RSS, dtype)
        if not slides and len(seen_RSS) == 1 and not bool((batch.block_RS >= 0).any()):
            masks[kind].tree = TreeSpans(spans_of(batch.parent_RS[0].cpu().numpy()))  # type: ignore[attr-defined]
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _within(seen_RSS: Tensor, depth_RS: Tensor, window: int) -> Tensor:
    return seen_RSS & (depth_RS[:, :, None] - depth_RS[:, None, :] < window)


def _additive(seen_RSS: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen_RSS.shape, dtype=dtype, device=seen_RSS.device)
    return mask.masked_fill_(~seen_RSS, torch.finfo(dtype).min)[:, None]
