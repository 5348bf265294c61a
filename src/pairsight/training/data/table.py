"""Examples in tokens in one file mapped into memory: a prompt once, with runs of placeholders for its images.

Symbols, positions, blocks and units of a sequence are made from it when the sequence is packed.

Shapes: T tokens of a prompt, A axes of positions, R runs of placeholders, L blocks, E examples, Q sequences.
"""

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from pairsight.errors import DataError
from pairsight.records import Prompt
from pairsight.store.encoding import decode, encode
from pairsight.store.tensors import Column, Tensors, read_tensors, write_columns
from pairsight.training.families import Family, counted_positions
from pairsight.training.tokens import (
    Examples,
    Ints,
    TokenExample,
    TokenPrompt,
    block_number,
    block_symbols,
    runs,
    symbols_of,
)

_LOG = logging.getLogger("pairsight.training")

FORMAT = 1
"""Of the file: part of its key, so that one of another version is never read."""

COLUMNS = {
    "prompt_text": ("<i4", 0),  # token ids without placeholders
    "prompt_runs": ("<i4", 4),  # of placeholders: first token, count, unit, index in the unit
    "prompt_blocks": ("<i4", 3),  # tokens [start, end), number
    "prompt_positions": ("|u1", 0),  # see `_packed`
    "prompt_ends": ("<i8", 4),  # of each of the above
    "records": ("|u1", 0),  # of prompts, JSON
    "record_ends": ("<i8", 0),
    "units": ("<i4", 3),
    "completion_ids": ("<i4", 0),
    "completion_ends": ("<i8", 0),
    "keys": ("|u1", 32),  # of sequences
    "ids": ("|u1", 0),  # of examples, UTF-8
    "example_prompts": ("<i4", 0),  # numbers: of the own one, then of those with contrast images
    "given_on": ("<i4", 3),  # example, number of a completion, and of the prompt with the images it is given on
    "examples": ("<i8", 7),  # record, ends of prompts, completions and ids, merged tokens, chosen length, first unit
    "weights": ("<f8", 0),
}
"""Name of a column -> type and width."""
_OF_PARTS = {"unit_names": ("|u1", 16), "block_names": ("|u1", 16)}
"""Columns of a part's file besides: what identifies units and blocks in other parts too."""
OF_PROMPTS = ("prompt_text", "prompt_runs", "prompt_blocks", "prompt_positions")
"""The columns of which `prompt_ends` says where each prompt's rows end."""
EXAMPLE_ENDS = ("example_prompts", "completion_ends", "ids")
"""The columns of which `examples` says, in its columns 1 to 3, where each example's rows end."""
_RECENT_TOKENS = 2**19
"""Tokens of the examples that are held unpacked."""


class Unit(NamedTuple):
    """An image, or all images of a prompt whose processor mixes them: what the vision tower is given.

    Args:
        prompt: the number of a prompt with it.
        part: which image of that prompt; -1: all.
        num_tokens: its placeholders.
    """

    prompt: int
    part: int
    num_tokens: int


class Names(NamedTuple):
    """What identifies image units and blocks, 16 bytes each, by their numbers."""

    unit_names: list[bytes]
    block_names: list[bytes]


class Catalogue:
    """What sequences name by number: prompts and image units; in memory."""

    def __init__(self) -> None:
        self._prompts: list[Prompt] = []
        self._units: list[Unit] = []

    def add_prompt(self, prompt: Prompt) -> int:
        """Number a prompt."""
        self._prompts.append(prompt)
        return len(self._prompts) - 1

    def add_unit(self, unit: Unit) -> int:
        """Number a unit."""
        self._units.append(unit)
        return len(self._units) - 1

    def prompt(self, number: int) -> Prompt:
        """A prompt."""
        return self._prompts[number]

    def unit(self, number: int) -> Unit:
        """A unit."""
        return self._units[number]

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return len(self._units)

    @property
    def num_unit_tokens(self) -> int:
        """Placeholders of all units."""
        return sum(unit.num_tokens for unit in self._units)


class TableWriter(Catalogue):
    """A table of examples that is being made; what is added is not held in memory.

    Args:
        path: the file, written by `finish`.
        family: of the model whose tokens these are.
    """

    def __init__(self, path: Path, family: Family) -> None:
        self._path, self._family = path, family
        self._columns = {name: Column(path.parent, dtype, width) for name, (dtype, width) in COLUMNS.items()}

    def add_prompt(self, prompt: Prompt) -> int:
        """Number a prompt; its tokens follow by `add_tokens`."""
        self._columns["records"].append(np.frombuffer(encode(prompt).encode(), np.uint8))
        self._columns["record_ends"].append([len(self._columns["records"])])
        return len(self._columns["record_ends"]) - 1

    def add_unit(self, unit: Unit) -> int:
        """Number a unit."""
        self._columns["units"].append(unit)
        return len(self._columns["units"]) - 1

    def add_tokens(self, prompt: TokenPrompt) -> None:
        """Keep the tokens of a prompt, unless they are kept already."""
        if prompt.number < len(self._columns["prompt_ends"]):
            return
        seen_T = prompt.unit_T >= 0
        before_T = np.concatenate([[False], seen_T[:-1]])
        goes_on_T = (
            before_T & (np.diff(prompt.unit_T, prepend=-1) == 0) & (np.diff(prompt.unit_index_T, prepend=-1) == 1)
        )
        starts_R = np.flatnonzero(seen_T & ~goes_on_T)
        counts_R = np.diff(np.append(np.cumsum(seen_T)[starts_R] - 1, seen_T.sum()))
        blocks = [(start, end, block_number(prompt.symbols_T[start:])) for start, end in runs(prompt.block_T)]
        columns = self._columns
        columns["prompt_text"].append(prompt.input_ids_T[~seen_T])
        columns["prompt_runs"].append(
            np.stack([starts_R, counts_R, prompt.unit_T[starts_R], prompt.unit_index_T[starts_R]], axis=1)
        )
        columns["prompt_blocks"].append(np.array(blocks, np.int32).reshape(-1, 3))
        columns["prompt_positions"].append(np.frombuffer(_packed(prompt.positions_AT, self._family), np.uint8))
        columns["prompt_ends"].append([len(columns[name]) for name in OF_PROMPTS])

    def add_example(
        self,
        record: int,
        example: TokenExample,
        prompts: list[int],
        completions: list[Ints],
        given_on: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Keep an example.

        Args:
            record: the number of the record that it was made from.
            example: what `token_example` made of the rest.
            prompts: numbers, of the own one first.
            completions: token ids, of the chosen one first.
            given_on: number of a completion -> of the prompt with the other images that a dataset gives it on.
        """
        columns = self._columns
        for completion, prompt in given_on.items():
            columns["given_on"].append(np.array([[len(columns["examples"]), completion, prompt]], np.int32))
        columns["example_prompts"].append(prompts)
        for ids in completions:
            columns["completion_ids"].append(ids)
            columns["completion_ends"].append([len(columns["completion_ids"])])
        columns["keys"].append(np.frombuffer(b"".join(s.key for s in example.sequences), np.uint8))
        columns["ids"].append(np.frombuffer(example.id.encode("utf-8", "surrogatepass"), np.uint8))
        ends = [len(columns[name]) for name in EXAMPLE_ENDS]
        columns["examples"].append([record, *ends, example.num_tokens, example.chosen_length, example.first_unit])
        columns["weights"].append([example.weight])

    def finish(self, skipped: Counter[str], cut: int, names: "Names | None" = None) -> None:
        """Write the file.

        Args:
            skipped: reason -> number of records left out.
            cut: completions shortened.
            names: of units and blocks, where the file is a part of a table.

        Raises:
            RunError: the disk is full or failed.
        """
        notes = {"skipped": json.dumps(skipped), "cut": str(cut)}
        columns = dict(self._columns)
        for name, those in (names._asdict() if names is not None else {}).items():
            columns[name] = Column(self._path.parent, *_OF_PARTS[name])
            columns[name].append(np.frombuffer(b"".join(those), np.uint8))
        write_columns(self._path, columns, notes)


def _packed(positions_AT: Ints, family: Family) -> bytes:
    """Positions in short: nothing where they only count tokens."""
    if np.array_equal(positions_AT, counted_positions(family, positions_AT.shape[1])):
        return b""
    steps_AT = np.diff(positions_AT, axis=1, prepend=0).astype("<i4")
    return zlib.compress(steps_AT.tobytes(), 1)


def _unpacked(packed: bytes, family: Family, count: int) -> Ints:
    """Positions of `count` tokens, [A, count]."""
    if not packed:
        return counted_positions(family, count)
    steps_AT = np.frombuffer(zlib.decompress(packed), "<i4").reshape(-1, count)
    return steps_AT.cumsum(axis=1, dtype=np.int64)


class TokenTable(Examples):
    """The examples of a file.

    Args:
        path: what `TableWriter` wrote.
        family: of the model whose tokens these are.

    Attributes:
        records_E: numbers of the records that the examples were made from, ascending.
        skipped: reason -> number of records left out.
        cut: completions shortened to `max_length`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut short or damaged.
    """

    def __init__(self, path: Path, family: Family) -> None:
        tensors, notes = read_tensors(path)
        self._given_on = tensors.get("given_on", np.zeros((0, 3), np.int32))  # absent in older files
        if missing := COLUMNS.keys() - tensors.keys() - {"given_on"}:
            raise ValueError(f"it has no {min(missing)}")
        self._tensors, self._family = tensors, family
        self.skipped = Counter[str](json.loads(str(notes["skipped"])))
        self.cut = int(str(notes["cut"]))
        examples = tensors["examples"]
        self.records_E, self.num_tokens_E = examples[:, 0], examples[:, 4]
        self.chosen_lengths_E, self.first_units_E = examples[:, 5], examples[:, 6]
        self.keys_QB = tensors["keys"]
        sequences_E = examples[:, 1] + examples[:, 2] - np.arange(1, len(examples) + 1)  # up to and with each example
        self.starts_E = np.concatenate([[0], sequences_E[:-1]])
        self._recent: dict[int, TokenExample] = {}
        self._recent_tokens = 0

    def report(self, num_given: int, max_length: int) -> None:
        """Log how many examples were skipped and why, and how many completions were cut.

        Args:
            num_given: of examples.
            max_length: that completions were cut at.

        Raises:
            DataError: none is left.
        """
        for reason, count in sorted(self.skipped.items()):
            _LOG.warning("%d of %d examples skipped: %s", count, num_given, reason)
        if self.cut:
            _LOG.warning("%d completions cut at max_length %d", self.cut, max_length)
        if not len(self):
            why = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items())
            raise DataError(f"no example is left to train on: {why}")

    @property
    def catalogue(self) -> Catalogue:
        """The prompts and image units of the examples."""
        return _TableCatalogue(self._tensors)

    def example(self, number: int) -> TokenExample:
        """One example, unpacked."""
        if number not in self._recent:
            example = self._unpacked(number)
            self._recent_tokens += sum(map(len, example.sequences))
            while self._recent and self._recent_tokens > _RECENT_TOKENS:
                oldest = self._recent.pop(next(iter(self._recent)))
                self._recent_tokens -= sum(map(len, oldest.sequences))
            self._recent[number] = example
        return self._recent[number]

    def _unpacked(self, number: int) -> TokenExample:
        tensors = self._tensors
        _, *ends, num_tokens, _, _ = tensors["examples"][number].tolist()
        begins = tensors["examples"][number - 1, 1:4].tolist() if number else [0, 0, 0]
        (first_prompt, first_completion, first_letter), (last_prompt, last_completion, last_letter) = begins, ends
        prompts = [self._prompt(n) for n in tensors["example_prompts"][first_prompt:last_prompt].tolist()]
        first, last = np.searchsorted(self._given_on[:, 0], [number, number + 1])
        given_on = {k: self._prompt(prompt) for _, k, prompt in self._given_on[first:last].tolist()}
        bounds = tensors["completion_ends"][first_completion:last_completion].tolist()
        begin = int(tensors["completion_ends"][first_completion - 1]) if first_completion else 0
        completions = [
            tensors["completion_ids"][a:b].astype(np.int64) for a, b in zip([begin, *bounds[:-1]], bounds, strict=True)
        ]
        start = int(self.starts_E[number])
        own = ((given_on.get(k, prompts[0]), ids) for k, ids in enumerate(completions))
        cells = [*own, *((other, completions[0]) for other in prompts[1:])]
        sequences = tuple(
            prompt.with_completion(ids, self.keys_QB[start + index].tobytes())
            for index, (prompt, ids) in enumerate(cells)
        )
        name = tensors["ids"][first_letter:last_letter].tobytes().decode("utf-8", "surrogatepass")
        return TokenExample(name, sequences, len(completions), float(tensors["weights"][number]), num_tokens)

    def _prompt(self, number: int) -> TokenPrompt:
        tensors = self._tensors
        ends = tensors["prompt_ends"]
        bounds = zip(ends[number - 1].tolist() if number else [0] * 4, ends[number].tolist(), strict=True)
        text, runs_R4, blocks_L3, packed = (tensors[n][a:b] for n, (a, b) in zip(OF_PROMPTS, bounds, strict=True))
        count = len(text) + int(runs_R4[:, 1].sum())
        unit_T, index_T, block_T = np.full((3, count), -1, np.int64)
        ids_T = np.full(count, self._family.placeholder or 0, np.int64)
        for start, length, unit, index in runs_R4.tolist():
            unit_T[start : start + length] = unit
            index_T[start : start + length] = np.arange(index, index + length)
        ids_T[unit_T < 0] = text
        symbols_T = symbols_of(ids_T, unit_T, index_T)
        for block, (start, end, block_name) in enumerate(blocks_L3.tolist()):
            block_T[start:end] = block
            symbols_T[start:end] = block_symbols(block_name, end - start)
        positions_AT = _unpacked(packed.tobytes(), self._family, count + 1)
        return TokenPrompt(symbols_T, ids_T, positions_AT, block_T, unit_T, index_T, number, key=b"")


class _TableCatalogue(Catalogue):
    """The prompts and units of a table, to be read only."""

    def __init__(self, tensors: Tensors) -> None:
        self._ends, self._records, self._rows = tensors["record_ends"], tensors["records"], tensors["units"]
        self._num_unit_tokens = int(self._rows[:, 2].sum())

    def prompt(self, number: int) -> Prompt:
        """A prompt."""
        begin = int(self._ends[number - 1]) if number else 0
        return decode(Prompt, self._records[begin : int(self._ends[number])].tobytes().decode())

    def unit(self, number: int) -> Unit:
        """A unit."""
        return Unit(*self._rows[number].tolist())

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return len(self._rows)

    @property
    def num_unit_tokens(self) -> int:
        """Placeholders of all units."""
        return self._num_unit_tokens


def keys_by_id(path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Each example's id and the keys of its sequences, of a file of examples; ValueError or OSError for another one."""
    tensors, _ = read_tensors(path)
    prompt_end = completion_end = letter_end = start = 0
    for _, prompts, completions, letters, *_ in tensors["examples"].tolist():
        count = (prompts - prompt_end) + (completions - completion_end) - 1
        name = tensors["ids"][letter_end:letters].tobytes().decode("utf-8", "surrogatepass")
        yield name, [tensors["keys"][start + index].tobytes() for index in range(count)]
        prompt_end, completion_end, letter_end, start = prompts, completions, letters, start + count
