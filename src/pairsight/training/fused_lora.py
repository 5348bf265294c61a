"""Low-rank adapters without passes over memory that arithmetic does not need.

`peft` computes x Wᵀ, then (x Aᵀ) Bᵀ, scales it, adds it, and undoes each step on the way back: six passes over the
layer's output. Here the products add into one buffer in both directions. Same values up to rounding. A and B may be
held in float32 above weights and inputs in bfloat16: the products are in the inputs' type, the gradients in theirs.

Shapes: T tokens, I inputs, O outputs, r rank.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from pairsight.training.precision import product_dtype


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
    if not plain or names[0] in self.lora_variant or base.weight.requires_grad or self.lora_bias[names[0]]:
        return type(self).forward(self, x, *arguments, **options)  # type: ignore[no-any-return]
    dtype = product_dtype(x)
    bias = None if base.bias is None else base.bias.to(dtype)
    out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]).to(dtype),
        base.weight.to(dtype),
        bias,
        self.lora_A[names[0]].weight,
        self.lora_B[names[0]].weight,
        self.scaling[names[0]],
        _dropped_share(self.lora_dropout[names[0]]),
    )
    return out.view(*x.shape[:-1], -1)


def _dropped_share(dropout: nn.Module) -> float:
    return float(dropout.p) if isinstance(dropout, nn.Dropout) and dropout.training else 0.0


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_rI: Tensor,
        b_Or: Tensor,
        scaling: float,
        dropped: float,
    ) -> Tensor:
        out_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        kept_TI = torch.empty_like(x_TI, dtype=torch.bool).bernoulli_(1 - dropped) if dropped else None
        low_Tr = _those(x_TI, kept_TI) @ a_rI.to(x_TI.dtype).T
        ctx.scaling = scaling / (1 - dropped)  # what dropout keeps is scaled up; on the low rank that is free
        out_TO.addmm_(low_Tr, b_Or.to(x_TI.dtype).T, alpha=ctx.scaling)
        ctx.save_for_backward(x_TI, kept_TI, weight_OI, a_rI, b_Or, low_Tr)
        return out_TO

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        x_TI, kept_TI, weight_OI, a_rI, b_Or, low_Tr = ctx.saved_tensors
        gradient_TO, dtype = upstream[0], x_TI.dtype
        back_Tr = (gradient_TO @ b_Or.to(dtype)).mul_(ctx.scaling)
        gradient_a = (back_Tr.T @ _those(x_TI, kept_TI)).to(a_rI.dtype)
        gradient_b = (gradient_TO.T @ low_Tr).to(b_Or.dtype).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0] and kept_TI is None:
            gradient_x = (gradient_TO @ weight_OI).addmm_(back_Tr, a_rI.to(dtype))
        elif ctx.needs_input_grad[0]:
            gradient_x = (back_Tr @ a_rI.to(dtype)).mul_(kept_TI).addmm_(gradient_TO, weight_OI)
        return gradient_x, None, None, gradient_a, gradient_b, None, None


def _those(x_TI: Tensor, kept_TI: Tensor | None) -> Tensor:
    return x_TI if kept_TI is None else x_TI * kept_TI
