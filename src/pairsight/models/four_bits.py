"""A part of a model kept in 4-bit numbers, below adapters (QLoRA)."""

import logging
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import MissingExtraError

if TYPE_CHECKING:
    import torch


logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
"""peft imports bitsandbytes where it is installed, which then advises on standard error, asked for or not."""


def decoder(model: Any) -> Any:
    """The decoder stack of a model: what is kept in 4 bits for generation, as below adapters in training."""
    return model.get_decoder()


def nf4_config(
    auto: Any, folder: Path, part: Callable[[Any], Any], dtype: "torch.dtype", *, trust_remote_code: bool
) -> Any:
    """How bitsandbytes keeps a part's linear layers: nf4 numbers, with a scale per block that is quantised once more.

    Args:
        auto: the class of transformers that loads the model.
        folder: the model's.
        part: picks the part; linear layers outside stay as they are.
        dtype: of the products.
        trust_remote_code: as for loading.

    Raises:
        MissingExtraError: bitsandbytes is not installed.

    Source: QLoRA, arXiv:2305.14314, section 3.
    """
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("a model in 4 bits", "quant")
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        skeleton = auto.from_config(config, trust_remote_code=trust_remote_code)
    inside = {id(module) for module in part(skeleton).modules()}
    linear = [(name, module) for name, module in skeleton.named_modules() if isinstance(module, torch.nn.Linear)]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[re.escape(name) for name, module in linear if id(module) not in inside],
    )
