"""Attention by spans on a CPU in float32: block by block of queries, with the probabilities kept for the backward pass.

A CPU's fused attention computes every exponential again in the backward pass, and multiplies blocks above the diagonal
for what a mask hides. Here each block of queries is multiplied only with the keys it sees. That takes memory of the
order of tokens², so beyond a bound it is not used.

Shapes: H heads, G heads of keys and values, N queries, S tokens of the row, E width of a head, B queries of a block,
K keys they see, Q queries of the H / G heads that share keys.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pairsight.training.kernels.spans import Ranges, Span

_BLOCK = 128
"""Queries per block."""
_KEPT = 2**24
"""The most probabilities kept per layer, 64 MiB."""


def is_worthwhile(query: Tensor, spans: Sequence[Span]) -> bool:
    """Whether this is float32 on a CPU, and the probabilities that would be kept are within bounds.

    Args:
        query: [1, H, N, E].
        spans: of all N queries.
    """
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return False
    kept = sum((end - start) * (high - low) for span in spans for start, end, low, high in _blocks(span))
    return query.shape[1] * kept <= _KEPT


def blocked_attention(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
    """Softmax(scaling · q kᵀ) v of what each query sees, block by block of queries.

    Args:
        query: [1, H, N, E].
        key, value: [1, G, S, E]; consecutive heads of queries share one of keys.
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
        ctx: Any, q_HNE: Tensor, k_GSE: Tensor, v_GSE: Tensor, spans: Sequence[Span], scaling: float
    ) -> Tensor:
        heads, num_queries, width = q_HNE.shape
        shared = len(k_GSE)
        out_NHE = q_HNE.new_empty(num_queries, heads, width)
        later_BB, earlier_BB = _hidden()
        kept = []
        for span in spans:
            keys, values = _pick(k_GSE, span.keys), _pick(v_GSE, span.keys)
            for start, end, low, high in _blocks(span):
                size = end - start
                query = _together(q_HNE[:, start:end], shared)
                p_GQK = q_HNE.new_empty(shared, query.shape[1], high - low)
                torch.baddbmm(p_GQK, query, keys[:, low:high].transpose(1, 2), beta=0, alpha=scaling, out=p_GQK)
                p_HBK = p_GQK.view(heads, size, high - low)
                if span.right is not None:
                    p_HBK[:, :, high - low - size :].add_(later_BB[:size, :size])
                if (unseen := size - _all_see(span, start, low)) > 0:
                    p_HBK[:, size - unseen :, :unseen].add_(earlier_BB[:unseen, :unseen])
                torch.softmax(p_GQK, -1, out=p_GQK)
                out_NHE[start:end] = torch.bmm(p_GQK, values[:, low:high]).view(heads, size, width).transpose(0, 1)
                kept.append(p_GQK)
        ctx.save_for_backward(q_HNE, k_GSE, v_GSE, out_NHE, *kept)
        ctx.spans, ctx.scaling = spans, scaling
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_HNE, k_GSE, v_GSE, out_NHE, *kept = ctx.saved_tensors
        shared = len(k_GSE)
        along_HN1 = torch.linalg.vecdot(upstream[0], out_NHE).T[:, :, None]
        upstream_HNE = upstream[0].transpose(0, 1).contiguous()
        dq_HNE = torch.empty(q_HNE.shape)
        dk_GSE, dv_GSE = torch.zeros(k_GSE.shape), torch.zeros(v_GSE.shape)
        blocks = iter(kept)
        for span in ctx.spans:
            keys, values = _pick(k_GSE, span.keys), _pick(v_GSE, span.keys)
            several = len(span.keys) > 1
            dk, dv = (torch.zeros(keys.shape) if several else _pick(d, span.keys) for d in (dk_GSE, dv_GSE))
            for (start, end, low, high), p_GQK in zip(_blocks(span), blocks, strict=False):
                above, query = _together(upstream_HNE[:, start:end], shared), _together(q_HNE[:, start:end], shared)
                dv[:, low:high] += torch.bmm(p_GQK.transpose(1, 2), above)
                ds_GQK = torch.bmm(above, values[:, low:high].transpose(1, 2))
                ds_GQK.sub_(_together(along_HN1[:, start:end], shared)).mul_(p_GQK)
                dq_HNE[:, start:end] = torch.bmm(ds_GQK, keys[:, low:high]).view(-1, end - start, q_HNE.shape[2])
                dk[:, low:high] += torch.bmm(ds_GQK.transpose(1, 2), query)
            if several:
                _give_back(dk, dk_GSE, span.keys)
                _give_back(dv, dv_GSE, span.keys)
        return dq_HNE.mul_(ctx.scaling), dk_GSE.mul_(ctx.scaling), dv_GSE, None, None


def _blocks(span: Span) -> Iterator[tuple[int, int, int, int]]:
    """Queries [start, end) of each block, and the range [low, high) of the span's keys that it sees."""
    for first in range(0, span.num_queries, _BLOCK):
        last = min(first + _BLOCK, span.num_queries)
        yield span.start + first, span.start + last, *span.seen(first, last)


def _hidden() -> tuple[Tensor, Tensor]:
    """What is added to a square of scores to hide all above its diagonal, and its diagonal with all below it."""
    hidden_BB = torch.full((_BLOCK, _BLOCK), -torch.inf)
    return hidden_BB.triu(1), hidden_BB.tril()


def _all_see(span: Span, start: int, low: int) -> int:
    """How many queries of a block see its first key; each after them sees one key less at the front."""
    if span.left is None:
        return _BLOCK
    return low + span.left - (start - span.start + span.num_keys - span.num_queries) + 1


def _together(states_HBX: Tensor, shared: int) -> Tensor:
    """States of all heads that share keys as those of one head, [G, Q, X]."""
    heads, _, width = states_HBX.shape
    return states_HBX if heads == shared else states_HBX.reshape(shared, -1, width)


def _pick(states_GSE: Tensor, ranges: Ranges) -> Tensor:
    pieces = [states_GSE[:, a:b] for a, b in ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _give_back(found: Tensor, total_GSE: Tensor, ranges: Ranges) -> None:
    done = 0
    for a, b in ranges:
        total_GSE[:, a:b] += found[:, done : done + b - a]
        done += b - a
