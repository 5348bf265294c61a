"""What a person may do to a run's ledgers: have failures tried again, or rebuild what is damaged."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pairsight.errors import RunError, one_line
from pairsight.store.durable import name_aside, publish, temporary_path
from pairsight.store.encoding import row_checksum, text_checksum
from pairsight.store.journal import journal_files, journal_problems, read_journal
from pairsight.store.ledger import Ledger
from pairsight.store.replay import foreign_records, forgotten_keys, raw_answers_missing, renew_journal, replay
from pairsight.store.run_folder import RunFolder
from pairsight.store.schema import (
    DATABASE_ERRORS,
    SCHEMA_VERSION,
    check_tables,
    mistyped,
    open_for_reading,
    open_for_writing,
)
from pairsight.store.status import phases
from pairsight.store.verify import check_journal, check_ledger

_COPIED = ("stages", "items", "results", "payloads", "attempts", "answers")
"""Plans are made again by the next run."""
PAGE = 4096
"""Bytes a page of a ledger, which is SQLite's own choice."""
ROWS_AT_ONCE = 4096
SMALLEST_ROW = 16
"""Bytes (ours): bounds the number of rows where SQLite can no longer say it."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """One ledger after salvage.

    Args:
        ledger: the file.
        what: "intact", "rebuilt", or "journal rewritten" where only its journal was damaged.
        damaged: where the old file is now; None when there was none or it was intact.
        num_kept: results.
        num_lost: results that were found damaged and are to be made again.
        num_answers: raw answers of paid calls.
        unreadable: why nothing of the old file could be read.
        num_sealed: results that were left in sealed tables only, which hold no raw answers and no calls.
        problems: sealed tables that could not be read, or not to their end, and why.
    """

    ledger: Path
    what: str
    damaged: Path | None
    num_kept: int
    num_lost: int
    num_answers: int
    unreadable: str = ""
    num_sealed: int = 0
    problems: tuple[str, ...] = ()


def retry_run(path: str | Path, stage: str | None = None, reason: str | None = None) -> int:
    """Forget failures, so that running the same command again tries these items; returns how many.

    Args:
        path: the run's folder.
        stage: only of this stage.
        reason: only failed for this reason.

    Raises:
        RunError: no run, a process holds it (LockedError), or an unknown stage.
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
    """Rebuild lost or damaged ledgers from rows that can still be read, journals and sealed tables; runs make the rest.

    A ledger that passes every check stays as it is. A damaged file stays beside the new one as
    `ledger.sqlite.damaged`, a damaged journal as `journal.damaged`. Rows are copied in ranges that are halved around
    what SQLite cannot read (ours), and kept only if their checksum is right.

    Raises:
        RunError: no run, or a process holds it.
    """
    run = RunFolder.open(path)
    salvaged = []
    for phase in phases(run):
        with phase.lock():
            _, problems = check_ledger(phase.ledger)
            salvaged.append(_salvage(phase.ledger) if problems else _intact(phase.ledger))
    return tuple(salvaged)


def _intact(file: Path) -> Salvaged:
    """An intact ledger; its journal is rewritten if that is damaged."""
    damaged, without = check_journal(file)
    problems = [*damaged, *([without] if without else [])]
    with closing(open_for_reading(file)) as db:
        if problems:
            renew_journal(db, file.parent / "journal")
        (num_kept,) = db.execute("SELECT count(*) FROM results").fetchone()
        (num_answers,) = db.execute("SELECT count(*) FROM answers").fetchone()
    return Salvaged(file, "journal rewritten" if problems else "intact", None, num_kept, 0, num_answers)


def _salvage(file: Path) -> Salvaged:
    from pairsight.store.sealed_results import restore_results

    damaged = _set_aside(file) if file.is_file() else None
    temporary, folder = temporary_path(file), file.parent / "journal"
    temporary.unlink(missing_ok=True)
    _, problems = journal_problems(folder)
    problems += foreign_records(journal_files(folder))
    try:
        with closing(open_for_writing(temporary, rebuilt=True)) as new:
            new.create_function("text_checksum", 1, text_checksum, deterministic=True)
            new.create_function("row_checksum", 7, row_checksum, deterministic=True)
            new.execute("BEGIN")
            unreadable = "" if damaged is None else _copy_rows(damaged, new)
            _forget_mistyped(new)
            lost = _forget_damaged(new)
            replay(new, chain.from_iterable(map(read_journal, journal_files(folder))))
            num_sealed, unread = restore_results(new, file.parent / "data", forgotten_keys(folder))
            _forget_dangling(new)
            new.execute("COMMIT")
            kept = {item for (item,) in new.execute("SELECT item FROM results")}
            (num_answers,) = new.execute("SELECT count(*) FROM answers").fetchone()
            if problems or num_sealed or (kept and not journal_files(folder)) or raw_answers_missing(new, folder):
                renew_journal(new, folder)
            new.execute("PRAGMA journal_mode = DELETE")
    except (*DATABASE_ERRORS, OSError) as error:
        raise RunError(f"{file} cannot be rebuilt: {one_line(error)}") from None
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    publish(temporary, file)
    return Salvaged(
        file, "rebuilt", damaged, len(kept), len(lost - kept), num_answers, unreadable, num_sealed, tuple(unread)
    )


def _set_aside(file: Path) -> Path:
    """A durable copy of the damaged ledger and its write-ahead log, under a name not taken yet."""
    damaged = name_aside(file)
    for suffix in ("-wal", ""):
        part = file.with_name(file.name + suffix)
        if part.exists():
            copy = damaged.with_name(damaged.name + suffix)
            shutil.copyfile(part, temporary_path(copy))
            publish(temporary_path(copy), copy)
    return damaged


def _copy_rows(damaged: Path, new: sqlite3.Connection) -> str:
    """Copy the rows that can be read; why none can, or nothing."""
    size, why, num_rows = damaged.stat().st_size, "", 0
    with ExitStack() as opened:
        try:
            old = opened.enter_context(closing(_open_damaged(damaged)))
            check_tables(old)
        except DATABASE_ERRORS as error:
            why = one_line(error)
            _refuse_newer(damaged)
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=damaged.parent, prefix=".salvage-")))
            try:
                old = opened.enter_context(closing(_open_damaged(_with_first_page(damaged, folder))))
                check_tables(old)
            except DATABASE_ERRORS:
                return why
        for table in _COPIED:
            for row in _readable(old, table, size):
                new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
                num_rows += 1
    return "" if num_rows else why


def _open_damaged(file: Path) -> sqlite3.Connection:
    old = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    old.text_factory = lambda data: data.decode(errors="replace")
    old.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that is shorter than it was
    return old


def _refuse_newer(damaged: Path) -> None:
    """A ledger whose first page is intact but of a later version is not damaged."""
    head = damaged.read_bytes()[:100]
    version = int.from_bytes(head[60:64], "big")
    if head.startswith(b"SQLite format 3\0") and SCHEMA_VERSION < version < SCHEMA_VERSION + 100:
        raise RunError(f"{damaged} has ledger version {version}: it was made by a newer Pairsight: upgrade")


def _with_first_page(damaged: Path, folder: Path) -> Path:
    """A copy whose first page, which says where each table begins, is that of a new ledger: all begin alike."""
    blank, copy = folder / "blank.sqlite", folder / "copy.sqlite"
    open_for_writing(blank).close()
    page, data = bytearray(blank.read_bytes()[:PAGE]), damaged.read_bytes()
    page[28:32] = (len(data) // PAGE).to_bytes(4, "big")
    copy.write_bytes(bytes(page) + data[PAGE:])
    return copy


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


def _forget_mistyped(db: sqlite3.Connection) -> None:
    """Remove rows with values of another type than their column has; the journal gives them back."""
    for table in _COPIED:
        db.execute(f"DELETE FROM {table} WHERE {mistyped(db, table)}")  # noqa: S608 - our own names


def _forget_damaged(db: sqlite3.Connection) -> set[int]:
    """Forget results whose payload is missing or damaged, and damaged raw answers; the items of these results."""
    lost = db.execute(
        "DELETE FROM results WHERE checksum != row_checksum(item, status, reason, detail, retryable, parser_version, "
        "payload_checksum) OR (status = 1 AND item NOT IN (SELECT l.item FROM payloads l JOIN results r "
        "ON r.item = l.item WHERE text_checksum(l.payload) = r.payload_checksum)) RETURNING item"
    ).fetchall()
    db.execute(
        "UPDATE attempts SET outcome = 'lost', detail = 'its answer was damaged on disk' "
        "WHERE outcome IN ('answered', 'set_aside') AND id NOT IN "
        "(SELECT w.attempt FROM answers w JOIN attempts a ON a.id = w.attempt WHERE text_checksum(w.raw) = a.checksum)"
    )
    db.execute("DELETE FROM answers WHERE attempt NOT IN (SELECT id FROM attempts WHERE outcome != 'lost')")
    return {item for (item,) in lost}


def _forget_dangling(db: sqlite3.Connection) -> None:
    """Remove rows that belong to no item, as its page is lost and no record names it."""
    db.execute("DELETE FROM items WHERE stage NOT IN (SELECT id FROM stages)")
    for table in ("results", "attempts"):
        db.execute(f"DELETE FROM {table} WHERE item NOT IN (SELECT id FROM items)")  # noqa: S608 - our own names
    db.execute("DELETE FROM payloads WHERE item NOT IN (SELECT item FROM results)")
    db.execute("DELETE FROM answers WHERE attempt NOT IN (SELECT id FROM attempts)")
