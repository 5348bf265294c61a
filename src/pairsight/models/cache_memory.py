"""How many completions fit into memory at once: the keys and values of every token of every row are kept."""

import os
from typing import Any

_SHARE = 0.5
"""Of the free memory, what keys and values may take (ours: the rest is for activations and for other programs)."""


def rows_that_fit(model: Any, tokens_per_row: int, wanted: int) -> int:
    """At most `wanted` rows, as many as their cache of `tokens_per_row` tokens leaves room for, one at least."""
    needed = cache_bytes(model, tokens_per_row)
    return max(1, min(wanted, int(_SHARE * free_bytes(model.device)) // max(1, needed)))


def cache_bytes(model: Any, num_tokens: int) -> int:
    """Bytes of one row's keys and values: 2 · layers · key-value heads · head width · bytes a number · tokens."""
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kept * width * model.dtype.itemsize * num_tokens)


def free_bytes(device: Any) -> int:
    """Memory that is free on the device now; on a CPU by `/proc/meminfo`, or half of all where there is none.

    On a GPU what PyTorch keeps for its own next tensors counts as free, though the driver takes it for used.
    """
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - a pseudo-file
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
