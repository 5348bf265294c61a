"""Low-rank adapters without passes over memory that arithmetic does not need.

`peft` computes x Wᵀ, then (x Aᵀ) Bᵀ, scales it, adds it, and undoes each step on the way back: six passes over the
layer's output. Here the products add into one buffer in both directions. Same values up to rounding.

Shapes: T tokens, I inputs, O outputs, r rank.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def fuse_lora(policy: Any) -> int:
    """Let every plain adapter of a `peft` model take the short way when nothing speaks against it; returns how many."""
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in policy.modules():
        if type(module) is Linear and type(module.get_base_layer()) is nn.Linear:
            module.forward = MethodType(_forward, module)
            count += 1
    return count


def _forward(self: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    base = self.get_base_layer()
    names = [name for name in self.active_adapters if name in self.lora_A]
    plain = not (arguments or options or self.disable_adapters or self.merged) and len(names) == 1
    if not plain or names[0] in self.lora_variant or not _dropout_is_off(self.lora_dropout[names[0]]):
        return type(self).forward(self, x, *arguments, **options)  # type: ignore[no-any-return]
    a, b = self.lora_A[names[0]], self.lora_B[names[0]]
    if not x.dtype == base.weight.dtype == a.weight.dtype or base.weight.requires_grad or b.bias is not None:
        return type(self).forward(self, x, *arguments, **options)  # type: ignore[no-any-return]
    flat = x.reshape(-1, x.shape[-1])
    out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        flat, base.weight, base.bias, a.weight, b.weight, self.scaling[names[0]]
    )
    return out.view(*x.shape[:-1], -1)


def _dropout_is_off(dropout: nn.Module) -> bool:
    return isinstance(dropout, nn.Identity) or not dropout.training or getattr(dropout, "p", 1.0) == 0.0


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_rI: Tensor, b_Or: Tensor, scaling: float
    ) -> Tensor:
        out_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        low_Tr = x_TI @ a_rI.T
        out_TO.addmm_(low_Tr, b_Or.T, alpha=scaling)
        ctx.save_for_backward(x_TI, weight_OI, a_rI, b_Or, low_Tr)
        ctx.scaling = scaling
        return out_TO

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x_TI, weight_OI, a_rI, b_Or, low_Tr = ctx.saved_tensors
        gradient_TO = upstream[0]
        back_Tr = (gradient_TO @ b_Or).mul_(ctx.scaling)
        gradient_a, gradient_b = back_Tr.T @ x_TI, (gradient_TO.T @ low_Tr).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = (gradient_TO @ weight_OI).addmm_(back_Tr, a_rI)
        return gradient_x, None, None, gradient_a, gradient_b, None
