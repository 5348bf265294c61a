"""Rows of Parquet, Arrow (`datasets`' save_to_disk) and CSV files, a few in memory at once."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pairsight.errors import DataError, one_line
from pairsight.formats.rows import Row

_BUFFER = 1 << 20
"""Bytes read at once of a column, which may be all of a large file."""
_TOGETHER = 256
_LONGEST_CELL = 1 << 26
"""Characters of a cell of a CSV file."""


@contextmanager
def open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open; DataError for another file."""
    try:
        with pq.ParquetFile(file, buffer_size=_BUFFER) as table:
            yield table
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:  # damaged bytes raise any of these
        raise DataError(f"{file} cannot be read as Parquet: {one_line(error)}", "bad_parquet") from None


def parquet_rows(file: Path, names: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, those of the columns that it has; `names` None: all columns."""
    with open_parquet(file) as table:
        known = table.schema_arrow.names
        columns = known if names is None else [name for name in names if name in known]
        yield from _numbered(file, table.iter_batches(batch_size=_TOGETHER, columns=columns))


def arrow_rows(file: Path) -> Iterator[Row]:
    """The rows of an Arrow file, in the stream form that `datasets` writes or in the file form."""
    try:
        with pa.memory_map(str(file)) as source:
            try:
                batches: Iterator[pa.RecordBatch] = iter(pa.ipc.open_stream(source))
            except pa.ArrowInvalid:
                source.seek(0)
                table = pa.ipc.open_file(source)
                batches = (table.get_batch(number) for number in range(table.num_record_batches))
            yield from _numbered(file, batches)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise DataError(f"{file} cannot be read as Arrow: {one_line(error)}", "bad_arrow") from None


def _numbered(file: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    number, said = 0, set[str]()
    for batch in batches:
        for start in range(0, batch.num_rows, _TOGETHER):
            for values in batch.slice(start, _TOGETHER).to_pylist():
                number += 1
                yield Row(f"{file} row {number}", number, values, said)


def csv_rows(file: Path) -> Iterator[Row | DataError]:
    """The rows of a comma- or tab-separated file with a header; a cell that is a JSON list or object is read as such.

    Raises:
        DataError: the file is not UTF-8, has no header, or breaks the rules of CSV: what follows cannot be known.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    said = set[str]()
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            header = next(reader, None)
            if not header or not any(header):
                raise DataError(f"{file} is empty: a header line and rows are needed", "empty_file")
            if len(set(header)) != len(header):
                raise DataError(f"{file} line 1 names a column twice: {', '.join(header)}", "duplicate_key")
            for number, cells in enumerate((cells for cells in reader if cells), start=1):
                location = f"{file} line {reader.line_num} (row {number})"
                if len(cells) != len(header):
                    yield DataError(f"{location} has {len(cells)} cells for {len(header)} columns", "wrong_type")
                else:
                    yield Row(location, number, dict(zip(header, map(_cell, cells), strict=True)), said)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start})", "bad_text") from None
    except (csv.Error, OSError) as error:
        raise DataError(f"{file} cannot be read as CSV: {one_line(error)}", "bad_csv") from None


def _cell(text: str) -> object:
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
