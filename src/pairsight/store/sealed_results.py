"""The results of a ledger as a sealed table, from which `salvage` rebuilds them when ledger and journal are both lost.

A row is one item: its key, what a person calls it, and its result as the ledger holds it. Raw answers of paid calls are
not in it: what was parsed from them is. It lies in `data` beside the tables for people, and is not a data set.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsight.errors import RunError, one_line
from pairsight.store.encoding import has_checksum, row_checksum
from pairsight.store.ledger import Ledger
from pairsight.store.replay import apply_result
from pairsight.store.sealed import ROWS_PER_GROUP, Sealing, damage, sealed_tables

TABLE = "ledger"
SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("key", pa.binary(32)),
        ("name", pa.string()),
        ("parser_version", pa.int32()),
        ("done", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("retryable", pa.bool_()),
        ("payload", pa.string()),
    ]
)
"""`payload` is the record as JSON, empty where the item failed; `reason` and `detail` are empty where it is done."""
_DONE = 1


def seal_results(folder: Path, ledger: Ledger) -> None:
    """Write the table of everything that a ledger holds, in the order of stages and keys.

    Args:
        folder: the `data` folder beside the ledger.
        ledger: the ledger.

    Raises:
        RunError: the disk is full or the folder read-only, or a result is damaged.
    """
    found = ledger.read(
        "SELECT r.item FROM results r JOIN items i ON i.id = r.item JOIN stages s ON s.id = i.stage "
        "ORDER BY s.name, i.key",
        (),
    )
    with Sealing(folder) as sealing:
        table = sealing.table(TABLE, SCHEMA)
        for batch in _batches(ledger, [item for (item,) in found]):
            table.write(batch)


def results_of_plans(ledger: Ledger, plans: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """The table's rows of some plans, each item once, in the order of the plans.

    Equal builds so give equal bytes, whatever else their ledgers hold.

    Args:
        ledger: the ledger.
        plans: their numbers; read when the first row is asked for.

    Raises:
        RunError: a result is damaged.
    """
    yield from _batches(ledger, _planned(ledger, plans))


def _planned(ledger: Ledger, plans: Sequence[int]) -> Iterator[int]:
    """The items of plans, each once."""
    ((last,),) = ledger.read("SELECT coalesce(max(id), 0) FROM items", ())
    seen = bytearray(last + 1)
    query = "SELECT item FROM plan_items WHERE plan = ? AND position >= ? AND position < ? ORDER BY position"
    for plan in plans:
        for start in range(0, ledger.length(plan), ROWS_PER_GROUP):
            for (item,) in ledger.read(query, (plan, start, start + ROWS_PER_GROUP)):
                if not seen[item]:
                    seen[item] = 1
                    yield item


def _batches(ledger: Ledger, items: Iterable[int]) -> Iterator[pa.RecordBatch]:
    query = (
        "SELECT s.name, i.key, i.name, r.*, l.payload FROM json_each(?) e JOIN results r ON r.item = e.value "
        "JOIN items i ON i.id = r.item JOIN stages s ON s.id = i.stage LEFT JOIN payloads l ON l.item = r.item "
        "ORDER BY e.key"
    )
    source = iter(items)
    while some := list(islice(source, ROWS_PER_GROUP)):
        rows = [_row(ledger, *row) for row in ledger.read(query, (json.dumps(some),))]
        try:
            batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
        except (pa.ArrowException, OverflowError) as error:
            raise ledger.broken(error) from None
        yield batch


def _row(ledger: Ledger, stage: str, key: bytes, name: str, *result: Any) -> dict[str, object]:
    item, status, reason, detail, retryable, parser_version, payload_checksum, checksum, _, payload = result
    done = status == _DONE
    if row_checksum(*result[:7]) != checksum or (done and not has_checksum(payload, payload_checksum)):
        raise ledger.damaged(item)
    return {
        "stage": stage,
        "key": key,
        "name": name,
        "parser_version": parser_version,
        "done": done,
        "reason": reason,
        "detail": detail,
        "retryable": bool(retryable),
        "payload": payload if done else "",
    }


def restore_results(db: sqlite3.Connection, folder: Path, forgotten: Collection[str] = ()) -> tuple[int, list[str]]:
    """Give a rebuilt ledger, inside the caller's transaction, the sealed results that it lacks.

    Args:
        db: the rebuilt ledger.
        folder: the `data` folder beside it.
        forgotten: keys in hex of items whose results were forgotten on purpose since, to be made again.

    Returns:
        How many results were given, and one line for each file that could not be read, or not to its end.
    """
    count, problems, skipped = 0, [], frozenset(forgotten)
    try:
        shards = sealed_tables(folder).get(TABLE, ())
    except RunError as error:
        return 0, [str(error)]
    for shard in shards:
        if problem := damage(folder, shard):
            problems.append(problem)
            continue
        try:
            for key, stage, name, parser, failure, payload in _rows(folder / shard.file):
                if key not in skipped:
                    row = (None, key, 0, name, parser, *failure)
                    count += apply_result(db, {"stages": [stage], "at_s": 0.0}, row, payload)
        except (pa.ArrowException, OSError, ValueError) as error:
            problems.append(f"{folder / shard.file} is not a table of results: {one_line(error)}")
    return count, problems


def _rows(file: Path) -> Iterator[tuple[str, str, str, int, tuple[str, str, int] | tuple[()], str]]:
    """Key in hex, stage, name, parser version, why it failed, and payload of each row; ValueError for other rows."""
    with pq.ParquetFile(file) as table:
        if table.schema_arrow != SCHEMA:
            raise ValueError(f"its columns are {', '.join(table.schema_arrow.names)}")
        for batch in table.iter_batches(ROWS_PER_GROUP):
            for row in batch.to_pylist():
                if None in row.values() or "\n" in row["payload"]:  # payloads are lines in the journal
                    raise ValueError(f"the result of item '{row['name']}' was not written by Pairsight")
                failure = () if row["done"] else (row["reason"], row["detail"], int(row["retryable"]))
                yield row["key"].hex(), row["stage"], row["name"], row["parser_version"], failure, row["payload"]
