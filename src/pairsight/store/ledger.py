"""The ledger: the only truth on what is planned, done and failed. One writer; readers may read while it writes."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pairsight.errors import RunError
from pairsight.records import ItemError
from pairsight.store.encoding import decode, encode, has_checksum, row_checksum, text_checksum
from pairsight.store.journal import Journal, journal_files
from pairsight.store.replay import catch_up, renew_journal, results_record, retry_record
from pairsight.store.schema import DATABASE_ERRORS, JOURNAL_MARK, has_mark, open_for_reading, open_for_writing

Status = Literal["pending", "done", "failed"]
_DONE, _FAILED = 1, 2
_STATUS: Mapping[int | None, Status] = {None: "pending", _DONE: "done", _FAILED: "failed"}


class Entry(NamedTuple):
    """One item to plan: its key (32 bytes) and what a person calls it."""

    key: bytes
    name: str


class Planned(NamedTuple):
    """One planned item: its row in the ledger and its status."""

    item: int
    status: Status
    reason: str = ""
    detail: str = ""
    parser_version: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one item, to be committed: a record, or why there is none."""

    item: int
    result: object | ItemError
    parser_version: int = 0


@dataclass(frozen=True, slots=True)
class ItemState:
    """One item of a plan with its result: `payload` when done; `reason`, `detail`, `retryable` when failed."""

    item: int
    name: str
    status: Status
    payload: str = ""
    reason: str = ""
    detail: str = ""
    retryable: bool = True


class Ledger:
    """The SQLite file of one run (or of one evaluation). Hold the run's lock before opening it for writing.

    What is committed also goes to the journal beside it, from which a lost or damaged ledger is rebuilt.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.journal = Journal(path.parent / "journal")
        self._connection = open_for_reading(path) if read_only else open_for_writing(path)
        if not read_only:
            try:
                self._join_journal()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file; everything committed is already durable."""
        try:
            self.journal.close()
        finally:
            self._connection.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # planning ---------------------------------------------------------------------------------------------------

    def open_plan(self, stage: str, call: int, expected: int | None) -> int:
        """The plan of the `call`-th time (from 0) that this run gives `stage` its items; made if it is new."""
        with self.transaction() as db:
            db.execute("INSERT INTO stages (name) VALUES (?) ON CONFLICT DO NOTHING", (stage,))
            (stage_id,) = db.execute("SELECT id FROM stages WHERE name = ?", (stage,)).fetchone()
            db.execute(
                "INSERT INTO plans (stage, call, expected) VALUES (?, ?, ?) "
                "ON CONFLICT (stage, call) DO UPDATE SET expected = excluded.expected, complete = 0",
                (stage_id, call, expected),
            )
            (plan,) = db.execute("SELECT id FROM plans WHERE stage = ? AND call = ?", (stage_id, call)).fetchone()
        return int(plan)

    def plan(self, plan: int, start: int, entries: Sequence[Entry]) -> list[Planned]:
        """Put `entries` at positions `start`, `start + 1`, … of a plan and return the status of each.

        Entries that the plan already holds at their position cost one sequential read; the others are looked up by
        key, and new ones added.
        """
        found = self._planned_at(plan, start, entries)
        unknown = [position for position, planned in enumerate(found) if planned is None]
        if unknown:
            with self.transaction() as db:
                (stage,) = db.execute("SELECT stage FROM plans WHERE id = ?", (plan,)).fetchone()
                db.executemany(
                    "INSERT INTO items (stage, key, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    [(stage, entries[i].key, entries[i].name) for i in unknown],
                )
                found_now = [(i, self._find(entries[i].key)) for i in unknown]
                db.executemany(
                    "INSERT OR REPLACE INTO plan_items (plan, position, item) VALUES (?, ?, ?)",
                    [(plan, start + i, planned.item) for i, planned in found_now],
                )
            for i, planned in found_now:
                found[i] = planned
        return [planned for planned in found if planned is not None]

    def finish_plan(self, plan: int, length: int) -> None:
        """Say that the plan has exactly `length` items; a longer earlier plan is cut."""
        with self.transaction() as db:
            db.execute("DELETE FROM plan_items WHERE plan = ? AND position >= ?", (plan, length))
            db.execute("UPDATE plans SET complete = 1, expected = ? WHERE id = ?", (length, plan))

    def _planned_at(self, plan: int, start: int, entries: Sequence[Entry]) -> list[Planned | None]:
        """What the plan holds at these positions, None where it is another; a result is checked when read."""
        rows = self.read(
            "SELECT p.position, i.key, i.id, r.status, r.parser_version FROM plan_items p "
            "JOIN items i ON i.id = p.item LEFT JOIN results r ON r.item = p.item "
            "WHERE p.plan = ? AND p.position >= ? AND p.position < ? ORDER BY p.position",
            (plan, start, start + len(entries)),
        )
        found: list[Planned | None] = [None] * len(entries)
        for position, key, item, status, parser_version in rows:
            if not isinstance(position, int) or entries[position - start].key != key:
                continue
            if status is None:
                found[position - start] = Planned(item, "pending")
            elif status == _DONE and isinstance(parser_version, int):
                found[position - start] = Planned(item, "done", "", "", parser_version)
            else:
                found[position - start] = self._find(key)
        return found

    def _find(self, key: bytes) -> Planned:
        ((item, *result),) = self.read(
            "SELECT i.id, r.* FROM items i LEFT JOIN results r ON r.item = i.id WHERE i.key = ?", (key,)
        )
        return self._planned(item, result)

    def _planned(self, item: int, result: Sequence[Any]) -> Planned:
        """An item with its row of `results`, which is all None when it has none."""
        if result[0] is None:
            return Planned(item, "pending")
        _, status, reason, detail, _, parser_version, _, checksum, _ = result
        if row_checksum(*result[:7]) != checksum or status not in _STATUS:
            raise self.damaged(item)
        return Planned(item, _STATUS[status], reason, detail, parser_version)

    # results ----------------------------------------------------------------------------------------------------

    def commit(self, outcomes: Sequence[Outcome], *, synced: bool = True) -> None:
        """Keep results in one commit; a later result of an item replaces its earlier one.

        Args:
            outcomes: the results.
            synced: return only when they are on disk; else the next commit takes them there, as is enough for what is
                read again for free from an answer that is on disk.
        """
        now = time.time()
        results: list[tuple[object, ...]] = []
        payloads: list[tuple[int, str]] = []
        failed: list[tuple[int]] = []
        for outcome in outcomes:
            item, result, parser = outcome.item, outcome.result, outcome.parser_version
            if isinstance(result, ItemError):
                row = (item, _FAILED, result.reason, result.detail, int(result.retryable), parser, 0)
                failed.append((item,))
            else:
                payload = encode(result)
                payloads.append((item, payload))
                row = (item, _DONE, "", "", 0, parser, text_checksum(payload))
            results.append((*row, row_checksum(*row), now))
        with self.transaction(synced=synced) as db:
            db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", results)
            db.executemany("INSERT OR REPLACE INTO payloads VALUES (?, ?)", payloads)
            db.executemany("DELETE FROM payloads WHERE item = ?", failed)
            self.journal.append(*results_record(db, results, payloads))

    def page(self, plan: int, start: int, length: int) -> list[ItemState]:
        """The items at positions `start` … `start + length − 1` of a plan, with their results."""
        rows = self.read(
            "SELECT p.position, p.item, i.name, l.payload, r.* FROM plan_items p "
            "JOIN items i ON i.id = p.item LEFT JOIN results r ON r.item = p.item "
            "LEFT JOIN payloads l ON l.item = p.item "
            "WHERE p.plan = ? AND p.position >= ? AND p.position < ? ORDER BY p.position",
            (plan, start, start + length),
        )
        page: list[ItemState] = []
        for position, item, name, payload, *result in rows:
            if position != start + len(page):
                raise RunError(
                    f"{self.path}: the order of results is damaged; run the same command again to restore it"
                )
            planned = self._planned(item, result)
            if planned.status == "done" and not has_checksum(payload, result[6]):
                raise self.damaged(item)
            page.append(
                ItemState(item, name, planned.status, payload or "", planned.reason, planned.detail, result[4] != 0)
            )
        return page

    def retry(self, stage: str | None = None, reason: str | None = None) -> int:
        """Forget failures, so that the next run tries these items again; returns how many.

        Raw answers of theirs stay in the ledger, but are set aside: the call is made again.

        Args:
            stage: only of this stage.
            reason: only failed for this reason.
        """
        with self.transaction() as db:
            items = db.execute(
                "DELETE FROM results WHERE item IN (SELECT r.item FROM results r JOIN items i ON i.id = r.item "
                "JOIN stages s ON s.id = i.stage WHERE r.status = 2 AND (?1 IS NULL OR s.name = ?1) "
                "AND (?2 IS NULL OR r.reason = ?2)) RETURNING item",
                (stage, reason),
            ).fetchall()
            set_aside = "UPDATE attempts SET outcome = 'set_aside' WHERE outcome = 'answered' AND item = ? RETURNING id"
            attempts = [attempt for item in items for (attempt,) in db.execute(set_aside, item).fetchall()]
            if items:
                self.journal.append(retry_record(db, [item for (item,) in items], attempts), durably=True)
        return len(items)

    def forget(self, items: Sequence[int]) -> None:
        """Forget results, so that the next run makes them again."""
        rows = [(item,) for item in items]
        with self.transaction() as db:
            db.executemany("DELETE FROM results WHERE item = ?", rows)
            db.executemany("DELETE FROM payloads WHERE item = ?", rows)
            self.journal.append(retry_record(db, items, ()), durably=True)

    # looking ----------------------------------------------------------------------------------------------------

    def length(self, plan: int) -> int:
        """How many items a plan has; so far, while it is not complete."""
        ((complete, expected),) = self.read("SELECT complete, expected FROM plans WHERE id = ?", (plan,))
        if complete:
            return int(expected)
        ((count,),) = self.read("SELECT count(*) FROM plan_items WHERE plan = ?", (plan,))
        return int(count)

    def counts(self, plan: int) -> Counter[tuple[Status, str]]:
        """(status, reason) -> number of items of a plan; the reason is empty unless failed."""
        rows = self.read(
            "SELECT r.status, r.reason, count(*) FROM plan_items p LEFT JOIN results r ON r.item = p.item "
            "WHERE p.plan = ? GROUP BY r.status, r.reason",
            (plan,),
        )
        if any(status not in _STATUS or not isinstance(reason, str | None) for status, reason, _ in rows):
            raise self.broken(TypeError("results hold values of another type"))
        return Counter({(_STATUS[status], reason or ""): count for status, reason, count in rows})

    def plans(self) -> list[tuple[int, str, int | None, bool]]:
        """All plans in the order they were first made: (plan, stage, expected number of items, is complete)."""
        rows = self.read(
            "SELECT p.id, s.name, p.expected, p.complete FROM plans p JOIN stages s ON s.id = p.stage ORDER BY p.id", ()
        )
        return [(plan, stage, expected, bool(complete)) for plan, stage, expected, complete in rows]

    def items_per_s(self, stage: str, since_s: float) -> float | None:
        """The speed of a stage over its last thousand commits after a time; None when there is nothing to measure."""
        ((oldest, newest, count),) = self.read(
            "SELECT min(committed_s), max(committed_s), count(*) FROM (SELECT r.committed_s FROM results r "
            "JOIN items i ON i.id = r.item JOIN stages s ON s.id = i.stage WHERE s.name = ? AND r.committed_s >= ? "
            "AND typeof(r.committed_s) = 'real' ORDER BY r.item DESC LIMIT 1000)",
            (stage, since_s),
        )
        return count / (newest - oldest) if count and newest > oldest else None

    # the connection ---------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """All statements inside become durable together, or none does; unless `synced`, only when a later one does.

        Raises:
            RunError: the disk is full or failed, or the file is damaged; what was committed before stays.
        """
        try:
            if not synced:
                self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                if not synced:
                    self._connection.execute("PRAGMA synchronous = FULL")
        except DATABASE_ERRORS as error:
            raise self.broken(error) from None

    def read(self, sql: str, values: Sequence[str | int | float | bytes | None]) -> list[tuple[Any, ...]]:
        """All rows of a query; RunError when the file is damaged."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except DATABASE_ERRORS as error:
            raise self.broken(error) from None

    def _join_journal(self) -> None:
        """Apply what only the journal holds; where there is none, write one of all that the ledger holds."""
        with self.transaction() as db:
            if journal_files(self.journal.folder):
                catch_up(db, self.journal.folder)
            elif db.execute("SELECT 1 FROM results UNION ALL SELECT 1 FROM attempts LIMIT 1").fetchone():
                renew_journal(db, self.journal.folder)
            if not has_mark(db):
                db.execute(f"PRAGMA application_id = {JOURNAL_MARK}")

    def damaged(self, item: int) -> RunError:
        """The error of a result that does not have its checksum."""
        names = self.read("SELECT name FROM items WHERE id = ?", (item,))
        name = names[0][0] if names else item
        return RunError(
            f"{self.path}: the result of item '{name}' is damaged; `pairsight salvage {self.path.parent}` restores it"
        )

    def broken(self, error: Exception) -> RunError:
        """The error of a ledger that cannot be read or written, and what to do."""
        what = " ".join(str(error).split())
        folder = self.path.parent
        return RunError(
            f"ledger {self.path}: {what}; what was committed is kept: fix the cause and run the same command again; if "
            f"the file is damaged (`pairsight status {folder} --verify`), `pairsight salvage {folder}` rebuilds it"
        )


Out = TypeVar("Out")
ROWS_PER_PAGE = 512


class Results(Generic[Out]):
    """One record or `ItemError` per item, in item order; re-iterable, and never all in memory."""

    def __init__(self, ledger: Ledger, plan: int, output: type[Out]) -> None:
        self._ledger = ledger
        self._plan = plan
        self._output = output

    def __len__(self) -> int:
        return self._ledger.length(self._plan)

    def __iter__(self) -> Iterator[Out | ItemError]:
        start, length = 0, len(self)
        while start < length:
            page = self._ledger.page(self._plan, start, min(ROWS_PER_PAGE, length - start))
            if not page:
                raise RunError("results are missing from the ledger; run the same command again to continue")
            for row in page:
                if row.status == "pending":
                    raise RunError(f"item '{row.name}' has no result yet; run the same command again to continue")
                if row.status == "done":
                    yield decode(self._output, row.payload)
                else:
                    yield ItemError(row.reason, row.detail, row.retryable)
            start += len(page)

    def failures(self) -> "Counter[str]":
        """reason -> number of items that failed for it."""
        counts = self._ledger.counts(self._plan)
        return Counter({reason: count for (status, reason), count in counts.items() if status == "failed"})
