"""Products with frozen weights, by the faster of the libraries that PyTorch carries.

On a CPU PyTorch multiplies float32 matrices by MKL; oneDNN, which it has aboard too, is faster for the sizes of a
language model (decision 9). Small matrices stay with MKL: there a call costs more than the arithmetic.

Shapes: T tokens, I inputs, O outputs.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
_WORTHWHILE = 2**17
"""Elements of a weight, and of its inputs, from which oneDNN pays."""


def product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, [T, O]; no gradient flows through it where oneDNN is taken.

    Args:
        x_TI: inputs.
        weight_OI: a frozen weight; it may be a transposed view.
        bias_O: added to each row.

    Source: ours.
    """
    large = min(x_TI.numel(), weight_OI.numel()) >= _WORTHWHILE
    full = x_TI.dtype == weight_OI.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if large and full and x_TI.is_cpu and _ONEDNN:
        out_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, "none", [], "")
        return out_TO
    return linear(x_TI, weight_OI, bias_O)


def use_frozen_products(model: nn.Module) -> None:
    """Let every plain linear layer take `product` while no gradients are recorded: reference pass and frozen tower."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(self: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return linear(x, self.weight, self.bias)
    return product(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], self.out_features)
