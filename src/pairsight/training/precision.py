"""How weights are kept and products computed in training: the same for step, reference and held-out examples.

| | frozen weights | trained weights | products | log-probs and losses |
|---|---|---|---|---|
| fp32 | float32 | float32 | float32 | float32 |
| bf16, adapters | bfloat16 | float32 | bfloat16 | float32 |
| bf16, full | float32 | float32 | bfloat16 | float32 |

What is trained is never kept in bfloat16: with its 8 significant bits, AdamW's steps at the papers' rates round away.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
    """

    weights: torch.dtype = torch.float32
    products: torch.dtype = torch.float32

    @classmethod
    def choose(cls, config: TrainingConfig, device: torch.device) -> "Precision":
        """What a config asks for; by default bfloat16 on a GPU that computes in it, else float32."""
        can = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        in_bf16 = can if config.bf16 is None else config.bf16
        if not in_bf16:
            return cls()
        return cls(torch.bfloat16 if config.tuning == "lora" else torch.float32, torch.bfloat16)

    def compute(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context in which every forward pass of a training runs."""
        if self.products == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.products)

    @property
    def key(self) -> str:
        """What log-probs of a reference depend on besides its weights."""
        names = [str(dtype).removeprefix("torch.") for dtype in (self.weights, self.products)]
        return names[0] if names[0] == names[1] else "+".join(names)


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
