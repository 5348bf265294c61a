"""Training examples as tokens: what a sequence is made of, and when two tokens may be one.

Shapes: T tokens of a sequence, A axes of positions.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairsight.training.prefix_tree import Ints, merge

_SHIFT = 2**24
"""Room for the places inside one image or block in a symbol; text symbols are the token ids themselves."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and one completion.

    Args:
        symbols_T: what merging compares: the token id, or which token of which image or indivisible block.
        input_ids_T: token ids.
        positions_AT: positions by the model's own rule.
        block_T: the bidirectional block a token lies in; -1: none.
        unit_T, unit_place_T: the image unit a placeholder stands for and its place there; -1 elsewhere.
        prompt_length: tokens before the completion.
        prompt: the tokeniser's number of the prompt.
        key: SHA-256 of all that determines the completion's log-probs beside the model.
    """

    symbols_T: Ints
    input_ids_T: Ints
    positions_AT: Ints
    block_T: Ints
    unit_T: Ints
    unit_place_T: Ints
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
    unit_place_T: Ints
    number: int
    key: bytes

    def __len__(self) -> int:
        return len(self.input_ids_T)

    def with_completion(self, completion_ids: Ints) -> TokenSequence:
        """The sequence of this prompt and a completion's token ids, [T]."""
        count = len(completion_ids)
        none = np.full(count, -1, np.int64)
        later = self.positions_AT[:, -1:] + np.arange(count)
        return TokenSequence(
            np.concatenate([self.symbols_T, completion_ids]),
            np.concatenate([self.input_ids_T, completion_ids]),
            np.concatenate([self.positions_AT[:, :-1], later], axis=1),
            np.concatenate([self.block_T, none]),
            np.concatenate([self.unit_T, none]),
            np.concatenate([self.unit_place_T, none]),
            len(self),
            self.number,
            hashlib.sha256(self.key + completion_ids.astype("<i8").tobytes()).digest(),
        )


@dataclass(frozen=True, slots=True)
class TokenExample:
    """An example in tokens: K completions under the prompt's own images, then the chosen one under contrast images.

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
    def first_unit(self) -> int | None:
        """The first image unit of the prompt; None for a text-only one."""
        units = self.sequences[0].unit_T
        return int(units[units >= 0][0]) if (units >= 0).any() else None

    @property
    def num_images(self) -> int:
        """Image sets, N."""
        return 1 + len(self.sequences) - self.num_completions

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Each sequence's place in the grid of (image set, completion)."""
        return [(0, k) for k in range(self.num_completions)] + [(n, 0) for n in range(1, self.num_images)]

    @property
    def chosen_length(self) -> int:
        """Tokens of the chosen completion."""
        return len(self.sequences[0]) - self.sequences[0].prompt_length


def token_example(id: str, prompts: list[TokenPrompt], completions: list[Ints], weight: float) -> TokenExample:
    """An example of the prompt under N image sets, its own first, and K completions, the chosen first."""
    own, *contrast = prompts
    sequences = (
        *(own.with_completion(ids) for ids in completions),
        *(other.with_completion(completions[0]) for other in contrast),
    )
    return TokenExample(id, sequences, len(completions), weight, len(merge([s.symbols_T for s in sequences])))


class Symbols:
    """Numbers for what is indivisible: images, and blocks of tokens that see each other both ways."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def of_prompt(self, input_ids_T: Ints, unit_T: Ints, unit_place_T: Ints, block_T: Ints) -> Ints:
        """A prompt's symbols, [T]: token ids, but a unit's or block's number and place where one covers the token."""
        symbols = np.where(unit_T >= 0, -(unit_T * _SHIFT + unit_place_T) - 1, input_ids_T)
        for start, end in _runs(block_T):
            number = self._numbers.setdefault(symbols[start:end].tobytes(), len(self._numbers))
            symbols[start:end] = -(2**55) - (number * _SHIFT + np.arange(end - start))
        return symbols


def _runs(block_T: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Half-open ranges of equal block numbers, blocks only."""
    edges = np.flatnonzero(np.diff(block_T, prepend=-1, append=-1))
    starts = [e for e in edges if e < len(block_T) and block_T[e] >= 0]
    ends = [e for e in edges if e > 0 and block_T[e - 1] >= 0]
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
