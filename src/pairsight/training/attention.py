"""Who sees whom in a packed row: dense masks from the prefix trees.

Shapes: R rows, S tokens a row.
"""

import torch
from torch import Tensor

from pairsight.training.batch import PackedBatch
from pairsight.training.families import Family
from pairsight.training.spans import spans_of
from pairsight.training.tree_attention import TreeSpans


def tree_mask(end_RS: Tensor, block_RS: Tensor) -> Tensor:
    """Token q sees token k when k <= q < end[k], or when both lie in one block; [R, S, S], boolean."""
    place_S = torch.arange(end_RS.shape[1], device=end_RS.device)
    q, k = place_S[None, :, None], place_S[None, None, :]
    seen = (k <= q) & (q < end_RS[:, None, :])
    if bool((block_RS >= 0).any()):
        seen |= (block_RS[:, :, None] == block_RS[:, None, :]) & (block_RS >= 0)[:, None, :]
    return seen


def attention_masks(batch: PackedBatch, family: Family, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """The mask a model's forward takes: added to the scores, [R, 1, S, S], one per kind of layer where there are two.

    A sliding layer's window counts along the path: it is the same for a token whatever its siblings.
    """
    seen_RSS = tree_mask(batch.end_RS, batch.block_RS)
    masks: dict[str, Tensor] = {}
    for kind in family.layer_kinds:
        slides = family.window is not None and (kind == "sliding_attention" or len(family.layer_kinds) == 1)
        slides = slides and int(batch.depth_RS.max()) >= (family.window or 0)
        masks[kind] = _additive(_within(seen_RSS, batch.depth_RS, family.window or 0) if slides else seen_RSS, dtype)
        if not slides and len(seen_RSS) == 1 and not bool((batch.block_RS >= 0).any()):
            masks[kind].tree = TreeSpans(spans_of(batch.parent_RS[0].cpu().numpy()))  # type: ignore[attr-defined]
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _within(seen_RSS: Tensor, depth_RS: Tensor, window: int) -> Tensor:
    return seen_RSS & (depth_RS[:, :, None] - depth_RS[:, None, :] < window)


def _additive(seen_RSS: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen_RSS.shape, dtype=dtype, device=seen_RSS.device)
    return mask.masked_fill_(~seen_RSS, torch.finfo(dtype).min)[:, None]
