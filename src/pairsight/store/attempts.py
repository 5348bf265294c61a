"""Paid calls in the ledger: a row before each is sent, the raw answer with its usage before it is parsed."""

import time
from dataclasses import dataclass

from pairsight.store.checksums import text_checksum
from pairsight.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used, as far as the server says: tokens, and cost by the price table."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a stage, or a run, has used so far. Calls of unknown outcome count with their estimated cost."""

    calls: int
    cost: float
    prompt_tokens: int
    completion_tokens: int
    unknown_outcomes: int
    unknown_cost: float


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
        return int(cursor.lastrowid or 0)

    def answered(self, attempt: int, raw: str, http_status: int, finish_reason: str, usage: Usage) -> None:
        """Keep a raw answer, durably, before anything is read from it that could fail."""
        with self._ledger.transaction() as db:
            db.execute(
                "UPDATE attempts SET outcome = 'answered', ended_s = ?, checksum = ?, http_status = ?, "
                "finish_reason = ?, prompt_tokens = ?, completion_tokens = ?, cost = coalesce(?, cost) WHERE id = ?",
                (
                    time.time(), text_checksum(raw), http_status, finish_reason,
                    usage.prompt_tokens, usage.completion_tokens, usage.cost, attempt,
                ),
            )  # fmt: skip
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (attempt, raw))

    def refused(self, attempt: int, http_status: int | None, detail: str) -> None:
        """The server said no, or was never reached: nothing was charged."""
        self._end(attempt, "refused", http_status, detail)

    def lost(self, attempt: int, detail: str) -> None:
        """Sent, but the answer never came: it may have been charged."""
        self._end(attempt, "lost", None, detail)

    def raw_answer(self, item: int) -> str | None:
        """The latest raw answer kept for an item, unless it was set aside by a retry."""
        rows = self._ledger.read(
            "SELECT w.raw FROM attempts a JOIN answers w ON w.attempt = a.id "
            "WHERE a.item = ? AND a.outcome = 'answered' ORDER BY a.id DESC LIMIT 1",
            (item,),
        )
        return rows[0][0] if rows else None

    def spent(self, stage: str | None = None) -> Spent:
        """What the run, or one stage, has used, over all times it was started."""
        (row,) = self._ledger.read(
            "SELECT count(*), coalesce(sum(a.cost), 0.0), coalesce(sum(a.prompt_tokens), 0), "
            "coalesce(sum(a.completion_tokens), 0), coalesce(sum(a.outcome IN ('sent', 'lost')), 0), "
            "coalesce(sum(CASE WHEN a.outcome IN ('sent', 'lost') THEN a.cost END), 0.0) FROM attempts a "
            "JOIN items i ON i.id = a.item JOIN stages s ON s.id = i.stage WHERE ?1 IS NULL OR s.name = ?1",
            (stage,),
        )
        return Spent(*row)

    def spent_by_stage(self) -> dict[str, Spent]:
        """`spent` of each stage that has made calls, by name."""
        names = dict.fromkeys(stage for _, stage, _, _ in self._ledger.plans())
        return {name: spent for name in names if (spent := self.spent(name)).calls}

    def unknown_outcomes(self) -> list[UnknownOutcome]:
        """All calls that may have been charged without an answer that we hold: the process or the connection died."""
        rows = self._ledger.read(
            "SELECT s.name, i.name, a.endpoint, a.model, a.sent_s, a.cost, a.detail FROM attempts a JOIN items i "
            "ON i.id = a.item JOIN stages s ON s.id = i.stage WHERE a.outcome IN ('sent', 'lost') ORDER BY a.id",
            (),
        )
        return [UnknownOutcome(*row) for row in rows]

    def _end(self, attempt: int, outcome: str, http_status: int | None, detail: str) -> None:
        with self._ledger.transaction() as db:
            db.execute(
                "UPDATE attempts SET outcome = ?1, ended_s = ?2, http_status = ?3, detail = ?4, "
                "cost = CASE ?1 WHEN 'refused' THEN 0 ELSE cost END WHERE id = ?5",
                (outcome, time.time(), http_status, detail, attempt),
            )
