"""Paid calls in the ledger: a row before each is sent, the raw answer with its usage before it is parsed.

A raw answer is kept as the bytes that came: as TEXT where they are UTF-8 (what `raw` holds, encoded, is what came), as
BLOB where they are not. Its checksum is of these bytes. `detail` marks an answer whose text had to be changed to be
Unicode; an answer that held the key is not kept, its attempt has the outcome `echoed_key`.
"""

import sqlite3
import time
from dataclasses import dataclass

from pairsight.errors import one_line
from pairsight.store.encoding import text_checksum
from pairsight.store.ledger import Ledger
from pairsight.store.replay import as_kept, attempt_record

REPLACED_TEXT = "replaced_text"
"""Marks an answer with bytes or escapes that are not Unicode; U+FFFD replaces them when it is read."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used, as far as the server says: tokens, and cost by the price table."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a stage, or a run, has used so far. Calls of unknown outcome count with their estimated cost.

    `echoed_keys` are answers that were not kept because they held the key, `replaced_texts` those with U+FFFD instead
    of what is not Unicode.
    """

    calls: int
    cost: float
    prompt_tokens: int
    completion_tokens: int
    unknown_outcomes: int
    unknown_cost: float
    echoed_keys: int = 0
    replaced_texts: int = 0


@dataclass(frozen=True, slots=True)
class ServerCalls:
    """What one server was sent, over all times a stage was started, and how much of that it answered."""

    url: str
    calls: int
    answered: int


@dataclass(frozen=True, slots=True)
class UnknownOutcome:
    """A call that may have been charged without an answer that we hold."""

    stage: str
    item: str
    endpoint: str
    model: str
    sent_s: float
    estimated_cost: float | None
    detail: str


class Attempts:
    """The attempts table of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def begin(self, item: int, endpoint: str, model: str, estimated_tokens: int, estimated_cost: float | None) -> int:
        """Note, durably, that a call is about to be sent; returns the attempt's number."""
        with self._ledger.transaction() as db:
            cursor = db.execute(
                "INSERT INTO attempts (item, endpoint, model, sent_s, outcome, estimated_tokens, cost) "
                "VALUES (?, ?, ?, ?, 'sent', ?, ?)",
                (item, endpoint, model, time.time(), estimated_tokens, estimated_cost),
            )
            attempt = int(cursor.lastrowid or 0)
            self._ledger.journal.append(attempt_record(db, attempt))
        return attempt

    def answered(
        self, attempt: int, raw: bytes, http_status: int, finish_reason: str, usage: Usage, *, mark: str = ""
    ) -> None:
        """Keep a raw answer, durably, before anything is read from it that could fail.

        Args:
            attempt: its number, from `begin`.
            raw: the body's bytes, after decompression.
            http_status: as the server said.
            finish_reason: why the answer ended, as the server said.
            usage: what it used, as far as the server said.
            mark: `REPLACED_TEXT`, or nothing.
        """
        with self._ledger.transaction() as db:
            self._used(db, attempt, "answered", http_status, usage, detail=mark)
            db.execute(
                "UPDATE attempts SET checksum = ?, finish_reason = ? WHERE id = ?",
                (text_checksum(raw), finish_reason, attempt),
            )
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (attempt, as_kept(raw)))
            self._ledger.journal.append(attempt_record(db, attempt), raw, durably=True)

    def echoed_key(self, attempt: int, http_status: int, usage: Usage, detail: str) -> None:
        """An answer came that held the key: it is not kept, but what it used is."""
        with self._ledger.transaction() as db:
            self._used(db, attempt, "echoed_key", http_status, usage, detail=detail)
            self._ledger.journal.append(attempt_record(db, attempt))

    def refused(self, attempt: int, http_status: int | None, detail: str) -> None:
        """The server said no, or was never reached: nothing was charged."""
        self._end(attempt, "refused", http_status, detail)

    def lost(self, attempt: int, detail: str) -> None:
        """Sent, but the answer never came: it may have been charged."""
        self._end(attempt, "lost", None, detail)

    def raw_answer(self, item: int) -> str | None:
        """The latest raw answer kept for an item, unless it was set aside by a retry; U+FFFD where it is not UTF-8."""
        rows = self._ledger.read(
            "SELECT w.raw FROM attempts a JOIN answers w ON w.attempt = a.id "
            "WHERE a.item = ? AND a.outcome = 'answered' ORDER BY a.id DESC LIMIT 1",
            (item,),
        )
        return as_unicode(rows[0][0]) if rows else None

    def spent(self, stage: str | None = None) -> Spent:
        """What the run, or one stage, has used, over all times it was started."""
        (row,) = self._ledger.read(
            "SELECT count(*), coalesce(sum(a.cost), 0.0), coalesce(sum(a.prompt_tokens), 0), "
            "coalesce(sum(a.completion_tokens), 0), coalesce(sum(a.outcome IN ('sent', 'lost')), 0), "
            "coalesce(sum(CASE WHEN a.outcome IN ('sent', 'lost') THEN a.cost END), 0.0), "
            "coalesce(sum(a.outcome = 'echoed_key'), 0), coalesce(sum(a.detail = ?2), 0) FROM attempts a "
            "JOIN items i ON i.id = a.item JOIN stages s ON s.id = i.stage WHERE ?1 IS NULL OR s.name = ?1",
            (stage, REPLACED_TEXT),
        )
        return Spent(*row)

    def spent_by_stage(self) -> dict[str, Spent]:
        """`spent` of each stage that has made calls, by name."""
        stages = self._ledger.read(
            "SELECT DISTINCT s.name FROM attempts a JOIN items i ON i.id = a.item JOIN stages s ON s.id = i.stage "
            "ORDER BY s.id",
            (),
        )
        return {name: spent for (name,) in stages if (spent := self.spent(name)).calls}

    def by_server(self, stage: str) -> tuple[ServerCalls, ...]:
        """The calls of a stage by the URL they were posted to, in order of first use."""
        rows = self._ledger.read(
            "SELECT a.endpoint, count(*), sum(a.outcome IN ('answered', 'set_aside')) FROM attempts a "
            "JOIN items i ON i.id = a.item JOIN stages s ON s.id = i.stage WHERE s.name = ? "
            "GROUP BY a.endpoint ORDER BY min(a.id)",
            (stage,),
        )
        return tuple(ServerCalls(one_line(url), calls, answered) for url, calls, answered in rows)

    def unknown_outcomes(self) -> list[UnknownOutcome]:
        """All calls that may have been charged without an answer that we hold: the process or the connection died."""
        rows = self._ledger.read(
            "SELECT s.name, i.name, a.endpoint, a.model, a.sent_s, a.cost, a.detail FROM attempts a JOIN items i "
            "ON i.id = a.item JOIN stages s ON s.id = i.stage WHERE a.outcome IN ('sent', 'lost') ORDER BY a.id",
            (),
        )
        if any(not isinstance(row[4], int | float) or not isinstance(row[5], int | float | None) for row in rows):
            raise self._ledger.broken(TypeError("calls hold values of another type"))
        return [UnknownOutcome(*row) for row in rows]

    def _used(
        self, db: sqlite3.Connection, attempt: int, outcome: str, http_status: int, usage: Usage, *, detail: str
    ) -> None:
        db.execute(
            "UPDATE attempts SET outcome = ?, ended_s = ?, http_status = ?, prompt_tokens = ?, completion_tokens = ?, "
            "cost = coalesce(?, cost), detail = ? WHERE id = ?",
            (
                outcome, time.time(), http_status, usage.prompt_tokens, usage.completion_tokens, usage.cost, detail,
                attempt,
            ),
        )  # fmt: skip

    def _end(self, attempt: int, outcome: str, http_status: int | None, detail: str) -> None:
        with self._ledger.transaction() as db:
            db.execute(
                "UPDATE attempts SET outcome = ?1, ended_s = ?2, http_status = ?3, detail = ?4, "
                "cost = CASE ?1 WHEN 'refused' THEN 0 ELSE cost END WHERE id = ?5",
                (outcome, time.time(), http_status, detail, attempt),
            )
            self._ledger.journal.append(attempt_record(db, attempt))


def as_unicode(raw: str | bytes) -> str:
    """The text of a raw answer as it is kept, with U+FFFD for bytes that are not UTF-8."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
