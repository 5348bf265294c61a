"""Files that rows are written to, one row at a time: JSON, JSON Lines, CSV, Parquet, and what `datasets` saves.

Each file is written under its final name in a folder that nobody knows yet; whoever made the folder gives it its name.
"""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pairsight.errors import DataError, one_line
from pairsight.formats.containers import Values
from pairsight.formats.tables import IMAGE, with_features

Container = Literal["jsonl", "json", "csv", "parquet", "save_to_disk"]
_BREAKS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""Characters that some readers of lines take for the end of one; JSON allows them, as it does their escapes."""
_TOGETHER = 256
_MOST_BYTES = 64 << 20
"""Rows, or bytes of images, that are in memory before they are written."""


class RowSchema:
    """The columns and types of rows, learnt from the rows themselves: the first pass of tables, which need it.

    Args:
        title: what a message calls the rows.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._waiting: list[Values] = []
        self._schema: pa.Schema | None = None

    def add(self, row: Values) -> None:
        """Take a row's columns into account."""
        self._waiting.append(row)
        if len(self._waiting) == _TOGETHER:
            self._unify()

    def schema(self) -> pa.Schema:
        """Of all rows; columns of images are marked as such for `datasets`."""
        self._unify()
        found = self._schema or pa.schema([])
        return with_features(pa.schema([pa.field(one.name, _filled(one.type)) for one in found]))

    def _unify(self) -> None:
        if not self._waiting:
            return
        names = dict.fromkeys(name for row in self._waiting for name in row)
        columns = {name: pa.array([row.get(name) for row in self._waiting]).type for name in names}
        new = pa.schema(list(columns.items()))
        try:
            known = self._schema or new
            self._schema = pa.unify_schemas([known, new], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"the rows of {self._title} do not fit into one table: {one_line(error)}; write --container jsonl",
                "format",
            ) from None
        self._waiting = []


def _filled(kind: pa.DataType) -> pa.DataType:
    """The type, with text in place of what is empty in every row."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_filled(kind.value_type))
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        return IMAGE if names == {"bytes", "path"} else pa.struct([(one.name, _filled(one.type)) for one in kind])
    return kind


class Sink(ABC):
    """Takes rows; a context manager that finishes the file."""

    needs_schema: ClassVar[bool] = False
    holds_bytes: ClassVar[bool] = False
    holds_lists: ClassVar[bool] = True

    @classmethod
    def refusal(cls, row: Values) -> str:
        """Why such a row cannot be written to this kind of file; "" where it can."""
        if not cls.holds_bytes and _has_bytes(row):
            return "it holds no bytes of images: --images-as copy writes them as files beside it"
        nested = [name for name, value in row.items() if isinstance(value, Mapping | list | tuple)]
        if not cls.holds_lists and nested:
            return f"it holds texts and numbers only, and '{nested[0]}' is a list or an object"
        like_json = [] if cls.holds_lists else [name for name, value in row.items() if _is_json(value)]
        return f"the text in '{like_json[0]}' would be read as a list or an object" if like_json else ""

    @abstractmethod
    def write(self, row: Values) -> None:
        """Take the next row."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()


def _is_json(value: object) -> bool:
    """Whether readers of CSV take a text for a list or an object."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return False
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _has_bytes(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_bytes, value.values()))
    return any(map(_has_bytes, value)) if isinstance(value, list | tuple) else isinstance(value, bytes)


class JsonLines(Sink):
    """One object a line."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, row: Values) -> None:
        """See `Sink`."""
        self._file.write(_json(row) + "\n")

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class JsonList(Sink):
    """One list of objects, an object a line."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._before = "[\n"

    def write(self, row: Values) -> None:
        """See `Sink`."""
        self._file.write(self._before + _json(row))
        self._before = ",\n"

    def close(self) -> None:
        """See `Sink`."""
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")
        self._file.close()


def _json(row: Values) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    for character, escape in _BREAKS.items():
        text = text.replace(character, escape)
    return text


class Csv(Sink):
    """Comma-separated values with a header, quoted where needed."""

    needs_schema = True
    holds_lists = False

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._file, schema.names, restval="")
        self._rows.writeheader()

    def write(self, row: Values) -> None:
        """See `Sink`."""
        self._rows.writerow(row)

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class _Table(Sink):
    """Rows that are written many together."""

    needs_schema = True
    holds_bytes = True

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[Values] = []
        self._num_bytes = 0
        self._open(path)

    def write(self, row: Values) -> None:
        """See `Sink`."""
        self._rows.append(row)
        self._num_bytes += _num_bytes(row)
        if len(self._rows) == _TOGETHER or self._num_bytes >= _MOST_BYTES:
            self._flush()

    def close(self) -> None:
        """See `Sink`."""
        self._flush()
        self._finish()

    def _flush(self) -> None:
        if self._rows:
            self._put(pa.RecordBatch.from_pylist(self._rows, self._schema))
            self._rows, self._num_bytes = [], 0

    @abstractmethod
    def _open(self, path: Path) -> None: ...

    @abstractmethod
    def _put(self, batch: pa.RecordBatch) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...


def _num_bytes(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_num_bytes, value))
    return len(value) if isinstance(value, bytes | str) else 8


class Parquet(_Table):
    """A Parquet file, a group of rows at a time."""

    _writer: pq.ParquetWriter

    def _open(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def _put(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def _finish(self) -> None:
        self._writer.close()


class SavedToDisk(_Table):
    """A folder as `datasets`' `save_to_disk` leaves it, for `load_from_disk`."""

    _folder: Path
    _files: ExitStack
    _stream: pa.ipc.RecordBatchStreamWriter
    _NAME = "data-00000-of-00001.arrow"

    def _open(self, path: Path) -> None:
        self._folder, self._files = path, ExitStack()
        file: IO[bytes] = self._files.enter_context((path / self._NAME).open("wb"))
        self._stream = self._files.enter_context(pa.ipc.new_stream(file, self._schema))

    def _put(self, batch: pa.RecordBatch) -> None:
        self._stream.write_batch(batch)

    def _finish(self) -> None:
        self._files.close()
        info = json.loads(self._schema.metadata[b"huggingface"])["info"]
        state: Values = {
            "_data_files": [{"filename": self._NAME}], "_fingerprint": "pairsight", "_format_columns": None,
            "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None,
        }  # fmt: skip
        (self._folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
        (self._folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


SINKS: Mapping[Container, type[JsonLines | JsonList | Csv | Parquet | SavedToDisk]] = {
    "jsonl": JsonLines, "json": JsonList, "csv": Csv, "parquet": Parquet, "save_to_disk": SavedToDisk,
}  # fmt: skip
SUFFIXES: Mapping[str, Container] = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""By which suffix of a file's name a container is known; what `datasets` saves is a folder."""


def sink(container: Container, path: Path, schema: pa.Schema) -> Sink:
    """A file (or, for `save_to_disk`, an existing folder) to write rows to."""
    return SINKS[container](path, schema)
