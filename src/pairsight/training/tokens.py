"""Training examples as tokens: what a sequence is made of, and which tokens are merged.

Shapes: T tokens of a sequence, A axes of positions, E examples, Q sequences of all examples.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pairsight.models.local.processor import EncodedPrompt
from pairsight.store.encoding import encode as encode_record
from pairsight.training.families import Family

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Merged sequences in depth-first order.

    Args:
        source_S: the sequence a token was taken from.
        depth_S: the token's index in that sequence.
        parent_S: the token before it on its path; -1 for a root.
        end_S: one past the last token of its subtree: token q sees token k when k <= q < end_S[k].
        paths: per sequence, in the order given, the indices of its tokens, [T].
    """

    source_S: Ints
    depth_S: Ints
    parent_S: Ints
    end_S: Ints
    paths: tuple[Ints, ...]

    def __len__(self) -> int:
        return len(self.source_S)


def merge(sequences: Sequence[Ints]) -> PrefixTree:
    """Merge sequences on their longest common prefixes.

    Args:
        sequences: symbols of each sequence, [T]; equal symbols after equal prefixes are one token. A symbol holds
            all that a token's embedding depends on: the token id, or which part of which image it is.

    Source: ours (neighbours in lexicographic order share the longest prefixes).
    """
    order = merging_order(sequences)
    paths: list[Ints] = [np.empty(0, np.int64)] * len(sequences)
    source: list[Ints] = []
    depth: list[Ints] = []
    end = np.zeros(sum(len(s) for s in sequences), np.int64)
    parent = np.full(len(end), -1, np.int64)
    total, previous, path = 0, np.empty(0, np.int64), np.empty(0, np.int64)
    for index in order:
        symbols = sequences[index]
        shared = common_prefix(previous, symbols)
        end[path[shared:]] = total
        fresh = np.arange(total, total + len(symbols) - shared)
        path = np.concatenate([path[:shared], fresh])
        parent[path[max(shared, 1) :]] = path[max(shared, 1) - 1 : -1] if len(path) else path
        source.append(np.full(len(fresh), index, np.int64))
        depth.append(np.arange(shared, len(symbols), dtype=np.int64))
        paths[index], previous, total = path, symbols, total + len(fresh)
    end[path] = total
    empty = [np.empty(0, np.int64)]
    return PrefixTree(
        np.concatenate(source or empty), np.concatenate(depth or empty), parent[:total], end[:total], tuple(paths)
    )


def merging_order(sequences: Sequence[Ints]) -> list[int]:
    """The indices of sequences in the order in which neighbours share the longest prefixes."""
    return sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">i8").tobytes())


def merged_length(sequences: Sequence[Ints]) -> int:
    """The number of tokens of merged sequences: `len(merge(sequences))`."""
    ordered = [sequences[i] for i in merging_order(sequences)]
    return sum(map(len, ordered)) - sum(common_prefix(a, b) for a, b in pairwise(ordered))


def common_prefix(a: Ints, b: Ints) -> int:
    """How many leading symbols two sequences share."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


_SHIFT = 2**24
"""Room for the indices inside one image or block in a symbol; text symbols are the token ids themselves."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and one completion.

    Args:
        symbols_T: what merging compares: the token id, or which token of which image or indivisible block.
        input_ids_T: token ids.
        positions_AT: positions by the model's own rule.
        block_T: the bidirectional block a token lies in; -1: none.
        unit_T, unit_index_T: the image unit of a placeholder and its index among the unit's; -1 elsewhere.
        prompt_length: tokens before the completion.
        prompt: the tokeniser's number of the prompt.
        key: SHA-256 of what determines the completion's log-probs apart from the model.
    """

    symbols_T: Ints
    input_ids_T: Ints
    positions_AT: Ints
    block_T: Ints
    unit_T: Ints
    unit_index_T: Ints
    prompt_length: int
    prompt: int
    key: bytes

    def __len__(self) -> int:
        return len(self.input_ids_T)


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt's tokens, as a `TokenSequence` without completion; `positions_AT` has one more, the next token's."""

    symbols_T: Ints
    input_ids_T: Ints
    positions_AT: Ints
    block_T: Ints
    unit_T: Ints
    unit_index_T: Ints
    number: int
    key: bytes

    def __len__(self) -> int:
        return len(self.input_ids_T)

    def with_completion(self, completion_ids: Ints, key: bytes | None = None) -> TokenSequence:
        """The sequence of this prompt and a completion's token ids, [T]; with its key, if that is known."""
        count = len(completion_ids)
        none = np.full(count, -1, np.int64)
        later = self.positions_AT[:, -1:] + np.arange(count)
        return TokenSequence(
            np.concatenate([self.symbols_T, completion_ids]),
            np.concatenate([self.input_ids_T, completion_ids]),
            np.concatenate([self.positions_AT[:, :-1], later], axis=1),
            np.concatenate([self.block_T, none]),
            np.concatenate([self.unit_T, none]),
            np.concatenate([self.unit_index_T, none]),
            len(self),
            self.number,
            hashlib.sha256(self.key + completion_ids.astype("<i8").tobytes()).digest() if key is None else key,
        )


@dataclass(frozen=True, slots=True)
class TokenExample:
    """An example in tokens: K completions under the prompt's own images, then the chosen one under contrast images.

    A rejected completion that a dataset gives on other images is under those.

    Args:
        id: the pair's or demonstration's id.
        sequences: K + N − 1 sequences; number 0 is the chosen completion under the prompt's own images.
        num_completions: K.
        weight: its weight in the loss.
        num_tokens: tokens after merging.
    """

    id: str
    sequences: tuple[TokenSequence, ...]
    num_completions: int
    weight: float
    num_tokens: int

    @property
    def prompt_symbols(self) -> Ints:
        """Symbols of the prompt under its own images."""
        first = self.sequences[0]
        return first.symbols_T[: first.prompt_length]

    @property
    def first_unit(self) -> int:
        """The first image unit of the prompt; -1 for a text-only one."""
        units = self.sequences[0].unit_T
        return int(units[units >= 0][0]) if (units >= 0).any() else -1

    @property
    def num_images(self) -> int:
        """Image sets, N."""
        return 1 + len(self.sequences) - self.num_completions

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Each sequence's indices in the grid of (image set, completion)."""
        return [(0, k) for k in range(self.num_completions)] + [(n, 0) for n in range(1, self.num_images)]

    @property
    def chosen_length(self) -> int:
        """Tokens of the chosen completion."""
        return len(self.sequences[0]) - self.sequences[0].prompt_length


def token_example(
    id: str,
    prompts: list[TokenPrompt],
    completions: list[Ints],
    weight: float,
    given_on: Mapping[int, TokenPrompt] = MappingProxyType({}),
) -> TokenExample:
    """An example of the prompt under N image sets, its own first, and K completions, the chosen first.

    `given_on` has the prompt of a completion that a dataset gives on other images, by the completion's number.
    """
    own, *contrast = prompts
    sequences = (
        *(given_on.get(number, own).with_completion(ids) for number, ids in enumerate(completions)),
        *(other.with_completion(completions[0]) for other in contrast),
    )
    return TokenExample(id, sequences, len(completions), weight, merged_length([s.symbols_T for s in sequences]))


class Examples(Sequence[TokenExample]):
    """A dataset in tokens. An example is made when it is asked for; what is needed of all of them is in arrays.

    Attributes:
        num_tokens_E: tokens of each example after merging.
        chosen_lengths_E: tokens of each chosen completion.
        first_units_E: the first image unit of each prompt; -1 for a text-only one.
        keys_QB: the sequences' keys of 32 bytes, in the examples' order.
        starts_E: the number of sequences before each example.
    """

    num_tokens_E: Ints
    chosen_lengths_E: Ints
    first_units_E: Ints
    keys_QB: Bytes
    starts_E: Ints

    def example(self, number: int) -> TokenExample:
        """One example."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.num_tokens_E)

    @overload
    def __getitem__(self, index: int) -> TokenExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenExample]: ...
    def __getitem__(self, index: int | slice) -> TokenExample | list[TokenExample]:
        numbers = range(len(self))[index]
        return self.example(numbers) if isinstance(numbers, int) else [self.example(number) for number in numbers]


class ListedExamples(Examples):
    """Examples in memory."""

    def __init__(self, examples: Iterable[TokenExample]) -> None:
        self._examples = list(examples)
        self.num_tokens_E = np.array([e.num_tokens for e in self._examples], np.int64)
        self.chosen_lengths_E = np.array([e.chosen_length for e in self._examples], np.int64)
        self.first_units_E = np.array([e.first_unit for e in self._examples], np.int64)
        keys = b"".join(s.key for e in self._examples for s in e.sequences)
        self.keys_QB = np.frombuffer(keys, np.uint8).reshape(-1, 32)
        self.starts_E = np.cumsum([0, *(len(e.sequences) for e in self._examples)])[:-1]

    def example(self, number: int) -> TokenExample:
        """One example."""
        return self._examples[number]


def symbols_of(input_ids_T: Ints, unit_T: Ints, unit_index_T: Ints) -> Ints:
    """Symbols of tokens outside of blocks, [T]: token ids, but a unit's number and index where one covers the token."""
    return np.where(unit_T >= 0, -(unit_T * _SHIFT + unit_index_T) - 1, input_ids_T)


def block_symbols(number: int, count: int) -> Ints:
    """Symbols of the tokens of a block that see each other in both directions, by the block's number."""
    return -(2**55) - (number * _SHIFT + np.arange(count))


def block_number(symbols_T: Ints) -> int:
    """The number of the block that symbols begin with."""
    return int(-(2**55) - symbols_T[0]) // _SHIFT


class BlockNumbers:
    """Numbers for blocks of tokens that see each other in both directions: equal ones have the same.

    Args:
        unit_name: what identifies an image unit, by its number.
    """

    def __init__(self, unit_name: Callable[[int], bytes]) -> None:
        self._numbers: dict[bytes, int] = {}
        self._unit_name = unit_name

    @property
    def names(self) -> list[bytes]:
        """What identifies each block whatever the numbers of its units, 16 bytes, in the order of the numbers."""
        return list(self._numbers)

    def put(self, symbols_T: Ints, block_T: Ints) -> Ints:
        """A prompt's symbols, [T], with those of blocks instead of their tokens'."""
        for start, end in runs(block_T):
            name = self._name(symbols_T[start:end])
            symbols_T[start:end] = block_symbols(self._numbers.setdefault(name, len(self._numbers)), end - start)
        return symbols_T

    def _name(self, symbols_T: Ints) -> bytes:
        units_T = np.where(symbols_T < 0, (-1 - symbols_T) // _SHIFT, -1)
        names = {self._unit_name(unit): unit for unit in np.unique(units_T).tolist() if unit >= 0}
        content = hashlib.sha256(b"".join(sorted(names)))
        own_T = symbols_T.copy()
        for rank, name in enumerate(sorted(names)):
            of_unit_T = units_T == names[name]
            own_T[of_unit_T] += (names[name] - rank) * _SHIFT
        content.update(own_T.tobytes())
        return content.digest()[:16]


def runs(block_T: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Half-open ranges of equal block numbers, blocks only."""
    edges = np.flatnonzero(np.diff(block_T, prepend=-1, append=-1))
    starts = [e for e in edges if e < len(block_T) and block_T[e] >= 0]
    ends = [e for e in edges if e > 0 and block_T[e - 1] >= 0]
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def times_the_tokens_alone(examples: Examples) -> float:
    """How many times the tokens are computed when no sequence shares its prefix, by the first hundred examples."""
    some = examples[:100]
    return sum(len(s) for example in some for s in example.sequences) / sum(example.num_tokens for example in some)


def units_of(
    encoded: EncodedPrompt, parts: Sequence[tuple[int, list[int]]], ids: Ints, placeholder: int | None
) -> tuple[Ints, Ints]:
    """For each token, the image unit of which it is a placeholder and its index among the unit's placeholders."""
    unit, index = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
    for number, covered in parts:
        where = np.concatenate([np.arange(*encoded.image_spans[image]) for image in covered])
        where = where[ids[where] == placeholder]
        unit[where], index[where] = number, np.arange(len(where))
    return unit, index


def blocks_of(token_types: list[int] | None, family: Family) -> Ints | None:
    """Numbers of the bidirectional blocks: runs of image tokens, or the full prompt."""
    if token_types is None or family.bidirectional == "none":
        return None
    types = np.array(token_types, np.int64)
    if family.bidirectional == "prompt":
        return np.where(types == 0, 0, -1)
    image = types == 1
    starts = image & ~np.concatenate([[False], image[:-1]])
    return np.where(image, np.cumsum(starts) - 1, -1)


def content_key(encoded: EncodedPrompt) -> bytes:
    """SHA-256 of what determines a prompt's tokens and images."""
    images = [encode_record(ref) for ref in encoded.images]
    content = json.dumps([encoded.input_ids, images, encoded.image_spans])
    return hashlib.sha256(content.encode()).digest()
