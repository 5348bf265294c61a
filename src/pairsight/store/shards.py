"""The rows of one table on their way into Parquet shards: temporary files, cut alike however the rows come."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.store.durable import cannot_write, file_sha256, temporary_path

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_SHARD = 100_000
ROWS_PER_GROUP = 1_000


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
        """Take rows; groups and shards end where they would, however the rows are cut into batches.

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
