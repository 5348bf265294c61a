"""Attention by spans on a GPU in 16 bits: all spans of a pass in one call of a variable-length kernel, without a mask.

Keys and values that several spans see are gathered for each. There is one call for each window: spans of text are
causal, blocks of an image see all of themselves.

Shapes: H heads, G heads of keys and values, N queries, S tokens of the row, K keys of all spans together, E width of a
head, C + 1 bounds of the C spans of a call.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairsight.training.batch import to_device
from pairsight.training.kernels.spans import Span
from pairsight.training.tokens import Ints


@dataclass(frozen=True, slots=True)
class VarlenCall:
    """One call: consecutive segments of queries and of keys.

    Args:
        window: how many keys a query sees before and after the one aligned with it; -1: all.
        num_queries, num_keys: of all segments together.
        query_bounds_C, key_bounds_C: where each segment begins and the last ends, int32.
        most_queries, most_keys: of one segment.
    """

    window: tuple[int, int]
    num_queries: int
    num_keys: int
    query_bounds_C: Tensor
    key_bounds_C: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, window: tuple[int, int], spans: Sequence[Span], device: torch.device) -> "VarlenCall":
        """The call of spans that have one window."""
        queries, keys = [s.num_queries for s in spans], [s.num_keys for s in spans]
        query_bounds_C, key_bounds_C = (to_device(_bounds(counts), device) for counts in (queries, keys))
        return cls(window, sum(queries), sum(keys), query_bounds_C, key_bounds_C, max(queries), max(keys))


@dataclass(frozen=True, slots=True)
class VarlenPlan:
    """All calls of a layer; made once for all layers of a pass.

    Args:
        calls: one for each window.
        query_N: the queries in the order of the calls; None: as they are.
        back_N: the index of each query's output among those of the calls; None: as they are.
        key_K: the keys of all segments, call after call; None: all keys as they are.
    """

    calls: tuple[VarlenCall, ...]
    query_N: Tensor | None
    back_N: Tensor | None
    key_K: Tensor | None

    @classmethod
    def of(cls, spans: Sequence[Span], num_tokens: int, device: torch.device) -> "VarlenPlan":
        """The calls of some spans, computed on the CPU and copied without waiting.

        Args:
            spans: of all queries, in their order.
            num_tokens: of the row.
            device: of the states.
        """
        groups: dict[tuple[int, int], list[Span]] = {}
        for span in spans:
            window = tuple(-1 if side is None else side for side in (span.left, span.right))
            groups.setdefault((window[0], window[1]), []).append(span)
        calls = []
        for window, members in groups.items():
            calls.append(VarlenCall.of(window, members, device))
        ordered = [span for members in groups.values() for span in members]
        query = _indices([(s.start, s.end) for s in ordered])
        key = _indices([both for s in ordered for both in s.keys])
        back = np.argsort(query)
        return cls(
            tuple(calls), _moved(query, len(query), device), _moved(back, len(query), device),
            _moved(key, num_tokens, device),
        )  # fmt: skip


def _bounds(counts: Sequence[int]) -> Tensor:
    return torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def _indices(ranges: Sequence[tuple[int, int]]) -> Ints:
    return np.concatenate([np.arange(a, b) for a, b in ranges])


def _moved(index: Ints, size: int, device: torch.device) -> Tensor | None:
    """An index on a device; None where it takes all of `size` elements in their order."""
    if len(index) == size and bool((index == np.arange(size)).all()):
        return None
    return to_device(torch.from_numpy(index), device)


@dataclass(frozen=True, slots=True)
class VarlenKernel:
    """A function that attends over segments, of any version of PyTorch or FlashAttention: called by its signature.

    Args:
        function: `varlen_attn` of PyTorch, or `flash_attn_varlen_func` of FlashAttention.
        parameters: names of its parameters.
    """

    function: Callable[..., Any]
    parameters: frozenset[str]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "VarlenKernel":
        """A kernel with the parameters that its signature has."""
        return cls(function, frozenset(inspect.signature(function).parameters))

    def missing(self, spans: Sequence[Span], *, grouped: bool, dropout: float) -> str:
        """What it cannot compute of these spans; empty: nothing.

        Args:
            spans: of a pass.
            grouped: whether several heads of queries share one of keys.
            dropout: of the probabilities.
        """
        if dropout and "dropout_p" not in self.parameters:
            return "dropout"
        if grouped and not self.parameters & {"enable_gqa", "softmax_scale"}:  # FlashAttention takes them as they are
            return "grouped keys"
        if "window_size" not in self.parameters and any(span.left is not None for span in spans):
            return "windows"
        return ""

    def __call__(
        self, query_NHE: Tensor, key_KGE: Tensor, value_KGE: Tensor, call: VarlenCall, *, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of one call's segments, [N, H, E]."""
        bounds = (call.query_bounds_C, call.key_bounds_C, call.most_queries, call.most_keys)
        if "window_size" in self.parameters:
            compute = partial(self.function, window_size=call.window)
        else:
            compute = partial(self.function, is_causal=call.window[1] == 0)
        if name := next(iter(self.parameters & {"scale", "softmax_scale"}), None):
            compute = partial(compute, **{name: scaling})
        else:
            query_NHE = query_NHE * (scaling * query_NHE.shape[-1] ** 0.5)
        if "enable_gqa" in self.parameters:
            compute = partial(compute, enable_gqa=query_NHE.shape[1] != key_KGE.shape[1])
        if dropout:
            compute = partial(compute, dropout_p=dropout)
        out: Tensor = compute(query_NHE, key_KGE, value_KGE, *bounds)
        return out


@cache
def installed_kernels() -> tuple[VarlenKernel, ...]:
    """The variable-length kernels that are installed: PyTorch's, then FlashAttention's."""
    found = []
    if find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        found.append(VarlenKernel.of(varlen_attn))
    if find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        found.append(VarlenKernel.of(flash_attn_varlen_func))
    return tuple(found)


def usable_kernel(query: Tensor, key: Tensor, spans: Sequence[Span], dropout: float) -> VarlenKernel | None:
    """A kernel for these states; None: there is none on this device for their type, width or windows.

    Args:
        query: [1, H, N, E].
        key: [1, G, S, E].
        spans: of all N queries.
        dropout: of the probabilities.

    Source: the constraints of FlashAttention 2.
    """
    width = query.shape[-1]
    if query.device.type != "cuda" or query.dtype not in {torch.bfloat16, torch.float16} or width % 8 or width > 256:
        return None
    if torch.cuda.is_available():  # not where a pass is only traced
        capability = torch.cuda.get_device_capability(query.device)
        if capability < (8, 0) or (width > 192 and capability not in {(8, 0), (9, 0), (10, 0)}):
            return None
    grouped = query.shape[1] != key.shape[1]
    fitting = (k for k in installed_kernels() if not k.missing(spans, grouped=grouped, dropout=dropout))
    return next(fitting, None)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: VarlenPlan, scaling: float, *, kernel: VarlenKernel, dropout: float
) -> Tensor:
    """Attention of a row's queries by a variable-length kernel.

    Args:
        query: [1, H, N, E].
        key, value: [1, G, S, E].
        plan: of the N queries.
        scaling: of the scores.
        kernel: computes each call.
        dropout: of the probabilities.

    Returns:
        [1, N, H, E], contiguous.

    Source: ours.
    """
    query_NHE, key_KGE, value_KGE = (states[0].transpose(0, 1) for states in (query, key, value))
    if plan.query_N is not None:
        query_NHE = query_NHE.index_select(0, plan.query_N)
    if plan.key_K is not None:
        key_KGE, value_KGE = (_Gathered.apply(states, plan.key_K) for states in (key_KGE, value_KGE))  # type: ignore[no-untyped-call]
    num_queries, num_keys = [call.num_queries for call in plan.calls], [call.num_keys for call in plan.calls]
    queries, keys = torch.split(query_NHE, num_queries), torch.split(key_KGE, num_keys)
    given = zip(queries, keys, torch.split(value_KGE, num_keys), plan.calls, strict=True)
    pieces = [kernel(q, k, v, call, scaling=scaling, dropout=dropout) for q, k, v, call in given]
    out_NHE = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return (out_NHE if plan.back_N is None else out_NHE.index_select(0, plan.back_N))[None].contiguous()


class _Gathered(torch.autograd.Function):
    """Keys or values of all spans. Their gradients are summed in float32: in bfloat16 each sum would round."""

    @staticmethod
    def forward(ctx: Any, states_SGE: Tensor, index_K: Tensor) -> Tensor:
        ctx.save_for_backward(index_K)
        ctx.shape = states_SGE.shape
        return states_SGE.index_select(0, index_K)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (index_K,) = ctx.saved_tensors
        total_SGE = torch.zeros(ctx.shape, dtype=torch.float32, device=index_K.device)
        return total_SGE.index_add_(0, index_K, upstream[0].float()).to(upstream[0].dtype), None
