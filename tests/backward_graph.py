"""What a backward pass would undo: the operations behind a tensor."""

from typing import Any

import torch


def operations_behind(out: torch.Tensor) -> list[Any]:
    """All operations that a tensor was computed by, each once."""
    seen, waiting = set(), [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return list(seen)
