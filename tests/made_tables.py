"""Tables in one call: of pairs in memory, and sealed in a folder as the pipeline leaves them."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pairsight.formats.trl import PAIRS_SCHEMA, pair_batches
from pairsight.images.source import ImageSource
from pairsight.records import PreferencePair
from pairsight.store.sealed import ROWS_PER_SHARD, Sealing, Shard, sealed_tables


def pairs_table(pairs: Iterable[PreferencePair], images: ImageSource) -> pa.Table:
    """The table of some pairs, as TRL reads it."""
    return pa.Table.from_batches(pair_batches(pairs, images), PAIRS_SCHEMA)


def seal(
    folder: Path,
    name: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> tuple[Shard, ...]:
    """Seal one table; its files as the manifest lists them."""
    with Sealing(folder) as sealing:
        table = sealing.table(name, schema, rows_per_shard)
        for batch in batches:
            table.write(batch)
    return sealed_tables(folder)[name]
