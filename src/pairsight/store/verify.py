"""Checks everything a run keeps: its ledgers, its blobs and its sealed tables. Reads only; repairs nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pairsight.errors import RunError
from pairsight.store.blobs import is_intact
from pairsight.store.checksums import has_checksum, row_checksum
from pairsight.store.journal import journal_files, journal_problems
from pairsight.store.phases import phases
from pairsight.store.replay import raw_answers_missing
from pairsight.store.run_folder import RunFolder
from pairsight.store.schema import DATABASE_ERRORS, open_for_reading
from pairsight.store.sealed import MANIFEST, damage, sealed_tables


@dataclass(frozen=True, slots=True)
class Verification:
    """How much was checked, and what is wrong: one line a problem."""

    num_results: int
    num_blobs: int
    num_files: int
    problems: tuple[str, ...]


def verify_run(path: str | Path) -> Verification:
    """Read everything that the run keeps and compare it with its checksums; works while the run is going.

    Raises:
        RunError: there is no run, or a newer one.
    """
    run = RunFolder.open(path)
    problems: list[str] = []
    num_results = 0
    for phase in phases(run):
        count, found = check_ledger(phase.ledger)
        num_results += count
        problems += found
        problems += check_journal(phase.ledger)
    blobs = list(run.blobs.files())
    problems += [f"{blob}: damaged, its hash is not the one in its name" for blob in blobs if not is_intact(blob)]
    num_files, found = _check_tables(run.path)
    return Verification(num_results, len(blobs), num_files, (*problems, *found))


def check_ledger(path: Path) -> tuple[int, list[str]]:
    """Number of results and the problems of one ledger: SQLite's own check, then every checksum."""
    try:
        db = open_for_reading(path)
    except RunError as error:
        return 0, [str(error)]
    count, problems = 0, []
    try:
        for (line,) in db.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                problems.append(f"{path}: {' '.join(str(line).split())}")
        for what in _dangling(db):
            problems.append(f"{path}: {what}")
        for name, payload, *row in db.execute(
            "SELECT i.name, l.payload, r.* FROM results r JOIN items i ON i.id = r.item "
            "LEFT JOIN payloads l ON l.item = r.item"
        ):
            count += row[1] == 1
            if row_checksum(*row[:7]) != row[7] or (row[1] == 1 and not has_checksum(payload, row[6])):
                problems.append(f"{path}: the result of item '{name}' is damaged")
        for name, raw, checksum in db.execute(
            "SELECT i.name, w.raw, a.checksum FROM attempts a JOIN items i ON i.id = a.item "
            "LEFT JOIN answers w ON w.attempt = a.id WHERE a.outcome IN ('answered', 'set_aside')"
        ):
            if not has_checksum(raw, checksum):
                problems.append(f"{path}: the raw answer for item '{name}' is damaged")
    except DATABASE_ERRORS as error:
        problems.append(f"{path}: {' '.join(str(error).split())}")
    finally:
        db.close()
    return count, problems


def check_journal(ledger: Path) -> list[str]:
    """The problems of the journal beside a ledger; none where there is no journal, which the next run writes."""
    folder = ledger.parent / "journal"
    if not journal_files(folder):
        return []
    _, problems = journal_problems(folder)
    try:
        with closing(open_for_reading(ledger)) as db:
            missing = raw_answers_missing(db, folder)
    except (RunError, *DATABASE_ERRORS, OSError):  # the ledger's own problems are told by `check_ledger`
        missing = []
    return problems + [f"{folder}: the raw answer for item '{name}' is missing" for name in missing]


def _dangling(db: sqlite3.Connection) -> Iterator[str]:
    for table in ("plan_items", "results", "payloads", "attempts"):
        query = f"SELECT count(*) FROM {table} WHERE item NOT IN (SELECT id FROM items)"  # noqa: S608 - our own names
        (count,) = db.execute(query).fetchone()
        if count:
            yield f"{count} rows of {table} belong to no item"


def _check_tables(run: Path) -> tuple[int, list[str]]:
    count, problems = 0, []
    for manifest in sorted([*run.glob(f"data/{MANIFEST}"), *run.glob(f"evaluate/*/{MANIFEST}")]):
        try:
            tables = sealed_tables(manifest.parent)
        except RunError as error:
            problems.append(str(error))
            continue
        shards = [shard for table in tables.values() for shard in table]
        count += len(shards)
        problems += [problem for shard in shards if (problem := damage(manifest.parent, shard))]
    return count, problems
