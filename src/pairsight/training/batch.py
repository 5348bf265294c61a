"""Examples packed into rows of prefix trees, and rows padded into the batch of one forward pass.

Shapes: R rows, S tokens per row, A axes of positions, P predicted tokens, F image placeholders, Q sequences.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pairsight.training.tokens import (
    Ints,
    PrefixTree,
    TokenExample,
    TokenSequence,
    common_prefix,
    merge,
    merging_order,
)


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Sequences of some examples, merged on their prefixes.

    Args:
        sequences: the merged sequences, in the examples' order.
        tree: how they are merged.
        predicted_P: indices of tokens that belong to some completion, ascending.
        completions: per sequence, the indices of its completion's tokens in `predicted_P`.
    """

    sequences: tuple[TokenSequence, ...]
    tree: PrefixTree
    predicted_P: Ints
    completions: tuple[Ints, ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The input of one forward pass. A flat index counts through all rows: row * S + index in the row.

    Args:
        input_ids_RS: tokens; padding is 0 and sees only itself.
        positions_ARS: positions along each token's own path.
        parent_RS, depth_RS, end_RS, block_RS: from which attention masks are built; parent -1: a root, block -1: none.
        units, placeholders_F: image units in use, and for each placeholder its row in their joined features.
        predictor_P, target_P: flat index of the token that predicts, and the token id that is predicted.
        needed_RN: indices in their rows of all predicting tokens, padded with 0; N is the largest number in a row.
        needed_P: flat index of each predicting token in `needed_RN`.
        token_T, sequence_T: for each completion token of each sequence, its index in P and the sequence's number.
        examples: numbers of the examples, in the order of the sequences.
    """

    input_ids_RS: Tensor
    positions_ARS: Tensor
    parent_RS: Tensor
    depth_RS: Tensor
    end_RS: Tensor
    block_RS: Tensor
    units: tuple[int, ...]
    placeholders_F: Tensor
    predictor_P: Tensor
    target_P: Tensor
    needed_RN: Tensor
    needed_P: Tensor
    token_T: Tensor
    sequence_T: Tensor
    num_sequences: int
    examples: tuple[int, ...]


def pack_row(examples: Sequence[TokenExample]) -> PackedRow:
    """Merge all sequences of some examples into one row."""
    sequences = tuple(s for example in examples for s in example.sequences)
    tree = merge([s.symbols_T for s in sequences])
    wanted = [path[s.prompt_length :] for s, path in zip(sequences, tree.paths, strict=True)]
    predicted = np.unique(np.concatenate(wanted))
    return PackedRow(sequences, tree, predicted, tuple(np.searchsorted(predicted, w) for w in wanted))


@dataclass(frozen=True, slots=True)
class PassLimits:
    """How many tokens go through the model together.

    Args:
        row: tokens of a row that holds several examples; a single larger example is a row of its own.
        joined: tokens of a pass of several rows, padding included; a single larger row is a pass of its own.
        padded: whether the rows of a pass are padded to one length, or joined end to end, for attention without masks.
    """

    row: int
    joined: int
    padded: bool = True


def plan_passes(
    examples: Sequence[TokenExample],
    numbers: Sequence[int],
    limits: PassLimits,
    *,
    share: bool,
) -> list[list[tuple[int, ...]]]:
    """Group examples into forward passes: each pass is a list of rows, each row the numbers of its examples.

    Examples whose prompts share a prefix of at least half the shorter prompt share a row (below that, attention over
    each other's masked tokens costs more than the prefix saves). Rows of similar length share a pass.

    Args:
        examples: the full dataset.
        numbers: the examples of this batch.
        limits: tokens of a row and of a pass.
        share: whether different prompts may share a row at all.

    Source: ours.
    """
    rows = _rows(examples, numbers, limits.row, share=share)
    passes: list[list[tuple[int, ...]]] = []
    width = used = 0
    for members, size in rows:
        if not passes or (width * (len(passes[-1]) + 1) if limits.padded else used + size) > limits.joined:
            passes.append([])
            width, used = size, 0
        passes[-1].append(tuple(members))
        used += size
    return passes


def divide(examples: Sequence[TokenExample], numbers: Sequence[int], parts: int, *, share: bool) -> list[list[int]]:
    """Divide examples into parts of about equal tokens; those that share a prefix stay together where that is possible.

    Args:
        examples: the full dataset.
        numbers: the examples to divide.
        parts: how many parts; some are empty where there are few examples.
        share: whether different prompts may share a row at all.

    Source: ours (longest first, each to the part that has least).
    """
    most = -(-sum(examples[n].num_tokens for n in numbers) // parts)
    found: list[list[int]] = [[] for _ in range(parts)]
    sizes = [0] * parts
    for members, size in _rows(examples, numbers, most, share=share):
        part = sizes.index(min(sizes))
        found[part] += members
        sizes[part] += size
    return found


def _rows(
    examples: Sequence[TokenExample], numbers: Sequence[int], longest: int, *, share: bool
) -> list[tuple[list[int], int]]:
    """Examples in rows of at most `longest` tokens, the longest first, with each row's tokens."""
    those = [examples[number] for number in numbers]
    rows: list[tuple[list[int], int]] = []
    last = None
    for index in merging_order([example.sequences[0].symbols_T for example in those]):
        number, this = numbers[index], those[index]
        size = this.num_tokens
        if last is not None and share:
            members, used = rows[-1]
            same = common_prefix(last.prompt_symbols, this.prompt_symbols)
            near = 2 * same >= min(len(last.prompt_symbols), len(this.prompt_symbols))
            if near and used + size - same <= longest:
                rows[-1], last = ([*members, number], used + size - same), this
                continue
        rows.append(([number], size))
        last = this
    rows.sort(key=lambda row: -row[1])
    return rows


def join(rows: Sequence[PackedRow]) -> PackedRow:
    """Rows end to end in one: their trees side by side, none of which sees another."""
    trees = [row.tree for row in rows]
    first = np.cumsum([0, *map(len, trees)])
    sequence = np.cumsum([0, *(len(row.sequences) for row in rows)])
    predicted = np.cumsum([0, *(len(row.predicted_P) for row in rows)])
    tree = PrefixTree(
        source_S=np.concatenate([t.source_S + n for t, n in zip(trees, sequence, strict=False)]),
        depth_S=np.concatenate([t.depth_S for t in trees]),
        parent_S=np.concatenate(
            [np.where(t.parent_S < 0, -1, t.parent_S + n) for t, n in zip(trees, first, strict=False)]
        ),
        end_S=np.concatenate([t.end_S + n for t, n in zip(trees, first, strict=False)]),
        paths=tuple(path + n for t, n in zip(trees, first, strict=False) for path in t.paths),
    )
    return PackedRow(
        tuple(s for row in rows for s in row.sequences),
        tree,
        np.concatenate([row.predicted_P + n for row, n in zip(rows, first, strict=False)]),
        tuple(c + n for row, n in zip(rows, predicted, strict=False) for c in row.completions),
    )


def collate(rows: Sequence[PackedRow], unit_length: Callable[[int], int], examples: Sequence[int]) -> PackedBatch:
    """Pad rows into one batch.

    Args:
        rows: R packed rows.
        unit_length: placeholder tokens of an image unit.
        examples: the examples' numbers, in the order of the rows' sequences.
    """
    width = max(len(row.tree) for row in rows)
    shape = (len(rows), width)
    axes = max(s.positions_AT.shape[0] for row in rows for s in row.sequences)
    input_ids, depth = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    block, parent = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    end = np.tile(np.arange(1, width + 1), (len(rows), 1))
    positions = np.zeros((axes, *shape), np.int64)
    units: list[Ints] = []
    unit_indexes: list[Ints] = []
    predictors: list[Ints] = []
    targets: list[Ints] = []
    tokens: list[Ints] = []
    sequence_numbers: list[Ints] = []
    num_sequences = num_predicted = 0
    for r, row in enumerate(rows):
        tree, size = row.tree, len(row.tree)
        starts = np.cumsum([0, *(len(s) for s in row.sequences[:-1])])
        pick = starts[tree.source_S] + tree.depth_S
        input_ids[r, :size] = np.concatenate([s.input_ids_T for s in row.sequences])[pick]
        block[r, :size] = _row_blocks(np.concatenate([s.block_T for s in row.sequences])[pick], tree.parent_S)
        positions[:, r, :size] = np.concatenate([s.positions_AT for s in row.sequences], axis=1)[:, pick]
        depth[r, :size], end[r, :size], parent[r, :size] = tree.depth_S, tree.end_S, tree.parent_S
        unit = np.concatenate([s.unit_T for s in row.sequences])[pick]
        units.append(unit[unit >= 0])
        unit_indexes.append(np.concatenate([s.unit_index_T for s in row.sequences])[pick][unit >= 0])
        predictors.append(tree.parent_S[row.predicted_P] + r * width)
        targets.append(input_ids[r, row.predicted_P])
        for completion in row.completions:
            tokens.append(completion + num_predicted)
            sequence_numbers.append(np.full(len(completion), num_sequences))
            num_sequences += 1
        num_predicted += len(row.predicted_P)
    used, placeholders_F = _placeholders(np.concatenate(units), np.concatenate(unit_indexes), unit_length)
    needed_RN, needed_P = _needed([row.tree.parent_S[row.predicted_P] for row in rows])
    return PackedBatch(
        input_ids_RS=torch.from_numpy(input_ids),
        positions_ARS=torch.from_numpy(positions),
        parent_RS=torch.from_numpy(parent),
        depth_RS=torch.from_numpy(depth),
        end_RS=torch.from_numpy(end),
        block_RS=torch.from_numpy(block),
        units=used,
        placeholders_F=placeholders_F,
        predictor_P=_joined(predictors),
        target_P=_joined(targets),
        needed_RN=needed_RN,
        needed_P=needed_P,
        token_T=_joined(tokens),
        sequence_T=_joined(sequence_numbers),
        num_sequences=num_sequences,
        examples=tuple(examples),
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; the CPU does not wait for a GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _placeholders(unit_F: Ints, index_F: Ints, unit_length: Callable[[int], int]) -> tuple[tuple[int, ...], Tensor]:
    """The units in use, and each placeholder's row in their joined features."""
    used = np.unique(unit_F)
    first = np.cumsum([0, *(unit_length(int(unit)) for unit in used)])
    rows_F = first[np.searchsorted(used, unit_F)] + index_F if len(unit_F) else unit_F
    return tuple(int(unit) for unit in used), torch.from_numpy(rows_F)


def _row_blocks(block_S: Ints, parent_S: Ints) -> Ints:
    """Blocks numbered within the row: siblings have different blocks, and no branch cuts a block."""
    index_S = np.arange(len(block_S))
    starts_S = (block_S >= 0) & ((np.roll(block_S, 1) != block_S) | (parent_S != index_S - 1))
    return np.where(block_S >= 0, np.cumsum(starts_S), -1)


def _needed(predictors: list[Ints]) -> tuple[Tensor, Tensor]:
    """Each row's distinct predicting tokens, padded, and the flat index of each predicted token's own among them."""
    distinct = [np.unique(p) for p in predictors]
    width = max(len(d) for d in distinct)
    needed = np.zeros((len(predictors), width), np.int64)
    flat: list[Ints] = []
    for r, (own, asked) in enumerate(zip(distinct, predictors, strict=True)):
        needed[r, : len(own)] = own
        flat.append(np.searchsorted(own, asked) + r * width)
    return torch.from_numpy(needed), _joined(flat)


def _joined(pieces: list[Ints]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64))
