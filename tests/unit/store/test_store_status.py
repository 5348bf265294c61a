"""Status: how far a run is, read beside the process that works on it."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from made_tables import seal
from pairsight.records import ImageRef, ItemError
from pairsight.store.attempts import Attempts, Spent, Usage
from pairsight.store.ledger import Entry, Ledger, Outcome
from pairsight.store.run_folder import RunFolder
from pairsight.store.status import run_status, unknown_outcomes


def plan(ledger: Ledger, stage: str, names: str, expected: int | None) -> list[int]:
    entries = [Entry(f"{stage} {name}".encode(), name) for name in names]
    return [planned.item for planned in ledger.plan(ledger.open_plan(stage, 0, expected), 0, entries)]


def test_status_counts_each_stage_while_the_run_is_going(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    with run.lock("build"), run.ledger() as ledger:
        a, b, c = plan(ledger, "generate", "abc", expected=10)
        ledger.commit([Outcome(a, ImageRef("a")), Outcome(b, ItemError("refused")), Outcome(c, ItemError("length"))])
        plan(ledger, "annotate", "a", expected=None)
        status = run_status(tmp_path)
        assert dict(status.running) == {"build": os.getpid()}
        generate, annotate = status.stages
        assert (generate.phase, generate.stage, generate.total, generate.done) == ("build", "generate", 10, 1)
        assert dict(generate.failed) == {"refused": 1, "length": 1}
        assert generate.pending == 7
        assert (annotate.total, annotate.pending, annotate.done) == (None, None, 0)
    assert not run_status(tmp_path).running


def test_evaluations_have_their_own_ledgers(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    with Ledger(run.evaluate("held-out") / "ledger.sqlite") as ledger:
        plan(ledger, "answer", "ab", expected=2)
    (stage,) = run_status(tmp_path).stages
    assert (stage.phase, stage.stage, stage.pending) == ("evaluate-held-out", "answer", 2)


def test_an_evaluation_at_work_is_shown_in_its_run_and_in_its_own_folder(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    alone = RunFolder.create(run.evaluate("held-out"), {"kind": "evaluate"})
    with alone.lock("evaluate"), alone.ledger() as ledger:
        plan(ledger, "answer", "ab", expected=2)
        assert dict(run_status(run.path).running) == {"evaluate-held-out": os.getpid()}
        assert dict(run_status(alone.path).running) == {"evaluate": os.getpid()}
        (stage,) = run_status(alone.path).stages
    assert (stage.phase, stage.pending) == ("evaluate", 2)


def test_time_left_is_told_from_what_the_process_at_work_has_done(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    with run.ledger() as ledger:
        items = plan(ledger, "generate", "abcdefgh", expected=8)
        ledger.commit([Outcome(items[0], ImageRef("a"))])  # on another day
        with ledger.transaction() as db:
            db.execute("UPDATE results SET committed_s = 1000")
        (stage,) = run_status(tmp_path).stages
        assert (stage.pending, stage.items_per_s, stage.seconds_left) == (7, None, None)
        with run.lock("build"):
            ledger.commit([Outcome(item, ImageRef("a")) for item in items[1:4]])
            with ledger.transaction() as db:
                db.execute("UPDATE results SET committed_s = ? + item WHERE item > 1", (time.time(),))
            (stage,) = run_status(tmp_path).stages
    assert (stage.pending, stage.items_per_s) == (4, 1.5)  # three items, the last two seconds after the first
    assert stage.seconds_left == pytest.approx(4 / 1.5)


def test_a_run_that_has_not_begun_and_its_tables(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    assert run_status(tmp_path).stages == ()
    seal(run.data, "pairs", [pa.record_batch({"id": ["a", "b"]})], pa.schema({"id": pa.string()}))
    assert dict(run_status(tmp_path).tables) == {"pairs": 2}


def test_paid_stages_say_what_they_spent(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    with run.ledger() as ledger:
        attempts = Attempts(ledger)
        a, b = plan(ledger, "annotate", "ab", expected=2)
        plan(ledger, "select", "c", expected=1)
        attempts.answered(attempts.begin(a, "http://h", "m", 100, 0.5), b"{}", 200, "stop", Usage(70, 20, 0.25))
        attempts.begin(b, "http://h", "m", 100, 0.5)
    annotate, select = run_status(tmp_path).stages
    assert select.spent is None
    assert annotate.spent == Spent(2, 0.75, 70, 20, 1, 0.5)
    assert [(call.item, call.estimated_cost) for call in unknown_outcomes(tmp_path)] == [("b", 0.5)]
