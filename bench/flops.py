"""The arithmetic that a preference step needs, by formula: each distinct token and each required gradient once.

A product of [m, k] and [k, n] is 2mkn operations. Per distinct token and layer of the language model, forward:

    2 · (4D² + 3DM)                 the layer's matrices (D width, M width of the MLP)
    4 · D · v                       attention to the v tokens it sees (scores, and weighted sum of values)
    2 · r · (in + out)              each adapter

Backward: the same for gradients by inputs (except below the first layer's queries, keys and values, where nothing is
trained), twice for attention, and 2 · r · (in + out) by input and by weights for each adapter. In the last layer,
tokens that predict nothing need only keys and values. The head, 2DV, forward and backward, at predicted tokens. The
vision tower forward once per image; the reference forward once. Norms, activations and the optimizer are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llava_shape import Item, Shape

RANK = 16


@dataclass(frozen=True)
class Tree:
    """One packed row: the number of tokens that each token sees, and the numbers of predicted and predicting tokens."""

    seen: np.ndarray
    num_predicted: int
    num_predicting: int


def tree(shape: Shape, items: Sequence[Item]) -> Tree:
    """The items of one image, packed: the image, then each question with its completions."""
    start = 2 + shape.image_tokens  # <s>, USER:, the image
    seen: list[int] = list(range(1, start + 1))
    predicted = predicting = 0
    for item in items:
        question = len(item.question.split()) + 1  # with ASSISTANT:
        seen += range(start + 1, start + question + 1)
        predicting += 1
        for completion in (item.chosen, *item.rejected):
            length = len(completion.split()) + 1
            seen += range(start + question + 1, start + question + length + 1)
            predicted += length
            predicting += length - 1
    return Tree(np.array(seen, float), predicted, predicting)


def forward(shape: Shape, row: Tree, *, rank: int) -> float:
    """Operations of a forward pass of the language model with its head; rank 0: without adapters."""
    d, m, tokens = shape.hidden, shape.mlp, len(row.seen)
    attention = 4 * d * (row.seen.sum() * (shape.layers - 1) + predicting_seen(row))
    keys_and_values = 2 * (2 * d * d) * tokens * shape.layers
    rest = 2 * (2 * d * d + 3 * d * m) * needed(shape, row)
    return keys_and_values + rest + attention + head(shape, row) + low_rank(shape, row, rank)


def backward(shape: Shape, row: Tree, *, rank: int) -> float:
    """Operations of the gradients of adapters on every matrix of the language model."""
    d, m, tokens = shape.hidden, shape.mlp, len(row.seen)
    by_inputs = 2 * (2 * d * d) * tokens * (shape.layers - 1)  # keys and values, except in the first layer
    # and the other matrices, without the first layer's queries
    by_inputs += 2 * (2 * d * d + 3 * d * m) * needed(shape, row) - 2 * d * d * tokens
    attention = 2 * 4 * d * (row.seen.sum() * (shape.layers - 1) + predicting_seen(row))
    return by_inputs + attention + 2 * low_rank(shape, row, rank) + head(shape, row)


def low_rank(shape: Shape, row: Tree, rank: int) -> float:
    """Operations of the adapters' products, forward."""
    d, m, tokens = shape.hidden, shape.mlp, len(row.seen)
    return 2 * rank * (2 * (2 * d) * tokens * shape.layers + (2 * 2 * d + 3 * (d + m)) * needed(shape, row))


def head(shape: Shape, row: Tree) -> float:
    """Operations of the head at the predicting tokens, forward."""
    return 2 * shape.hidden * shape.vocabulary * row.num_predicted


def needed(shape: Shape, row: Tree) -> int:
    """The number of token states computed besides keys and values: in the last layer only those that predict."""
    return len(row.seen) * (shape.layers - 1) + row.num_predicting


def vision(shape: Shape) -> float:
    """Operations of the vision tower and the projector on one image; LLaVA uses the last layer but one."""
    v, tokens = shape.vision_hidden, shape.image_tokens + 1
    layer = tokens * (2 * 12 * v * v + 4 * v * tokens)
    patches = 2 * tokens * 3 * shape.patch**2 * v
    projector = 2 * shape.image_tokens * (v * shape.hidden + shape.hidden**2)
    return layer * (shape.vision_layers - 1) + patches + projector


def training(shape: Shape, items: Sequence[Item], epochs: int, rank: int = RANK) -> float:
    """Operations of a complete training, including the reference, with adapters of a rank."""
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image, []).append(item)
    total = 0.0
    for group in by_image.values():
        row = tree(shape, group)
        total += vision(shape) + forward(shape, row, rank=0)
        total += epochs * (forward(shape, row, rank=rank) + backward(shape, row, rank=rank))
    return total


def unshared(shape: Shape, items: Sequence[Item], epochs: int, rank: int = RANK) -> float:
    """The same for trainers of one sequence per completion, each with image and prompt, and no reference kept.

    Every step then computes policy and reference on all tokens of every sequence; each rejected completion is a pair
    with its chosen one. Padding is not counted.
    """
    total = 0.0
    for item in items:
        for completion in (text for rejected in item.rejected for text in (item.chosen, rejected)):
            row = tree(shape, [replace(item, chosen=completion, rejected=())])
            row = replace(row, num_predicting=len(row.seen))
            total += 2 * vision(shape) + forward(shape, row, rank=0)
            total += forward(shape, row, rank=rank) + backward(shape, row, rank=rank)
    return epochs * total


def predicting_seen(row: Tree) -> float:
    """The tokens that predicting tokens see in the last layer: as they come last, about the largest numbers."""
    return float(np.sort(row.seen)[-row.num_predicting :].sum())
