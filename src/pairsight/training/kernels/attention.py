"""Attention over packed rows by spans: which way computes it, and what the layers must know about the rows.

No score is computed between siblings, nor above the diagonal, and no mask of tokens by tokens is made. The spans reach
the layers in a `RowLayout`, an argument of the model's forward; without it, or where several padded rows share a pass,
this is transformers' own SDPA with a dense mask.

Shapes: R rows (1 where there are spans), H heads, G heads of keys and values, S tokens of the row, N queries, E width
of a head, B queries of a span, K keys they see.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pairsight.errors import TrainingError
from pairsight.training.batch import PackedBatch, to_device
from pairsight.training.families import Family, language_model
from pairsight.training.kernels.blocked_attention import blocked_attention, is_worthwhile
from pairsight.training.kernels.flex_attention import RowTokens, flexible_attention, takes
from pairsight.training.kernels.spans import Ranges, Span, spans_of, spans_of_some
from pairsight.training.kernels.varlen_attention import VarlenKernel, VarlenPlan, usable_kernel, varlen_attention
from pairsight.training.precision import product_dtype

_LOG = logging.getLogger("pairsight.training")
NAME = "pairsight_tree"
_MASKED = 2**22
"""The most elements of a span's mask; a longer span is computed in pieces."""
_SHORTEST = 256
"""Queries of a piece where a window cuts, if the window is not longer."""


class TreeSpans:
    """The spans of a row, and what the ways to compute attention make of them once for all layers.

    Args:
        spans: of all queries, in their order.
        tokens: what decides what a token sees, by token; without it FlexAttention is not used.
    """

    def __init__(self, spans: Sequence[Span], tokens: RowTokens | None = None) -> None:
        self.spans = tuple(spans)
        self.tokens = tokens
        self._pieces: tuple[Span, ...] | None = None
        self._masks: dict[tuple[Span, torch.dtype], Tensor] = {}
        self._varlen_plan: VarlenPlan | None = None
        self._block_mask: Any = None

    @property
    def pieces(self) -> tuple[Span, ...]:
        """The spans, those that need too large a mask in pieces."""
        if self._pieces is None:
            self._pieces = tuple(piece for span in self.spans for piece in _pieces(span))
        return self._pieces

    def mask(self, span: Span, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """What is added to a span's scores, [B, K]; None: plain causal, or nothing is hidden."""
        if not _is_masked(span):
            return None
        if (span, dtype) not in self._masks:
            key_K = torch.arange(span.num_keys, device=device)
            own_B1 = key_K[span.num_keys - span.num_queries :, None]
            hidden_BK = torch.zeros(span.num_queries, span.num_keys, dtype=torch.bool, device=device)
            if span.right is not None:
                hidden_BK |= key_K > own_B1 + span.right
            if span.left is not None:
                hidden_BK |= key_K < own_B1 - span.left
            mask_BK = torch.zeros(hidden_BK.shape, dtype=dtype, device=device)
            self._masks[span, dtype] = mask_BK.masked_fill_(hidden_BK, torch.finfo(dtype).min)
        return self._masks[span, dtype]

    def varlen_plan(self, num_tokens: int, device: torch.device) -> VarlenPlan:
        """The calls of a variable-length kernel, for a row of `num_tokens`."""
        if self._varlen_plan is None:
            self._varlen_plan = VarlenPlan.of(self.spans, num_tokens, device)
        return self._varlen_plan

    def block_mask(self, device: torch.device) -> Any:
        """The mask of FlexAttention."""
        if self._block_mask is None:
            assert self.tokens is not None
            self._block_mask = self.tokens.block_mask(self.spans, device)
        return self._block_mask


def _is_masked(span: Span) -> bool:
    """Whether SDPA needs a mask for a span: it knows only plain causal attention, and none hidden."""
    return span.is_cut or (span.right is not None and span.num_keys > span.num_queries)


def _pieces(span: Span) -> Iterator[Span]:
    size = count = span.num_queries
    if _is_masked(span):
        size = max(span.left or 0, _SHORTEST) if span.is_cut else max(1, _MASKED // span.num_keys)
    for first in range(0, count, size):
        yield span if size >= count else span.part(first, min(first + size, count), span.start + first)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """What a model's layers must know about the packed rows of one forward pass, apart from a dense mask.

    It is given to the model's forward as `row_layout`; transformers passes it on to every layer and to the attention
    function, like any argument that it does not know.

    Args:
        spans: of the tokens, by kind of layer; None where layers need a dense mask.
        needed_RN: indices in their rows of the predicting tokens, if the last layer computes only those; else None.
        needed_spans: the last layer's spans of those tokens alone; None where it needs a dense mask.
    """

    spans: Mapping[str, TreeSpans] | None
    needed_RN: Tensor | None = None
    needed_spans: TreeSpans | None = None

    def spans_for(self, attention: Any) -> TreeSpans | None:
        """The spans that an attention module of transformers uses; None: it needs a dense mask."""
        if self.spans is None:
            return None
        if len(self.spans) == 1:
            return next(iter(self.spans.values()))
        return self.spans[attention.config.layer_types[attention.layer_idx]]


def attend(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, tree: TreeSpans, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of a row's queries, each to what it sees.

    Args:
        query: [1, H, N, E].
        key, value: [1, G, S, E]; consecutive heads of queries share one of keys.
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
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    name, compute = _way(query, key, tree, dropout)
    _say(name)
    return compute(query, key, value, tree, scaling)


_Way = Callable[[Tensor, Tensor, Tensor, TreeSpans, float], Tensor]


def _way(query: Tensor, key: Tensor, tree: TreeSpans, dropout: float) -> tuple[str, _Way]:
    """The fastest way that takes these states, and its name."""
    if not dropout and is_worthwhile(query, tree.spans):
        return "block by block of queries", _by_blocks
    if query.device.type == "cuda":
        if kernel := usable_kernel(query, key, tree.spans, dropout):
            name = f"all spans together ({kernel.function.__name__})"
            return name, partial(_together, kernel=kernel, dropout=dropout)
        if tree.tokens is not None and takes(query, dropout):
            return "FlexAttention", _by_block_mask
    return "span by span (SDPA)", partial(_span_by_span, dropout=dropout)


@cache
def _say(name: str) -> None:
    _LOG.info("attention over packed rows: %s", name)


def _by_blocks(query: Tensor, key: Tensor, value: Tensor, tree: TreeSpans, scaling: float) -> Tensor:
    return blocked_attention(query, key, value, tree.spans, scaling)


def _together(
    query: Tensor, key: Tensor, value: Tensor, tree: TreeSpans, scaling: float, *, kernel: VarlenKernel, dropout: float
) -> Tensor:
    plan = tree.varlen_plan(key.shape[2], query.device)
    return varlen_attention(query, key, value, plan, scaling, kernel=kernel, dropout=dropout)


def _by_block_mask(query: Tensor, key: Tensor, value: Tensor, tree: TreeSpans, scaling: float) -> Tensor:
    return flexible_attention(query, key, value, tree.block_mask(query.device), scaling)


def _span_by_span(
    query: Tensor, key: Tensor, value: Tensor, tree: TreeSpans, scaling: float, *, dropout: float
) -> Tensor:
    """Heads that share keys are those of one row of a batch, whose keys are a view without copies.

    SDPA takes grouped keys itself, but adds up their gradients in the states' type on a CPU, and on a GPU takes them
    only without a mask.
    """
    seen = tuple(piece.keys for piece in tree.pieces)
    keys, values = (_Seen.apply(states.transpose(0, 1), seen) for states in (key, value))  # type: ignore[no-untyped-call]
    query_GHNE = query[0].reshape(key.shape[1], -1, *query.shape[2:])
    found = []
    for piece, keys_of_piece, values_of_piece in zip(tree.pieces, keys, values, strict=True):
        mask = tree.mask(piece, query.dtype, query.device)
        found.append(
            scaled_dot_product_attention(
                query_GHNE[:, :, piece.start : piece.end],
                keys_of_piece.expand(-1, query_GHNE.shape[1], -1, -1),
                values_of_piece.expand(-1, query_GHNE.shape[1], -1, -1),
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None and piece.right is not None,
                scale=scaling,
            )
        )
    return torch.cat(found, dim=2).flatten(0, 1).transpose(0, 1)[None].contiguous()


class _Seen(torch.autograd.Function):
    """Keys or values that each span sees. Their gradients are summed in float32: in bfloat16 each sum would round."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, seen: tuple[Ranges, ...]) -> tuple[Tensor, ...]:
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
    """An attention function of transformers; `query` [1, H, S, E], `key` and `value` [1, G, S, E] for a packed row.

    Raises:
        TrainingError: there is no mask, and the model's layers did not pass on what they must know about the rows.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    tree = None if row_layout is None else row_layout.spans_for(module)
    if tree is not None:
        return attend(query, key, value, tree, scaling, dropout), None
    if attention_mask is not None and not attention_mask.numel():
        raise TrainingError(
            f"{type(module).__name__} was not given `row_layout`, an argument that transformers passes on to "
            "attention: packed rows cannot be computed by this model; train with share_prefixes=false"
        )
    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def use_tree_attention(model: Any) -> None:
    """Let the language model attend by spans, with the results of SDPA; only where it uses SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    decoder = language_model(model)
    if decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, tree_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        decoder.set_attn_implementation(NAME)


def attends_by_spans(model: Any) -> bool:
    """Whether `use_tree_attention` changed this model: a pass of one row then needs no mask."""
    return bool(language_model(model).config._attn_implementation == NAME)


def row_layout(
    batch: PackedBatch, family: Family, device: torch.device, *, by_spans: bool, shortened: bool
) -> RowLayout:
    """What the layers must know about a batch.

    Args:
        batch: on the CPU.
        family: how the model sees a sequence.
        device: of the model.
        by_spans: whether the model attends by spans, where the batch is one row.
        shortened: whether the last layer computes only the predicting tokens.
    """
    windows = {kind: family.window if _is_cut(kind, batch, family) else None for kind in family.layer_kinds}
    needed_RN = to_device(batch.needed_RN, device) if shortened else None
    if not by_spans or len(batch.parent_RS) > 1:
        return RowLayout(None, needed_RN)
    trees = {window: _tree(batch, window) for window in windows.values()}
    if not shortened:
        return RowLayout({kind: trees[window] for kind, window in windows.items()})
    needed = _tree_of_some(trees[windows[family.last_kind]], batch.needed_RN[0])
    return RowLayout({kind: trees[window] for kind, window in windows.items()}, needed_RN, needed)


def _tree(batch: PackedBatch, window: int | None) -> TreeSpans:
    spans = spans_of(batch.parent_RS[0].numpy(), batch.block_RS[0].numpy(), window)
    return TreeSpans(spans, RowTokens(batch.end_RS[0], batch.depth_RS[0], batch.block_RS[0], window))


def _tree_of_some(tree: TreeSpans, query_N: Tensor) -> TreeSpans:
    assert tree.tokens is not None
    return TreeSpans(spans_of_some(tree.spans, query_N.numpy()), replace(tree.tokens, query_N=query_N))


def attention_masks(
    batch: PackedBatch, family: Family, layout: RowLayout, dtype: torch.dtype, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """The mask that a model's forward takes, added to the scores: [R, 1, S, S], one per kind of layer if there are two.

    Where all layers attend by spans it is empty, [1, 1, 0, 0]: transformers takes any mask of four axes as it is, and
    without one makes its own. A sliding layer's window counts along the path: it is the same for a token whatever its
    siblings.

    Args:
        batch: on the CPU.
        family: how the model sees a sequence.
        layout: of the batch.
        dtype: of the mask.
        device: of the mask.
    """
    masks: dict[str, Tensor] = {}
    if layout.spans is not None:
        masks = dict.fromkeys(family.layer_kinds, torch.empty(1, 1, 0, 0, dtype=dtype, device=device))
    else:
        has_blocks = bool((batch.block_RS >= 0).any())
        end_RS, depth_RS, block_RS = (to_device(t, device) for t in (batch.end_RS, batch.depth_RS, batch.block_RS))
        seen_RSS = tree_mask(end_RS, block_RS if has_blocks else None)
        for kind in family.layer_kinds:
            cut = _is_cut(kind, batch, family)
            masks[kind] = _additive(_within(seen_RSS, depth_RS, family.window or 0) if cut else seen_RSS, dtype)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def tree_mask(end_RS: Tensor, block_RS: Tensor | None) -> Tensor:
    """Token q sees token k when k <= q < end[k], or when both lie in one block; [R, S, S], boolean."""
    index_S = torch.arange(end_RS.shape[1], device=end_RS.device)
    q, k = index_S[None, :, None], index_S[None, None, :]
    seen = (k <= q) & (q < end_RS[:, None, :])
    if block_RS is not None:
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
