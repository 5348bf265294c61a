"""Parts of a table of examples as one: what each counts from zero follows on what the parts before it have.

Shapes: P parts, U image units of a part, L blocks of a part.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pairsight.store.tensors import MadeColumn, Tensors, read_tensors
from pairsight.training.data.table import COLUMNS, EXAMPLE_ENDS, OF_PROMPTS

_COUNTS = {
    "example_prompts": "record_ends",
    "record_ends": "records",
    "completion_ends": "completion_ids",
}
"""Column of numbers -> the column whose length in the parts before is added to them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a table: its columns, and what its records came to.

    Args:
        tensors: the columns.
        skipped: reason -> number of records left out.
        cut: completions shortened.
    """

    tensors: Tensors
    skipped: Counter[str]
    cut: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """A part that `TableWriter` wrote, mapped into memory.

        Raises:
            OSError: it cannot be read.
            ValueError: it is cut short or damaged.
        """
        tensors, notes = read_tensors(path)
        return cls(tensors, Counter(json.loads(str(notes["skipped"]))), int(str(notes["cut"])))


class JoinedParts:
    """The columns and notes of a table that has the examples of several, in order.

    Args:
        parts: units and blocks that they share become one.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = [part.tensors for part in parts]
        skipped = sum((part.skipped for part in parts), Counter[str]())
        self.notes = {"skipped": json.dumps(skipped), "cut": str(sum(part.cut for part in parts))}
        self._units, self._are_new = _numbers([part["unit_names"] for part in self._parts])
        self._blocks, _ = _numbers([part["block_names"] for part in self._parts])
        self._before = {
            name: [0, *accumulate(len(part[name]) for part in self._parts)] for name in self._parts[0]
        }  # the rows of a column in the parts before each

    @property
    def columns(self) -> dict[str, MadeColumn]:
        """The columns of the joined table, made part by part as they are written."""
        return {name: self._column(name, np.dtype(kind), width) for name, (kind, width) in COLUMNS.items()}

    def _column(self, name: str, dtype: np.dtype[Any], width: int) -> MadeColumn:
        rows = sum(int(new.sum()) for new in self._are_new) if name == "units" else self._before[name][-1]

        def chunks() -> Iterator[bytes]:
            for index in range(len(self._parts)):
                yield np.ascontiguousarray(self._rows(name, index), dtype).tobytes()

        return MadeColumn(dtype, (rows, width) if width else (rows,), chunks)

    def _rows(self, name: str, index: int) -> NDArray[Any]:
        """The rows of a column that a part adds."""
        rows: NDArray[Any] = self._parts[index][name]
        before = {column: lengths[index] for column, lengths in self._before.items()}
        if name in _COUNTS:
            rows = rows + before[_COUNTS[name]]
        elif name == "given_on":
            rows = rows + np.array([before["examples"], 0, before["record_ends"]])
        elif name == "units":
            rows = rows[self._are_new[index]] + np.array([before["record_ends"], 0, 0])
        elif name in ("prompt_runs", "prompt_blocks"):
            rows = rows.copy()
            rows[:, 2] = (self._units if name == "prompt_runs" else self._blocks)[index][rows[:, 2]]
        elif name == "prompt_ends":
            rows = rows + np.array([before[column] for column in OF_PROMPTS])
        elif name == "examples":
            rows = rows.copy()
            rows[:, 1:4] += [before[column] for column in EXAMPLE_ENDS]
            seeing = rows[:, 6] >= 0
            rows[seeing, 6] = self._units[index][rows[seeing, 6]]
        return rows


def _numbers(names: Sequence[NDArray[np.uint8]]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.bool_]]]:
    """Of each part, the joined table's numbers of what it names, and which names are not in parts before."""
    known: dict[bytes, int] = {}
    numbers, are_new = [], []
    for rows in names:
        before = len(known)
        found = np.array([known.setdefault(row.tobytes(), len(known)) for row in rows], np.int64)
        numbers.append(found)
        are_new.append(found >= before)
    return numbers, are_new
