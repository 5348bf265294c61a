"""Records of tables, made when they are asked for: sequences that hold a few thousand rows, whatever their length."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from pairsight.errors import DataError, one_line
from pairsight.images.source import WithImages, cache_folder
from pairsight.records import Candidates, from_json, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record = TypeVar("Record")
RECORD_SCHEMA = pa.schema([("record", pa.string())])


class Records(Sequence[Record], Generic[Record]):
    """Records that are made when they are asked for, from the JSON that each has in a table."""

    @abstractmethod
    def record(self, number: int) -> Record:
        """The record of a number from 0; DataError naming file and row where it holds none."""

    @abstractmethod
    def text(self, number: int) -> str:
        """The JSON of the record of a number from 0; it is not checked."""

    def texts(self) -> Iterator[str]:
        """The JSON of all records, in order."""
        return map(self.text, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Part[Record]": ...
    def __getitem__(self, index: int | slice) -> "Record | Part[Record]":
        chosen = range(len(self))[index]
        return Part(self, chosen) if isinstance(chosen, range) else self.record(chosen)

    def __iter__(self) -> Iterator[Record]:
        return map(self.record, range(len(self)))


def record_batches(records: Iterable[object]) -> Iterator[pa.RecordBatch]:
    """Records as the rows of a table, with schema `RECORD_SCHEMA`, a few at a time."""
    waiting = map(to_json, records)
    while texts := list(islice(waiting, ROWS_TOGETHER)):
        yield pa.record_batch([texts], schema=RECORD_SCHEMA)


def record_texts(records: Iterable[object]) -> Iterator[str]:
    """Each record as JSON, as `to_json` gives it; those of a table are not made for it."""
    found = records.items if isinstance(records, WithImages) else records
    return found.texts() if isinstance(found, Records) else map(to_json, found)


class Part(Records[Record]):
    """Some records of a sequence by number, in the order of the numbers."""

    def __init__(self, records: Sequence[Record], numbers: "Sequence[int] | NDArray[np.int64]") -> None:
        self._records, self._numbers = records, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def record(self, number: int) -> Record:
        """See `Records`."""
        return self._records[int(self._numbers[number])]

    def text(self, number: int) -> str:
        """See `Records`."""
        records, own = self._records, int(self._numbers[number])
        return records.text(own) if isinstance(records, Records) else to_json(records[own])


ROWS_TOGETHER = 1_000
"""Rows of a table of records that are written and read together."""
MOST_TOGETHER = 10 * ROWS_TOGETHER
"""A foreign table with more rows together is copied before its records are used one by one (ours)."""
_GROUPS_KEPT = 4


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that are read together: of which file, and how many of its rows and of all records come before."""

    file: Path | IO[bytes]
    index: int
    rows_before: int
    records_before: int


class RecordTable(Records[Record]):
    """The records of Parquet files; a few thousand rows are in memory, whatever their number.

    Going through it reads each group of rows once; a single record takes its group, and the last groups are kept.

    Args:
        kind: the records' class.
        files: Parquet files, in order, whose column `record` has one record as JSON a row.
        sparse: rows without a value hold no record, as in a table of pairs with several rejected completions.
        named: a column whose value errors add to the row's number.

    Raises:
        DataError: a file that is not Parquet, or has no such column.
    """

    def __init__(
        self, kind: type[Record], files: Sequence[Path | IO[bytes]], *, sparse: bool = False, named: str = ""
    ) -> None:
        self._kind, self._sparse, self._named = kind, sparse, named
        self._open: tuple[Path | IO[bytes], pq.ParquetFile] | None = None
        self._kept: dict[int, list[tuple[int, str]]] = {}
        self._groups: list[_Group] = []
        self._num_records = 0
        for file in files:
            rows = 0
            for index, count in enumerate(self._counts(file)):
                group = _Group(file, index, rows, self._num_records)
                self._groups.append(group)
                rows += count
                self._num_records += len(self._rows(group)) if sparse else count
        self._starts = [group.records_before for group in self._groups]

    def __len__(self) -> int:
        return self._num_records

    def __iter__(self) -> Iterator[Record]:
        for group in self._groups:
            for row, text in self._rows(group):
                yield self._made(group, row, text)

    def texts(self) -> Iterator[str]:
        """See `Records`."""
        return (text for group in self._groups for _, text in self._rows(group))

    def record(self, number: int) -> Record:
        """See `Records`."""
        return self._made(*self._found(number))

    def text(self, number: int) -> str:
        """See `Records`."""
        return self._found(number)[2]

    def values(self, column: str) -> Iterator[Any]:
        """What another column of the table has in the row of each record, in order: to filter and sort by."""
        for group in self._groups:
            rows, values = self._rows(group), self._column(group, column)
            yield from (values[row - group.rows_before - 1] for row, _ in rows)

    def _found(self, number: int) -> tuple[_Group, int, str]:
        """The group, row and text of a record."""
        index = bisect_right(self._starts, number) - 1
        if index not in self._kept:
            while len(self._kept) >= _GROUPS_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[index] = self._rows(self._groups[index])
        group = self._groups[index]
        return group, *self._kept[index][number - group.records_before]

    def _made(self, group: _Group, row: int, text: str) -> Record:
        try:
            return from_json(self._kind, text, "")
        except DataError as error:
            raise DataError(f"{self._location(group, row)}{error}", error.reason) from None

    def _location(self, group: _Group, row: int) -> str:
        where = f"{group.file} row {row}"
        if self._named:
            value = self._column(group, self._named)[row - group.rows_before - 1]
            where += f" (id '{value}')"
        return where

    def _rows(self, group: _Group) -> list[tuple[int, str]]:
        """(number in the file, from 1, and text) of each record of a group."""
        rows = enumerate(self._column(group, "record"), start=group.rows_before + 1)
        return [(row, text or "") for row, text in rows if text is not None or not self._sparse]

    def _column(self, group: _Group, name: str) -> list[Any]:
        with self._reading(group.file):
            column: list[Any] = (
                self._table(group.file)
                .read_row_group(group.index, columns=[name], use_threads=False)
                .column(0)
                .to_pylist()
            )
        return column

    def _counts(self, file: Path | IO[bytes]) -> list[int]:
        """How many rows each group of a file has."""
        with self._reading(file):
            table = self._table(file)
            if (kind := table.schema_arrow.field("record").type) != pa.string():
                raise ValueError(f"'record' must be text, found {kind}")
            footer = table.metadata
            return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]

    def _table(self, file: Path | IO[bytes]) -> pq.ParquetFile:
        """The file, open; the one that was read last stays open."""
        if self._open is None or self._open[0] is not file:
            self._open = (file, pq.ParquetFile(file))
        return self._open[1]

    @contextmanager
    def _reading(self, file: Path | IO[bytes]) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:  # damaged bytes raise any of these
            raise DataError(f"{file} holds no {self._kind.__name__}: {one_line(error)}", "bad_parquet") from None


class Spool(Generic[Record]):
    """Takes records one by one, for many that no table holds yet, and gives them back as a table.

    They are in a file without a name in the user's cache folder, which goes when nobody reads it any more.

    Args:
        kind: the records' class.
    """

    def __init__(self, kind: type[Record]) -> None:
        self._kind = kind
        self._texts: list[str] = []
        self._file: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, record: Record) -> None:
        """Keep a record; DataError where the disk takes no more."""
        self._texts.append(to_json(record))
        if len(self._texts) == ROWS_TOGETHER:
            self._write()

    def table(self) -> RecordTable[Record]:
        """All records, in the order in which they came; the last call."""
        if self._texts:
            self._write()
        if self._file is None or self._writer is None:
            return RecordTable(self._kind, [])
        with _spooling():
            self._writer.close()
            self._file.flush()
        return RecordTable(self._kind, [self._file])

    def _write(self) -> None:
        with _spooling():
            if self._file is None or self._writer is None:
                cache_folder().mkdir(parents=True, exist_ok=True)
                self._file = TemporaryFile(dir=cache_folder())  # noqa: SIM115 - the table keeps it open
                self._writer = pq.ParquetWriter(self._file, RECORD_SCHEMA, compression="zstd")
            self._writer.write_batch(pa.record_batch([self._texts], schema=RECORD_SCHEMA))
        self._texts = []


@contextmanager
def _spooling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{cache_folder()} cannot hold the records that are read: {error.strerror}") from None


def spooled(kind: type[Record], records: Iterable[Record]) -> RecordTable[Record]:
    """Records of one class, written to a `Spool` as they come."""
    spool = Spool(kind)
    for record in records:
        spool.add(record)
    return spool.table()


def read_candidates(files: Sequence[Path]) -> RecordTable[Candidates]:
    """The candidates of Parquet files that `candidates_batches` filled; DataError for any other file."""
    return RecordTable(Candidates, files)
