"""Log-probs from hidden states, without ever holding [tokens x vocabulary].

Shapes: P predicted tokens, D width, V vocabulary, C tokens of a chunk.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pairsight.training.precision import product_dtype

_CHUNK_ELEMENTS = 2**23


def head_logps(head: nn.Module, hidden_PD: Tensor, target_P: Tensor) -> Tensor:
    """Log-prob of each target token under a language-model head, [P], float32.

    A frozen linear head needs two matrix products: the gradient of log p(y) by the hidden state is
    Σ_v (1[v = y] − p_v) W_v, found in the forward pass and kept, [P, D]. The difference is taken in float32: at p(y)
    near 1 bfloat16 would lose it. Any other head runs in chunks that are recomputed in the backward pass.

    Args:
        head: the model's output embeddings.
        hidden_PD: hidden states of the predicting tokens.
        target_P: predicted token ids.

    Source: ours.
    """
    if type(head) is nn.Linear and not head.weight.requires_grad:
        dtype = product_dtype(hidden_PD)
        bias = None if head.bias is None else head.bias.to(dtype)
        return _FrozenHead.apply(hidden_PD.to(dtype), head.weight.to(dtype), bias, target_P)  # type: ignore[no-any-return,no-untyped-call]
    size = _chunk_size(head)
    pieces = [
        checkpoint(_chunk_logps, head, hidden_PD[i : i + size], target_P[i : i + size], use_reentrant=False)
        for i in range(0, len(target_P), size)
    ]
    return torch.cat(pieces)


def _chunk_size(head: nn.Module) -> int:
    vocabulary = getattr(head, "out_features", None) or next(head.parameters()).shape[0]
    return max(16, _CHUNK_ELEMENTS // int(vocabulary))


def _chunk_logps(head: nn.Module, hidden_CD: Tensor, target_C: Tensor) -> Tensor:
    logits_CV: Tensor = head(hidden_CD).float()
    return logits_CV.gather(1, target_C[:, None])[:, 0] - logits_CV.logsumexp(1)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_PD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_P: Tensor) -> Tensor:
        size = max(16, _CHUNK_ELEMENTS // weight_VD.shape[0])
        wants_gradient = hidden_PD.requires_grad
        logps_P = torch.empty(len(target_P), device=hidden_PD.device)
        gradient_PD = torch.empty(hidden_PD.shape, device=hidden_PD.device) if wants_gradient else None
        for start in range(0, len(target_P), size):
            rows = slice(start, start + size)
            target_C1 = target_P[rows, None]
            logits_CV = torch.nn.functional.linear(hidden_PD[rows], weight_VD, bias_V).float()
            wanted_C1, most_C1 = logits_CV.gather(1, target_C1), logits_CV.amax(1, keepdim=True)
            e_CV = logits_CV.sub_(most_C1).exp_()
            sum_C1 = e_CV.sum(1, keepdim=True)
            logps_P[rows] = (wanted_C1 - most_C1 - sum_C1.log())[:, 0]
            if gradient_PD is not None:
                minus_C1 = sum_C1.neg_()
                away_CV = e_CV.scatter_add_(1, target_C1, minus_C1)
                gradient_PD[rows] = (away_CV.to(weight_VD.dtype) @ weight_VD) / minus_C1
        ctx.save_for_backward(gradient_PD if gradient_PD is not None else hidden_PD.new_empty(0))
        ctx.dtype = hidden_PD.dtype
        return logps_P

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_PD,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradient_PD).to(ctx.dtype), None, None, None
