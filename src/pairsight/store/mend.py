"""What a person may do to a run's ledgers: have failures tried again, or rebuild what is damaged."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pairsight.errors import RunError
from pairsight.store.checksums import row_checksum, text_checksum
from pairsight.store.durable import publish, temporary_path
from pairsight.store.ledger import Ledger
from pairsight.store.phases import phases
from pairsight.store.run_folder import RunFolder
from pairsight.store.schema import DATABASE_ERRORS, check_tables, open_for_reading, open_for_writing
from pairsight.store.verify import check_ledger

_COPIED = ("stages", "items", "results", "payloads", "attempts", "answers")
"""Plans are made again by the next run."""
ROWS_AT_ONCE = 4096
SMALLEST_ROW = 16
"""Bytes (ours): bounds the number of rows where SQLite can no longer say it."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """One ledger: where its damaged file is now (None: it was intact), results kept, and items to be made again."""

    ledger: Path
    damaged: Path | None
    num_kept: int
    num_lost: int


def retry_run(path: str | Path, stage: str | None = None, reason: str | None = None) -> int:
    """Forget failures, so that running the same command again tries these items; returns how many.

    Args:
        path: the run's folder.
        stage: only of this stage.
        reason: only failed for this reason.

    Raises:
        RunError: no run, a process is at it (LockedError), or an unknown stage.
    """
    run = RunFolder.open(path)
    num_forgotten = 0
    known: set[str] = set()
    with ExitStack() as locks:
        for phase in phases(run):
            locks.enter_context(phase.lock())
        for phase in phases(run):
            with Ledger(phase.ledger) as ledger:
                known.update(name for _, name, _, _ in ledger.plans())
                num_forgotten += ledger.retry(stage, reason)
    if stage is not None and stage not in known:
        raise RunError(f"{run.path} has no stage '{stage}'; it has: {', '.join(sorted(known)) or 'none yet'}")
    return num_forgotten


def salvage_run(path: str | Path) -> tuple[Salvaged, ...]:
    """Rebuild each damaged ledger from all rows that can still be read; what was lost is made again by the next run.

    A ledger that passes every check stays as it is. A damaged file stays beside the new one as
    `ledger.sqlite.damaged`. Rows are copied in ranges that are halved around what SQLite cannot read (ours), and kept
    only if their checksum is right.

    Raises:
        RunError: no run, or a process is at it.
    """
    run = RunFolder.open(path)
    salvaged = []
    for phase in phases(run):
        with phase.lock():
            _, problems = check_ledger(phase.ledger)
            salvaged.append(_salvage(phase.ledger) if problems else _intact(phase.ledger))
    return tuple(salvaged)


def _intact(file: Path) -> Salvaged:
    with closing(open_for_reading(file)) as db:
        (num_kept,) = db.execute("SELECT count(*) FROM results").fetchone()
    return Salvaged(file, None, num_kept, 0)


def _salvage(file: Path) -> Salvaged:
    damaged = _set_aside(file)
    size = damaged.stat().st_size
    temporary = temporary_path(file)
    temporary.unlink(missing_ok=True)
    try:
        with (
            closing(open_for_writing(temporary)) as new,
            closing(sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as old,
        ):
            old.text_factory = lambda data: data.decode(errors="replace")
            check_tables(old)
            new.create_function("text_checksum", 1, text_checksum, deterministic=True)
            new.create_function("row_checksum", 7, row_checksum, deterministic=True)
            new.execute("BEGIN")
            for table in _COPIED:
                for row in _readable(old, table, size):
                    new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
            num_lost = _forget_damaged(new)
            new.execute("COMMIT")
            (num_kept,) = new.execute("SELECT count(*) FROM results").fetchone()
            new.execute("PRAGMA journal_mode = DELETE")
    except DATABASE_ERRORS as error:
        raise RunError(
            f"{file}: nothing can be read ({' '.join(str(error).split())}); restore it, or remove it to begin anew"
        ) from None
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    publish(temporary, file)
    return Salvaged(file, damaged, num_kept, num_lost)


def _set_aside(file: Path) -> Path:
    """A durable copy of the damaged ledger and its write-ahead log, under a name not taken yet."""
    damaged = next(
        name
        for n in count(1)
        if not (name := file.with_name(f"{file.name}.damaged{'' if n == 1 else f'-{n}'}")).exists()
    )
    for suffix in ("-wal", ""):
        part = file.with_name(file.name + suffix)
        if part.exists():
            copy = damaged.with_name(damaged.name + suffix)
            shutil.copyfile(part, temporary_path(copy))
            publish(temporary_path(copy), copy)
    return damaged


def _readable(db: sqlite3.Connection, table: str, size: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a table, around what SQLite cannot read: a range that fails is halved, down to single rows."""
    try:
        (last,) = db.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()  # noqa: S608 - our own names
    except sqlite3.DatabaseError:
        last = size // SMALLEST_ROW
    ranges = [(1, last + 1)]
    while ranges:
        start, stop = ranges.pop()
        if stop - start > ROWS_AT_ONCE:
            ranges += [(middle := (start + stop) // 2, stop), (start, middle)]
            continue
        try:
            query = f"SELECT * FROM {table} WHERE rowid >= ? AND rowid < ?"  # noqa: S608 - our own names
            yield from db.execute(query, (start, stop)).fetchall()
        except sqlite3.DatabaseError:
            if stop - start > 1:
                ranges += [(middle := (start + stop) // 2, stop), (start, middle)]


def _forget_damaged(db: sqlite3.Connection) -> int:
    """Forget results whose payload is missing or damaged, and rows that belong to no item; how many results."""
    lost = db.execute(
        "DELETE FROM results WHERE checksum != row_checksum(item, status, reason, detail, retryable, parser_version, "
        "payload_checksum) OR (status = 1 AND item NOT IN (SELECT l.item FROM payloads l JOIN results r "
        "ON r.item = l.item WHERE text_checksum(l.payload) = r.payload_checksum))"
    ).rowcount
    db.execute(
        "UPDATE attempts SET outcome = 'lost', detail = 'its answer was damaged on disk' "
        "WHERE outcome IN ('answered', 'set_aside') AND id NOT IN "
        "(SELECT w.attempt FROM answers w JOIN attempts a ON a.id = w.attempt WHERE text_checksum(w.raw) = a.checksum)"
    )
    db.execute("DELETE FROM answers WHERE attempt NOT IN (SELECT id FROM attempts WHERE outcome != 'lost')")
    for table in ("results", "attempts"):
        db.execute(f"DELETE FROM {table} WHERE item NOT IN (SELECT id FROM items)")  # noqa: S608 - our own names
    db.execute("DELETE FROM payloads WHERE item NOT IN (SELECT item FROM results)")
    return lost
