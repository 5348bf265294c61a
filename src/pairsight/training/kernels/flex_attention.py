"""Attention by spans with FlexAttention: for a GPU where no variable-length kernel takes the states.

Which blocks of keys a block of queries sees follows from the spans, on the CPU; what is hidden inside a block, the
kernel computes from a few numbers per token. No mask of tokens by tokens is made, except uncompiled, on a CPU.

Shapes: H heads, G heads of keys and values, N queries, S tokens of the row, E width of a head, A blocks of queries,
K blocks of keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from pairsight.training.batch import to_device
from pairsight.training.kernels.spans import Span, sub_ranges

_BLOCK = 128
"""Queries and keys of a block: what FlexAttention takes by default."""
_NARROWEST = 16
"""The smallest width of a head that its kernel takes."""


@dataclass(frozen=True, slots=True)
class RowTokens:
    """What decides what a token of a row sees; all on the CPU.

    Args:
        end_S, depth_S, block_S: of a `PackedBatch` of one row.
        window: tokens that each sees along its path, itself included; None: all.
        query_N: the tokens that are queries; None: all.
    """

    end_S: Tensor
    depth_S: Tensor
    block_S: Tensor
    window: int | None
    query_N: Tensor | None = None

    def block_mask(self, spans: Sequence[Span], device: torch.device) -> BlockMask:
        """The mask as FlexAttention takes it.

        Args:
            spans: of the queries, in their order.
            device: of the states.
        """
        num_queries = len(self.end_S) if self.query_N is None else len(self.query_N)
        some_AK, all_AK = _visible_blocks(spans, num_queries, len(self.end_S))
        partly, fully = (_ordered(blocks_AK, device) for blocks_AK in (some_AK & ~all_AK, all_AK))
        lengths = (num_queries, len(self.end_S))
        return BlockMask.from_kv_blocks(*partly, *fully, _BLOCK, mask_mod=self._rule(device), seq_lengths=lengths)

    def _rule(self, device: torch.device) -> Callable[..., Tensor]:
        end_S, depth_S, block_S = (to_device(t, device) for t in (self.end_S, self.depth_S, self.block_S))
        query_N = torch.arange(len(end_S), device=device) if self.query_N is None else to_device(self.query_N, device)
        window = len(end_S) if self.window is None else self.window

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own = query_N[query]
            past = (key <= own) & (own < end_S[key])
            same_block = (block_S[own] >= 0) & (block_S[own] == block_S[key])
            return (past | same_block) & (depth_S[own] - depth_S[key] < window)

        return sees


def _visible_blocks(spans: Sequence[Span], num_queries: int, num_tokens: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whether a block of queries sees some of a block of keys, and whether all see all of it, two of [A, K]."""
    shape = (-(-num_queries // _BLOCK), -(-num_tokens // _BLOCK))
    some_AK, all_AK = np.zeros(shape, bool), np.zeros(shape, bool)
    for span in spans:
        for block in range(span.start // _BLOCK, (span.end - 1) // _BLOCK + 1):
            first, last = max(span.start, block * _BLOCK), min(span.end, (block + 1) * _BLOCK)
            first, last = first - span.start, last - span.start
            for a, b in sub_ranges(span.keys, *span.seen(first, last)):
                some_AK[block, a // _BLOCK : (b - 1) // _BLOCK + 1] = True
            if last - first == _BLOCK:
                low, high = span.seen(last - 1, last)[0], span.seen(first, first + 1)[1]
                for a, b in sub_ranges(span.keys, low, high):
                    all_AK[block, -(-a // _BLOCK) : b // _BLOCK] = True
    return some_AK, all_AK


def _ordered(blocks_AK: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and their indices before those of all others."""
    counts = blocks_AK.sum(1).astype(np.int32)
    indices = np.argsort(~blocks_AK, axis=1, kind="stable").astype(np.int32)
    on_device = (to_device(torch.from_numpy(numbers), device)[None, None] for numbers in (counts, indices))
    return next(on_device), next(on_device)


def takes(query: Tensor, dropout: float) -> bool:
    """Whether its kernel takes these states, [1, H, N, E]: on a GPU, without dropout."""
    return query.device.type == "cuda" and not dropout and query.shape[-1] >= _NARROWEST


def flexible_attention(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    """Attention of a row's queries by FlexAttention, compiled on a GPU.

    Args:
        query: [1, H, N, E].
        key, value: [1, G, S, E].
        mask: from `RowTokens.block_mask`.
        scaling: of the scores.

    Returns:
        [1, N, H, E], contiguous.
    """
    compute: Any = _compiled() if query.device.type == "cuda" else flex_attention
    out: Tensor = compute(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return out.transpose(1, 2).contiguous()


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True)
