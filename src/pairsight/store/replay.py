"""Between a ledger and its journal: rows as records, and records as rows again. Applying one twice changes nothing.

Records: `results` (items with their results), `attempt` (a paid call as its row is, with its raw answer if it has one)
and `retry` (items whose results were forgotten). Each names its items by key, stage and name, so that an empty ledger
can take it.
"""

import json
import math
import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from pairsight.errors import RunError
from pairsight.store.durable import cannot_write, name_aside, sync_folder
from pairsight.store.encoding import has_checksum, row_checksum, text_checksum
from pairsight.store.journal import Gap, Journal, Record, journal_files, last_record, read_journal

_ATTEMPT: Mapping[str, str] = {
    "id": "i", "item": "i", "endpoint": "t", "model": "t", "sent_s": "n", "ended_s": "n?", "outcome": "t",
    "http_status": "i?", "detail": "t", "finish_reason": "t", "estimated_tokens": "i", "prompt_tokens": "i?",
    "completion_tokens": "i?", "cost": "n?", "checksum": "i",
}  # fmt: skip
"""Columns of a paid call: whole number, number or text, or (?) null."""
_HALF = re.compile("[\ud800-\udfff]")
_ROWS_AT_ONCE = 256
_DONE = 5
"""Fields of a row of a `results` record that is done; one that failed has more."""


# rows as records ----------------------------------------------------------------------------------------------------


def results_record(
    db: sqlite3.Connection, results: Sequence[Sequence[Any]], payloads: Iterable[tuple[int, str]]
) -> tuple[dict[str, Any], bytes]:
    """The record of rows of `results` that were committed together, and the payloads of those that are done.

    Its rows: item, key, stage (as its position in `stages`), name, parser version; of one that failed also reason,
    detail and whether it may be retried. Payloads, which are JSON and so have no line breaks, are lines in their order.
    """
    named, texts, stages, rows = _named(db, [row[0] for row in results]), dict(payloads), dict[str, int](), []
    lines = []
    for row in results:
        item = row[0]
        if item in named:
            key, stage, name = named[item]
            first = (item, key, stages.setdefault(stage, len(stages)), name, row[5])
            if row[1] == 1:
                rows.append(first)
                lines.append(texts.get(item, ""))
            else:
                rows.append((*first, *row[2:5]))
    about = {"kind": "results", "at_s": results[0][8] if results else 0, "stages": list(stages), "rows": rows}
    return about, "\n".join(lines).encode()


def attempt_record(db: sqlite3.Connection, attempt: int) -> dict[str, Any]:
    """The record of a paid call as its row is now."""
    *row, key, stage, name = db.execute(
        f"SELECT {', '.join(f'a.{column}' for column in _ATTEMPT)}, i.key, s.name, i.name FROM attempts a "  # noqa: S608
        "LEFT JOIN items i ON i.id = a.item LEFT JOIN stages s ON s.id = i.stage WHERE a.id = ?",
        (attempt,),
    ).fetchone()
    return {"kind": "attempt", "named": () if stage is None else (key.hex(), stage, name), "row": row}


def retry_record(db: sqlite3.Connection, items: Sequence[int], attempts: Sequence[int]) -> dict[str, Any]:
    """The record of items whose results were just forgotten, and of calls whose answers were set aside."""
    keys = [key for key, _, _ in _named(db, items).values()]
    return {"kind": "retry", "at_s": time.time(), "keys": keys, "attempts": list(attempts)}


def renew_journal(db: sqlite3.Connection, folder: Path) -> None:
    """Write the journal again from all that a ledger holds and has its checksum; complete or absent.

    Args:
        db: the ledger.
        folder: the journal's; an earlier journal stays beside it as `journal.damaged`.

    Raises:
        RunError: the disk is full or failed.
    """
    draft = folder.with_name(f".journal.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    _copy(db, Journal(draft))
    try:
        if folder.is_dir() and any(folder.iterdir()):
            folder.rename(name_aside(folder))
        if draft.is_dir():
            draft.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from None


def _copy(db: sqlite3.Connection, journal: Journal) -> None:
    rows = db.execute("SELECT r.*, l.payload FROM results r LEFT JOIN payloads l ON l.item = r.item ORDER BY r.item")
    intact = (r for r in rows if row_checksum(*r[:7]) == r[7] and (r[1] != 1 or has_checksum(r[9], r[6])))
    for _, together in groupby(intact, key=lambda row: row[8]):
        while some := list(islice(together, _ROWS_AT_ONCE)):
            journal.append(*results_record(db, some, ((row[0], row[9] or "") for row in some)))
    ids = [attempt for (attempt,) in db.execute("SELECT id FROM attempts ORDER BY id")]
    for attempt in ids:
        raw = db.execute("SELECT raw FROM answers WHERE attempt = ?", (attempt,)).fetchone()
        journal.append(attempt_record(db, attempt), b"" if raw is None else _bytes(raw[0]))
    journal.close()


def raw_answers_missing(db: sqlite3.Connection, folder: Path) -> list[str]:
    """The names of items with raw answers that the ledger holds and its journal, in `folder`, does not."""
    kept = db.execute(
        "SELECT a.id, a.checksum, i.name FROM attempts a JOIN items i ON i.id = a.item "
        "WHERE a.outcome IN ('answered', 'set_aside') AND a.checksum != 0 ORDER BY a.id"
    ).fetchall()  # before the journal is read, which has an answer earlier than the ledger
    held = dict[int, int]()
    for record in _records(folder) if kept else ():
        if record.about.get("kind") == "attempt" and record.raw:
            row = dict(zip(_ATTEMPT, record.about["row"], strict=True))
            held[row["id"]] = row["checksum"]
    return [name for attempt, checksum, name in kept if held.get(attempt) != checksum]


def forgotten_keys(folder: Path) -> set[str]:
    """Keys in hex of all items whose results were forgotten, so that they would be made again; some were, since."""
    kinds = (record.about for record in _records(folder))
    return {key for about in kinds if about.get("kind") == "retry" for key in about["keys"]}


# what a record may hold ---------------------------------------------------------------------------------------------


def foreign_records(files: Iterable[Path]) -> list[str]:
    """One line for each file of a journal with intact records that are not as this version writes them."""
    counts = Counter(
        file for file in files for record in read_journal(file) if isinstance(record, Record) and not _is_ours(record)
    )
    return [f"{file}: {count} of its records are not as this version writes them" for file, count in counts.items()]


def _records(folder: Path) -> Iterator[Record]:
    """The records of a journal that are as this version writes them."""
    for found in chain.from_iterable(map(read_journal, journal_files(folder))):
        if isinstance(found, Record) and _is_ours(found):
            yield found


def _is_ours(record: Record) -> bool:
    """Whether a record's values have the types that `results_record`, `attempt_record` and `retry_record` give them.

    A record of a kind that is not known is a later version's, and is left alone.
    """
    about = record.about
    try:
        if about["kind"] == "results":
            rows, stages = about["rows"], about["stages"]
            num_done = sum(len(row) == _DONE for row in rows)
            return (
                _are("n", [about["at_s"]])
                and _are("t" * len(stages), stages)
                and all(_is_result(row, stages) for row in rows)
                and (not num_done or record.raw.decode().count("\n") == num_done - 1)
            )
        if about["kind"] == "attempt":
            named, row = about["named"], about["row"]
            kinds = list(_ATTEMPT.values())
            return _are(kinds, row) and (not named or (_are("ttt", named) and bool(bytes.fromhex(named[0]))))
        if about["kind"] == "retry":
            keys, attempts = about["keys"], about["attempts"]
            ours = _are("n", [about["at_s"]]) and _are("t" * len(keys), keys) and _are("i" * len(attempts), attempts)
            return ours and all(map(bytes.fromhex, keys))
    except (KeyError, TypeError, ValueError):
        return False
    return isinstance(about["kind"], str)


def _is_result(row: Any, stages: Sequence[str]) -> bool:
    """Whether a row of a `results` record is done (item, key, stage, name, parser) or failed (and why)."""
    kinds = ["i", "t", "i", "t", "i", *(() if len(row) == _DONE else ("t", "t", "i"))]
    return _are(kinds, row) and 0 <= row[2] < len(stages) and bool(bytes.fromhex(row[1]))


def _are(kinds: Sequence[str], values: Any) -> bool:
    """Whether a list has values of these kinds, as `_ATTEMPT` has them; numbers are those that SQLite can hold."""
    if not isinstance(values, list) or len(values) != len(kinds):
        return False
    for kind, value in zip(kinds, values, strict=True):
        if value is None:
            fits = kind.endswith("?")
        elif kind[0] == "t":
            fits = isinstance(value, str) and not _HALF.search(value)
        elif isinstance(value, int):
            fits = -(2**63) <= value < 2**63
        else:
            fits = kind[0] == "n" and isinstance(value, float) and math.isfinite(value)
        if not fits:
            return False
    return True


# records as rows ----------------------------------------------------------------------------------------------------


def catch_up(db: sqlite3.Connection, folder: Path) -> int:
    """Bring a ledger up to its journal, where a crash or a lost write-ahead log left it behind; records applied.

    Files are applied whose last record the ledger does not hold: none in a run that was closed in order, which costs
    one look at the end of the last file.

    Raises:
        RunError: a record is not as this version writes it.
    """
    behind: list[Path] = []
    for file in reversed(journal_files(folder)):
        last = last_record(file)
        if last is not None and _is_ours(last) and _holds(db, last):
            break
        behind.insert(0, file)
    if foreign := foreign_records(behind):
        raise RunError(
            f"{foreign[0]}: if a later version of Pairsight did, upgrade; if not, "
            f"`pairsight salvage {folder.parent}` rebuilds the ledger without them"
        )
    return replay(db, chain.from_iterable(map(read_journal, behind)))


def replay(db: sqlite3.Connection, records: Iterable[Record | Gap]) -> int:
    """Apply records in order to a ledger, inside the caller's transaction; what it holds that is newer stays.

    Records that are not as this version writes them are left out: `foreign_records` names them.
    """
    count = 0
    for record in records:
        if isinstance(record, Gap) or not _is_ours(record):
            continue
        count += 1
        about = record.about
        if about["kind"] == "results":
            payloads = iter(record.raw.decode().split("\n"))
            for row in about["rows"]:
                apply_result(db, about, row, next(payloads) if len(row) == _DONE else "")
        elif about["kind"] == "attempt":
            _apply_attempt(db, about, record.raw)
        elif about["kind"] == "retry":
            _apply_retry(db, about)
    return count


def _holds(db: sqlite3.Connection, record: Record) -> bool:
    """Whether the ledger knows of a record (by its last row)."""
    about = record.about
    if about.get("kind") == "attempt":
        row = dict(zip(_ATTEMPT, about["row"], strict=True))
        found = db.execute("SELECT ended_s, outcome FROM attempts WHERE id = ?", (row["id"],)).fetchone()
        return found is not None and (row["ended_s"] is None or found[0] is not None)
    if about.get("kind") == "results":
        last = about["rows"][-1][:1] if about["rows"] else ()
        found = db.execute("SELECT committed_s FROM results WHERE item = ?", last).fetchone() if last else (0,)
        return found is not None and _is_as_new(found[0], about["at_s"])
    return about.get("kind") == "retry" and not _forgotten(db, about)


def apply_result(db: sqlite3.Connection, about: Any, row: Sequence[Any], payload: str) -> bool:
    """Apply a row of a `results` record, unless the ledger has a result of its item that is as new; says whether.

    Args:
        db: the ledger, inside the caller's transaction.
        about: the record: `stages` and `at_s`.
        row: as `results_record` makes it; without an item's number, the item gets a new one.
        payload: the result as JSON; empty where it failed.
    """
    old, key, stage, name, parser, *failure = row
    item, committed = _item(db, old, key, about["stages"][stage], name), about["at_s"]
    found = db.execute("SELECT committed_s FROM results WHERE item = ?", (item,)).fetchone()
    if found is not None and _is_as_new(found[0], committed):
        return False
    db.execute("DELETE FROM payloads WHERE item = ?", (item,))
    values = (item, 2, *failure, parser, 0) if failure else (item, 1, "", "", 0, parser, text_checksum(payload))
    if not failure:
        db.execute("INSERT INTO payloads VALUES (?, ?)", (item, payload))
    checked = (*values, row_checksum(*values), committed)
    db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", checked)
    return True


def _is_as_new(committed_s: object, at_s: float) -> bool:
    """Whether a result that the ledger holds is not older than a record; a time that is not a number is."""
    return isinstance(committed_s, int | float) and committed_s >= at_s


def _apply_attempt(db: sqlite3.Connection, about: Any, raw: bytes) -> None:
    row = dict(zip(_ATTEMPT, about["row"], strict=True))
    if not about["named"]:  # a call without an item: the ledger was damaged when this was written
        return
    row["item"] = _item(db, row["item"], *about["named"])
    attempt, has_answer = row["id"], row["outcome"] in ("answered", "set_aside")
    found = db.execute("SELECT ended_s FROM attempts WHERE id = ?", (attempt,)).fetchone()
    kept = db.execute("SELECT 1 FROM answers WHERE attempt = ?", (attempt,)).fetchone()
    if found is None or not _is_as_new(found[0] or 0, row["ended_s"] or 0) or (has_answer and kept is None):
        marks = ", ".join("?" * len(_ATTEMPT))
        db.execute(f"INSERT OR REPLACE INTO attempts ({', '.join(_ATTEMPT)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
        if has_answer:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (attempt, as_kept(raw)))


def _apply_retry(db: sqlite3.Connection, about: Any) -> None:
    forgotten = [(item,) for item in _forgotten(db, about)]
    db.executemany("DELETE FROM results WHERE item = ?", forgotten)
    db.executemany("DELETE FROM payloads WHERE item = ?", forgotten)
    db.executemany("UPDATE attempts SET outcome = 'set_aside' WHERE id = ?", [(one,) for one in about["attempts"]])


def _forgotten(db: sqlite3.Connection, about: Any) -> list[int]:
    """Items whose results a `retry` record forgot and that are still there."""
    query = "SELECT r.item FROM items i JOIN results r ON r.item = i.id WHERE i.key = ? AND r.committed_s < ?"
    found = (db.execute(query, (bytes.fromhex(key), about["at_s"])).fetchone() for key in about["keys"])
    return [row[0] for row in found if row is not None]


def _item(db: sqlite3.Connection, old: int | None, key: str, stage: str, name: str) -> int:
    """The row of an item, made (with its old number, if that is free) where it is lost."""
    db.execute("INSERT INTO stages (name) VALUES (?) ON CONFLICT DO NOTHING", (stage,))
    (stage_id,) = db.execute("SELECT id FROM stages WHERE name = ?", (stage,)).fetchone()
    data = bytes.fromhex(key)
    found = db.execute("SELECT id, stage FROM items WHERE key = ?", (data,)).fetchone()
    if found is not None:
        if found[1] != stage_id:
            db.execute("UPDATE items SET stage = ? WHERE id = ?", (stage_id, found[0]))
        return int(found[0])
    taken = db.execute("SELECT 1 FROM items WHERE id = ?", (old,)).fetchone()
    row = (None if taken else old, stage_id, data, name)
    return int(db.execute("INSERT INTO items (id, stage, key, name) VALUES (?, ?, ?, ?)", row).lastrowid or 0)


def as_kept(raw: bytes) -> str | bytes:
    """Bytes as `answers` holds them: as text, if that loses nothing, also in SQLite's own functions.

    SQLite's functions end a text at a zero byte.
    """
    try:
        return raw if b"\0" in raw else raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _bytes(raw: str | bytes) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw


def _named(db: sqlite3.Connection, items: Sequence[int]) -> dict[int, tuple[str, str, str]]:
    """item -> (key in hex, stage, name)."""
    stages = dict(db.execute("SELECT id, name FROM stages"))
    if len(items) == 1:  # a paid call, whose results come one by one
        rows = db.execute("SELECT id, key, stage, name FROM items WHERE id = ?", (items[0],))
    else:
        query = "SELECT id, key, stage, name FROM items WHERE id IN (SELECT value FROM json_each(?))"
        rows = db.execute(query, (json.dumps(items),))
    return {item: (key.hex(), stages[stage], name) for item, key, stage, name in rows if stage in stages}
