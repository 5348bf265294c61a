"""Norm and rotation of a decoder layer in as few passes over memory as their arithmetic needs, forward and backward.

Where states are in bfloat16, sums over the width are in float32, as in transformers' own modules.

Shapes: T tokens, D width, R rows, S tokens a row, H heads, E width of a head.
"""

from typing import Any

import torch
from torch import Tensor


def rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """What a module of the shape of `LlamaRMSNorm` gives: x · w / √(mean(x²) + ε).

    Args:
        norm: has `weight` and `variance_epsilon`; called itself where it is trained, or held in another type.
        hidden: [..., D].
    """
    if norm.weight.requires_grad or hidden.dtype != norm.weight.dtype:
        return norm(hidden)  # type: ignore[no-any-return]
    return _Norm.apply(hidden, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def rotate(states_RSHE: Tensor, cos_RSE: Tensor, sin_RSE: Tensor) -> Tensor:
    """Rotary positions: the halves (a, b) of each head become (a cos − b sin, b cos + a sin).

    Args:
        states_RSHE: queries or keys.
        cos_RSE, sin_RSE: both halves alike; a wider type than the states' is computed in.

    Returns:
        [R, S, H, E] in the states' type.
    """
    return _Rotation.apply(states_RSHE, cos_RSE[:, :, None], sin_RSE[:, :, None])  # type: ignore[no-any-return,no-untyped-call]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        x_TD = hidden.reshape(-1, hidden.shape[-1]).float()
        length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        inverse_T1 = length_T1.square_().mul_(1 / x_TD.shape[-1]).add_(epsilon).rsqrt_()
        normed_TD = (x_TD * inverse_T1).to(hidden.dtype)
        ctx.save_for_backward(normed_TD, inverse_T1, weight_D)
        scaled: Tensor = normed_TD * weight_D
        return scaled.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        normed_TD, inverse_T1, weight_D = ctx.saved_tensors
        gradient, x_TD = upstream[0], normed_TD.float()
        back_TD = gradient.reshape(x_TD.shape).float() * weight_D
        along_T1 = torch.linalg.vecdot(back_TD, x_TD)[:, None].mul_(-1 / x_TD.shape[-1])
        back_TD.addcmul_(x_TD, along_T1).mul_(inverse_T1)
        return back_TD.to(gradient.dtype).view(gradient.shape), None, None


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
