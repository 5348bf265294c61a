"""Finished tables as Parquet: `data/<name>-00000.parquet`… and `data/manifest.json`, complete or absent.

Sealing the same rows twice gives the same bytes. The manifest is written last, so a table it names is complete.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pairsight.bounded import read_json
from pairsight.errors import RunError, one_line
from pairsight.store.durable import cannot_write, file_sha256, publish, remove_temporaries, temporary_path, write_file
from pairsight.store.lock import folder_lock

if TYPE_CHECKING:
    import pyarrow as pa


ROWS_PER_SHARD = 100_000
ROWS_PER_GROUP = 1_000
MOST_UNPACKED, MOST_UNPACKED_BYTES = 1_000, 256 << 20
"""A sealed file that unpacks to more than both, times its size and in bytes, was not written here: every row of ours
has an id of its own, which does not compress so far (ours)."""
BYTES_PER_ROW = 64
"""What a row takes in memory at least (ours)."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a sealed table."""

    file: str
    rows: int
    sha256: str


class ShardWriter:
    """Writes one table; no more than a group of its rows is in memory.

    Args:
        folder: where the table will be.
        name: the table's name, e.g. "pairs".
        schema: the columns; its metadata is kept.
        rows_per_shard: rows in each file but the last.
    """

    def __init__(self, folder: Path, name: str, schema: "pa.Schema", rows_per_shard: int = ROWS_PER_SHARD) -> None:
        self.name = name
        self._folder = folder
        self._schema = schema
        self._rows_per_shard = rows_per_shard
        self._written: list[tuple[Shard, Path]] = []
        self._writer: Any = None
        self._temporary = folder
        self._held: list[pa.RecordBatch] = []
        self._num_held = self._num_in_shard = 0

    def write(self, batch: "pa.RecordBatch") -> None:
        """Take rows; groups and shards end where they would, whatever the size of the batches.

        Raises:
            RunError: the disk is full or the folder read-only.
        """
        while batch.num_rows:
            room = min(ROWS_PER_GROUP, self._rows_per_shard - self._num_in_shard) - self._num_held
            part = batch.slice(0, room)
            self._held.append(part)
            self._num_held += part.num_rows
            batch = batch.slice(part.num_rows)
            if part.num_rows == room:
                self._write_group()

    def finish(self) -> list[tuple[Shard, Path]]:
        """The shards, each in its temporary file; an empty table has one without rows."""
        if self._held or (self._writer is None and not self._written):
            self._write_group()
        self._finish_shard()
        return self._written

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._temporary.unlink(missing_ok=True)
        for _, temporary in self._written:
            temporary.unlink(missing_ok=True)

    def _write_group(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        group = pa.Table.from_batches(self._held, self._schema).combine_chunks()
        self._held, self._num_held = [], 0
        try:
            if self._writer is None:
                self._temporary = temporary_path(self._folder / self._file)
                self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
            self._writer.write_table(group, row_group_size=ROWS_PER_GROUP)
        except OSError as error:
            raise cannot_write(self._folder / self._file, error) from None
        self._num_in_shard += group.num_rows
        if self._num_in_shard == self._rows_per_shard:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
            shard = Shard(self._file, self._num_in_shard, file_sha256(self._temporary))
        except OSError as error:
            raise cannot_write(self._folder / self._file, error) from None
        self._written.append((shard, self._temporary))
        self._writer, self._num_in_shard = None, 0

    @property
    def _file(self) -> str:
        return f"{self.name}-{len(self._written):05d}.parquet"


MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1


class Sealing:
    """Tables of one folder, written side by side and published together when the block ends. Use it as a context.

    A block that is left by an error changes nothing.

    Args:
        folder: the run's `data` folder (or an evaluation's folder).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: list[ShardWriter] = []
        self._removed: list[str] = []
        self._lock = ExitStack()

    def table(self, name: str, schema: "pa.Schema", rows_per_shard: int = ROWS_PER_SHARD) -> ShardWriter:
        """A table to write rows to, replacing an earlier one of that name; without rows it is sealed empty."""
        self._writers.append(ShardWriter(self._folder, name, schema, rows_per_shard))
        return self._writers[-1]

    def remove(self, name: str) -> None:
        """Remove an earlier table, if there is one."""
        self._removed.append(name)

    def __enter__(self) -> Self:
        self._lock.enter_context(folder_lock(self._folder))
        remove_temporaries(self._folder, "")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            try:
                if kind is None:
                    for writer in self._writers:
                        self._publish(writer)
                    for name in self._removed:
                        self._remove(name)
            finally:
                for writer in self._writers:
                    writer.discard()

    def _publish(self, writer: ShardWriter) -> None:
        """Give a table's files their names, the manifest last; where they are there already, change nothing."""
        folder, name, written = self._folder, writer.name, writer.finish()
        shards = tuple(shard for shard, _ in written)
        tables = _read_manifest(folder)
        if tables.get(name) != shards:
            if tables.pop(name, None) is not None:
                _write_manifest(folder, tables)
            for shard, temporary in written:
                publish(temporary, folder / shard.file)
            _write_manifest(folder, {**tables, name: shards})
        else:
            for shard, temporary in written:
                _restore(temporary, folder / shard.file, shard)
        _unlink_stale(folder, name, shards)

    def _remove(self, name: str) -> None:
        tables = _read_manifest(self._folder)
        if tables.pop(name, None) is not None:
            _write_manifest(self._folder, tables)
        _unlink_stale(self._folder, name, ())


def read_sealed(folder: Path, name: str) -> "pa.Table":
    """The rows of a sealed table, each file verified against the manifest.

    Raises:
        RunError: the table is not there, or a file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.ParquetFile(path).read() for path in verified_files(folder, name)]
    return pa.concat_tables(tables)


def sealed_rows(folder: Path, name: str, columns: "pa.Schema") -> Iterator[dict[str, Any]]:
    """The rows of a sealed table, some columns only, each file verified; a few are in memory at once.

    Args:
        folder: the run's `data` folder.
        name: the table's name, e.g. "dropped".
        columns: those to read, each with its type; every row has a value in each.

    Raises:
        RunError: the table is not there, a file is missing or damaged, or its columns are others than these.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in verified_files(folder, name):
        try:
            with pq.ParquetFile(path) as file:
                found = {field.name: field.type for field in file.schema_arrow}
                for field in columns:
                    if found.get(field.name) != field.type:
                        raise ValueError(f"its column '{field.name}' is {found.get(field.name, 'missing')}")
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=columns.names):
                    if empty := [
                        field.name for field, column in zip(batch.schema, batch, strict=True) if column.null_count
                    ]:
                        raise ValueError(f"its column '{empty[0]}' has rows without a value")
                    yield from batch.to_pylist()
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise RunError(
                f"{path} holds no table '{name}' of Pairsight: {one_line(error)}; run the step that makes it again"
            ) from None


def verified_files(folder: Path, name: str) -> list[Path]:
    """The files of a sealed table, each verified; what `datasets` and other readers may be given."""
    shards = _read_manifest(folder).get(name)
    if shards is None:
        raise RunError(f"{folder / MANIFEST} names no finished table '{name}'; run the step that makes it again")
    for shard in shards:
        problem = damage(folder, shard)
        if problem:
            raise RunError(f"{problem}; run the step that makes it again")
    return [folder / shard.file for shard in shards]


def sealed_tables(folder: Path) -> dict[str, tuple[Shard, ...]]:
    """All finished tables of a folder, by name, as the manifest lists them; none when there is no manifest."""
    return _read_manifest(folder)


def table_rows(folder: Path) -> dict[str, int]:
    """How many rows each finished table of a folder has, by name; none when there is no manifest."""
    return {name: sum(shard.rows for shard in shards) for name, shards in _read_manifest(folder).items()}


def damage(folder: Path, shard: Shard) -> str:
    """What is wrong with a sealed file, in words; empty when nothing is."""
    path = folder / shard.file
    if not path.is_file():
        return f"{path} is missing"
    if file_sha256(path) != shard.sha256:
        return f"{path} is damaged (its SHA-256 is not the manifest's)"
    why = oversized(path, ROWS_PER_SHARD)
    return f"{path} was not written by Pairsight ({why})" if why else ""


def oversized(path: Path, most_rows: int | None = None) -> str:
    """Why a file is not Parquet, or takes far more memory than its bytes, by what it says itself; "" for others.

    Args:
        path: the file.
        most_rows: rows that such a file has at most.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"not Parquet: {one_line(error, 100)}"
    if most_rows is not None and footer.num_rows > most_rows:
        return f"{footer.num_rows} rows, at most {most_rows} are written to one file"
    groups = sum(footer.row_group(index).total_byte_size for index in range(footer.num_row_groups))
    packed, unpacked = path.stat().st_size, max(groups, footer.num_rows * BYTES_PER_ROW)
    if unpacked > MOST_UNPACKED_BYTES and unpacked > MOST_UNPACKED * packed:
        return f"{packed} bytes that say they unpack to {unpacked}"
    return ""


def _restore(temporary: Path, path: Path, shard: Shard) -> None:
    if path.is_file() and file_sha256(path) == shard.sha256:
        temporary.unlink()
    else:
        publish(temporary, path)


def _unlink_stale(folder: Path, name: str, shards: tuple[Shard, ...]) -> None:
    """Remove the files of an earlier table of that name."""
    for path in folder.glob(f"{name}-?????.parquet"):
        if path.name not in {shard.file for shard in shards}:
            path.unlink()


def _read_manifest(folder: Path) -> dict[str, tuple[Shard, ...]]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        if content["schema"] != MANIFEST_SCHEMA:
            raise RunError(f"{path} has schema {content['schema']}, this Pairsight reads {MANIFEST_SCHEMA}: upgrade")
        return {name: tuple(_shard(shard) for shard in shards) for name, shards in content["tables"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            f"{path} is damaged; remove it and run the same command again to write the tables again"
        ) from None


def _shard(plain: dict[str, Any]) -> Shard:
    """One file of a manifest; ValueError or TypeError when it is malformed or not in the manifest's own folder."""
    shard = Shard(**plain)
    if not isinstance(shard.sha256, str) or not isinstance(shard.rows, int) or shard.rows < 0:
        raise ValueError("rows must be a number and sha256 text")
    if not shard.file.endswith(".parquet") or Path(shard.file).name != shard.file or "\0" in shard.file:
        raise ValueError(f"{shard.file!r} is not the name of a table's file")
    return shard


def _write_manifest(folder: Path, tables: dict[str, tuple[Shard, ...]]) -> None:
    plain = {name: [asdict(shard) for shard in shards] for name, shards in sorted(tables.items())}
    text = json.dumps({"schema": MANIFEST_SCHEMA, "tables": plain}, indent=2) + "\n"
    write_file(folder / MANIFEST, text.encode())
