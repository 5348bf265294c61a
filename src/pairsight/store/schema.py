"""The ledger's tables, and how its file is opened: one writer, readers beside it, newer versions refused."""

import os
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from pairsight.errors import RunError, one_line
from pairsight.store.journal import journal_files
from pairsight.store.lock import refuse_other_writer

SCHEMA_VERSION = 1
JOURNAL_MARK = int.from_bytes(b"PSJ1", "big")
"""SQLite's `application_id` of a ledger that has had a journal since; in one of an earlier version it is 0."""
DATABASE_ERRORS = (sqlite3.Error, UnicodeError)
"""What `sqlite3` raises on damage: its own errors, and texts that are not UTF-8."""
_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"

TABLES = """
CREATE TABLE stages (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
-- one row per item ever planned; key = SHA-256 of what determines its result, name = what a person calls it
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    stage INTEGER NOT NULL REFERENCES stages (id),
    key BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL
);
-- the n-th time that this run gives a stage its items; expected is NULL when their number is not known beforehand
CREATE TABLE plans (
    id INTEGER PRIMARY KEY,
    stage INTEGER NOT NULL REFERENCES stages (id),
    call INTEGER NOT NULL,
    expected INTEGER,
    complete INTEGER NOT NULL DEFAULT 0,
    UNIQUE (stage, call)
);
CREATE TABLE plan_items (
    plan INTEGER NOT NULL REFERENCES plans (id),
    position INTEGER NOT NULL,
    item INTEGER NOT NULL REFERENCES items (id),
    PRIMARY KEY (plan, position)
) WITHOUT ROWID;
-- narrow, so that planning a resumed run reads little; status 1 = done, 2 = failed; checksums as in checksums.py
CREATE TABLE results (
    item INTEGER PRIMARY KEY REFERENCES items (id),
    status INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    retryable INTEGER NOT NULL DEFAULT 0,
    parser_version INTEGER NOT NULL DEFAULT 0,
    payload_checksum INTEGER NOT NULL DEFAULT 0,
    checksum INTEGER NOT NULL,
    committed_s REAL NOT NULL
);
CREATE TABLE payloads (
    item INTEGER PRIMARY KEY REFERENCES items (id),
    payload TEXT NOT NULL
);
-- paid calls: the row is committed before sending; the raw answer and its usage before parsing.
-- outcome: sent, answered, set_aside (answered, but asked again), refused (an error answer, or never reached: not
-- charged), lost (no answer came), echoed_key (answered, but the answer held the key and is not kept).
-- cost: estimated until answered, 0 when refused; checksum = CRC-32 of the raw answer's bytes, which `answers` holds as
-- TEXT where they are UTF-8, else as BLOB; detail = replaced_text where an answer is not all Unicode
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES items (id),
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    sent_s REAL NOT NULL,
    ended_s REAL,
    outcome TEXT NOT NULL,
    http_status INTEGER,
    detail TEXT NOT NULL DEFAULT '',
    finish_reason TEXT NOT NULL DEFAULT '',
    estimated_tokens INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost REAL,
    checksum INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX attempts_by_item ON attempts (item);
CREATE TABLE answers (
    attempt INTEGER PRIMARY KEY REFERENCES attempts (id),
    raw TEXT NOT NULL
);
"""


def open_for_writing(path: Path, *, rebuilt: bool = False) -> sqlite3.Connection:
    """The one writing connection of a ledger; made if it is not there and its folder shows no trace of an earlier one.

    Args:
        path: the ledger.
        rebuilt: make it whatever its folder holds, to rebuild a lost one.

    Raises:
        RunError: it cannot be written, is lost or damaged, or belongs to a newer version.
    """
    if not rebuilt:
        _refuse_lost(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
    except (*DATABASE_ERRORS, OSError) as error:
        raise _unusable(path, error) from None
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and (rebuilt or not traces(path)):
            numbers = f"PRAGMA application_id = {JOURNAL_MARK}; PRAGMA user_version = {SCHEMA_VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE; {TABLES} {numbers} COMMIT;")
        _check(connection, path)
    except DATABASE_ERRORS as error:
        connection.close()
        raise _unusable(path, error) from None
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A reading connection, which never disturbs the writer.

    Raises:
        RunError: there is no ledger, it is damaged, or belongs to a newer version.
    """
    refuse_other_writer(path.parent)
    _refuse_lost(path)
    if not path.is_file():
        raise RunError(f"there is no ledger {path}; build the run first")
    # a folder that nobody writes and that has no write-ahead log needs no shared-memory file beside the ledger
    log = path.with_name(path.name + "-wal")
    unwritten = not os.access(path.parent, os.W_OK) and not (log.is_file() and log.stat().st_size)
    mode = "immutable=1" if unwritten else "mode=ro"
    try:
        uri = f"{path.absolute().as_uri()}?{mode}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30.0, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        _check(connection, path)
    except DATABASE_ERRORS as error:
        raise _unusable(path, error) from None
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a ledger of another version, or whose tables are not ours."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        connection.close()
        newer, salvage = "it was made by a newer Pairsight: upgrade", f"`pairsight salvage {path.parent}` rebuilds it"
        advice = newer if version > SCHEMA_VERSION else salvage
        raise RunError(f"{path} has ledger version {version}, this Pairsight reads {SCHEMA_VERSION}; {advice}")
    check_tables(connection)
    for table in ("stages", "plans"):  # small, and read by every command; the others are checked by `status --verify`
        if count := count_mistyped(connection, table):
            raise sqlite3.DatabaseError(f"{count} of the rows of {table} hold values of another type")
    # SQLite itself does not notice a last page that is cut; with a write-ahead log the file may be shorter
    ((pages,), (size,)) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    log = path.with_name(path.name + "-wal")
    if not (log.is_file() and log.stat().st_size) and path.stat().st_size < pages * size:
        raise sqlite3.DatabaseError("the file is shorter than its pages")


def has_mark(connection: sqlite3.Connection) -> bool:
    """Whether a ledger says that there is a journal beside it."""
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == JOURNAL_MARK)


def traces(path: Path) -> list[str]:
    """Files beside a ledger that are written only after it exists: with them, a missing ledger is a lost one."""
    named = [name for name in ("run.yaml", "manifest.json", "data/manifest.json") if (path.parent / name).exists()]
    return [*named, *(["journal"] if journal_files(path.parent / "journal") else [])]


def _refuse_lost(path: Path) -> None:
    is_file = path.is_file()
    if (not is_file or path.stat().st_size == 0) and (beside := traces(path)):
        what = "is empty" if is_file else "is missing"
        raise RunError(
            f"the ledger {path} {what}, though {beside[0]} beside it says that there was one; "
            f"`pairsight salvage {path.parent}` rebuilds it from its journal and sealed tables, so that what they "
            f"hold is not bought or made again"
        )


def check_tables(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` when the tables are not described as ours are."""
    if connection.execute(_SCHEMA).fetchall() != _expected_schema():
        raise sqlite3.DatabaseError("the description of its tables is damaged")


def count_mistyped(connection: sqlite3.Connection, table: str) -> int:
    """How many rows of a table hold a value of another type than their column has; SQLite itself allows any."""
    query = f"SELECT count(*) FROM {table} WHERE {mistyped(connection, table)}"  # noqa: S608 - our own names
    return int(connection.execute(query).fetchone()[0])


def mistyped(connection: sqlite3.Connection, table: str) -> str:
    """The SQL condition of such a row."""
    conditions = []
    for _, name, declared, required, _, _ in connection.execute(f"PRAGMA table_info({table})"):
        allowed = _TYPES[declared] + ("" if required else ", 'null'") + (", 'blob'" if name == "raw" else "")
        conditions.append(f"typeof({name}) NOT IN ({allowed})")
    return " OR ".join(conditions)


_TYPES = {"INTEGER": "'integer'", "REAL": "'real', 'integer'", "TEXT": "'text'", "BLOB": "'blob'"}


@cache
def _expected_schema() -> list[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as blank:
        blank.executescript(TABLES)
        return blank.execute(_SCHEMA).fetchall()


def _unusable(path: Path, error: Exception) -> RunError:
    what = one_line(error)
    return RunError(
        f"cannot use the ledger {path}: {what}; if it is damaged, `pairsight salvage {path.parent}` rebuilds it "
        f"(`pairsight status {path.parent} --verify` says what is damaged)"
    )
