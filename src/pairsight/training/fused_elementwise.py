"""Norm and rotation of a decoder layer in as few passes over memory as their arithmetic needs, forward and backward.

Shapes: T tokens, D width, R rows, S tokens a row, H heads, E width of a head.
"""

from typing import Any

import torch
from torch import Tensor


def rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """What a module of the shape of `LlamaRMSNorm` gives: x · w / √(mean(x²) + ε).

    Args:
        norm: has `weight` and `variance_epsilon`; called itself where it is trained or precision is not full.
        hidden: [..., D].
    """
    if norm.weight.requires_grad or not hidden.dtype == norm.weight.dtype == torch.float32:
        return norm(hidden)  # type: ignore[no-any-return]
    return _Norm.apply(hidden, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def rotate(states_RSHE: Tensor, cos_RSE: Tensor, sin_RSE: Tensor) -> Tensor:
    """Rotary positions: the halves (a, b) of each head become (a cos − b sin, b cos + a sin).

    Args:
        states_RSHE: queries or keys.
        cos_RSE, sin_RSE: both halves alike.
    """
    return _Rotation.apply(states_RSHE, cos_RSE[:, :, None], sin_RSE[:, :, None])  # type: ignore[no-any-return,no-untyped-call]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        x_TD = hidden.reshape(-1, hidden.shape[-1])
        length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        inverse_T1 = length_T1.square_().mul_(1 / x_TD.shape[-1]).add_(epsilon).rsqrt_()
        normed_TD = x_TD * inverse_T1
        ctx.save_for_backward(normed_TD, inverse_T1, weight_D)
        scaled: Tensor = normed_TD * weight_D
        return scaled.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        normed_TD, inverse_T1, weight_D = ctx.saved_tensors
        back_TD = upstream[0].reshape(normed_TD.shape) * weight_D
        along_T1 = torch.linalg.vecdot(back_TD, normed_TD)[:, None].mul_(-1 / normed_TD.shape[-1])
        return back_TD.addcmul_(normed_TD, along_T1).mul_(inverse_T1).view(upstream[0].shape), None, None


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
    turned = states_RSHE * cos_RS1E
    turned[..., :half].addcmul_(states_RSHE[..., half:], sin_RS1E[..., :half], value=-direction)
    turned[..., half:].addcmul_(states_RSHE[..., :half], sin_RS1E[..., half:], value=direction)
    return turned
