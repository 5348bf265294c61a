"""How weights are kept and products computed in training: the same for step, reference and held-out examples.

| | frozen weights | trained weights | products | log-probs and losses |
|---|---|---|---|---|
| fp32 | float32 | float32 | float32 | float32 |
| bf16, adapters | bfloat16 | float32 | bfloat16 | float32 |
| bf16, full | float32 | float32 | bfloat16 | float32 |

With `load_in_4bit` the frozen weights of the language model's linear layers are 4-bit nf4 numbers instead, which each
product reads as its own type.

What is trained is never kept in bfloat16: with its 8 significant bits, AdamW's steps at the papers' rates round away.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from pairsight.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Precision:
    """The types of weights and of products.

    Args:
        weights: type of the weights as loaded; trained ones are always float32.
        products: type of matrix products, by autocast where weights have another.
        in_4_bits: the frozen weights of the language model's linear layers are nf4.
    """

    weights: torch.dtype = torch.float32
    products: torch.dtype = torch.float32
    in_4_bits: bool = False

    @classmethod
    def choose(cls, config: TrainingConfig, device: torch.device) -> "Precision":
        """What a config asks for; by default bfloat16 on a GPU that computes in it, else float32."""
        can = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        in_bf16 = can if config.bf16 is None else config.bf16
        if not in_bf16:
            return cls(in_4_bits=config.load_in_4bit)
        weights = torch.bfloat16 if config.tuning == "lora" else torch.float32
        return cls(weights, torch.bfloat16, in_4_bits=config.load_in_4bit)

    def compute(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context in which every forward pass of a training runs."""
        if self.products == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.products)

    @property
    def key(self) -> str:
        """What log-probs of a reference depend on besides its weights."""
        names = [str(dtype).removeprefix("torch.") for dtype in (self.weights, self.products)]
        named = names[0] if names[0] == names[1] else "+".join(names)
        return f"nf4+{named}" if self.in_4_bits else named


FLOAT32 = Precision()


def keep_trained_in_float32(model: Any) -> None:
    """Make every trained parameter float32, e.g. where a library keeps a copy in the base's type."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which products of a tensor are computed: autocast's, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def stored_weight(stored: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """A frozen weight in the type of its products.

    Args:
        stored: the weight as it is kept, maybe as 4-bit numbers.
        state: how bitsandbytes reads those; None for a weight that is kept as it is.
        dtype: of the products.
    """
    if state is None:
        return stored.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(stored, state).to(dtype)  # type: ignore[no-any-return]


def read_4_bits(model: Any) -> None:
    """Let linear layers in 4 bits multiply with their weights in the type of products, as adapters above them do.

    The kernels of bitsandbytes round otherwise, by the number of tokens: a policy would differ from its reference
    before the first step.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.forward = MethodType(_linear, module)


def _linear(self: Any, x: Tensor) -> Tensor:
    dtype = product_dtype(x)
    bias = None if self.bias is None else self.bias.to(dtype)
    return _StoredLinear.apply(x.to(dtype), self.weight, self.weight.quant_state, bias)  # type: ignore[no-any-return,no-untyped-call]


class _StoredLinear(torch.autograd.Function):
    """A product with a frozen weight that is read twice, and so not kept, in the type of products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor, state: Any, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(stored)
        ctx.state = state
        return torch.nn.functional.linear(x, stored_weight(stored, state, x.dtype), bias_O)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (stored,) = ctx.saved_tensors
        return upstream[0] @ stored_weight(stored, ctx.state, upstream[0].dtype), None, None, None
