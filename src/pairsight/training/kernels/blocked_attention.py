"""Attention of a packed row on a CPU, block by block of queries, with the probabilities kept for the backward pass.

A CPU's fused attention finds every exponential again on the way back, and multiplies blocks above the diagonal for
what a mask hides. Here each block of queries is multiplied with the keys it sees and no more, and what it found is
kept. It costs memory of the order of tokens², so beyond
a bound it is left to the fused one.

Shapes: H heads, S tokens of the row, N queries, E width of a head, B queries of a block, K keys they see.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pairsight.training.tokens import Span

_BLOCK = 128
_KEPT = 2**24
"""Probabilities kept a layer at most, 64 MiB."""


def is_worthwhile(query: Tensor, spans: Sequence[Span]) -> bool:
    """Whether this is a CPU's full precision, and what would be kept is within bounds."""
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return False
    kept = sum((b - a) * num_keys for span in spans for a, b, num_keys in _blocks(span))
    return query.shape[1] * kept <= _KEPT


def blocked_attention(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
    """Softmax(scaling · q kᵀ) v of what each query sees.

    Args:
        query: [1, H, N, E].
        key, value: [1, H, S, E].
        spans: they cover the N queries, in order.
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
