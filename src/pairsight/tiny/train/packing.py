"""Many questions on one prefix in one row: the prefix is computed once, the questions do not see each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """A prefix (token ids) and branches of (question ids, completion ids) that continue it."""

    prefix: tuple[int, ...]
    branches: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Shapes B × S (tokens, labels, positions) and B × 1 × S × S (who may attend to whom)."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    mask: Tensor


def pack(rows: Sequence[PrefixGroup], pad_id: int) -> PackedBatch:
    """Lay rows out as one batch.

    Args:
        rows: B rows.
        pad_id: the padding token.

    Returns:
        ids; labels that hold a completion's token where it is predicted from the token before, else −100; positions
        that go on from the prefix in every branch; a boolean mask, causal within prefix and branch.
    """
    length = max(len(row.prefix) + sum(len(q) + len(a) for q, a in row.branches) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORED)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    branch_of = torch.full((len(rows), length), -1)  # -1 padding, 0 prefix, 1… branches
    for i, row in enumerate(rows):
        end = len(row.prefix)
        ids[i, :end] = torch.tensor(row.prefix)
        positions[i, :end] = torch.arange(end)
        branch_of[i, :end] = 0
        for number, (question, completion) in enumerate(row.branches, start=1):
            tokens = torch.tensor([*question, *completion])
            span = slice(end, end + len(tokens))
            ids[i, span] = tokens
            positions[i, span] = torch.arange(len(row.prefix), len(row.prefix) + len(tokens))
            branch_of[i, span] = number
            labels[i, end + len(question) - 1 : end + len(tokens) - 1] = torch.tensor(completion)
            end += len(tokens)
    return PackedBatch(ids, labels, positions, _mask(branch_of))


def packed_loss(model: Any, batch: PackedBatch, embeddings: Tensor) -> Tensor:
    """Mean cross-entropy over completion tokens of a packed batch, a scalar.

    Args:
        model: a Llama body with `lm_head`, as (body, head).
        batch: the layout.
        embeddings: B × S × width, image features already in place.
    """
    body, head = model
    hidden = body(
        inputs_embeds=embeddings, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    wanted = batch.labels != IGNORED
    return torch.nn.functional.cross_entropy(head(hidden[wanted]), batch.labels[wanted])


def _mask(branch_of: Tensor) -> Tensor:
    """True where the row's token (query) may see the column's: earlier or itself, and of the prefix or its branch."""
    length = branch_of.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = branch_of[:, :, None], branch_of[:, None, :]
    visible = causal & ((key == 0) | (key == query)) & (key >= 0)
    visible |= torch.eye(length, dtype=torch.bool)  # padding sees itself, so that no row of the softmax is empty
    return visible[:, None]
