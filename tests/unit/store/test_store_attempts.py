"""What the ledger keeps of a paid answer: the bytes that came; of an answer that held the key, only its usage."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pairsight.store.attempts import REPLACED_TEXT, Attempts, Usage
from pairsight.store.ledger import Entry, Ledger
from pairsight.store.repair import salvage_run
from pairsight.store.run_folder import RunFolder
from pairsight.store.status import run_status
from pairsight.store.verify import verify_run

USAGE = Usage(70, 20, 0.25)
ANSWERS = [b'{"a": "caf\xc3\xa9"}', b'{"a": "caf\xe9"}', b'{"a": "\x00"}', b'{"a": "\\ud83d"}', b"\xff\xfe\x00", b""]


def begun(ledger: Ledger) -> tuple[Attempts, int, int]:
    """The table, an item and an attempt of it."""
    (planned,) = ledger.plan(ledger.open_plan("annotate", 0, 1), 0, [Entry(b"k", "one")])
    attempts = Attempts(ledger)
    return attempts, planned.item, attempts.begin(planned.item, "http://h", "m", 100, 0.5)


@pytest.mark.parametrize("raw", ANSWERS)
def test_the_bytes_of_an_answer_are_kept_as_they_came_and_survive_verify_and_salvage(
    tmp_path: Path, raw: bytes
) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with run.ledger() as ledger:
        attempts, item, attempt = begun(ledger)
        attempts.answered(attempt, raw, 200, "stop", USAGE, mark=REPLACED_TEXT)
    for _ in range(2):
        with closing(sqlite3.connect(run.path / "ledger.sqlite")) as db:
            ((kept,),) = db.execute("SELECT CAST(raw AS BLOB) FROM answers").fetchall()
        assert kept == raw
        with run.ledger() as ledger:
            assert Attempts(ledger).raw_answer(item) == raw.decode("utf-8", "replace")
        assert verify_run(run.path).problems == ()
        salvage_run(run.path)


def test_a_ledger_of_texts_as_it_was_written_before_reads_as_ever(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        attempts, item, attempt = begun(ledger)
        with ledger.transaction() as db:
            db.execute("UPDATE attempts SET outcome = 'answered' WHERE id = ?", (attempt,))
            db.execute("INSERT INTO answers VALUES (?, ?)", (attempt, "{}"))
        assert attempts.raw_answer(item) == "{}"


def test_an_answer_with_the_key_leaves_its_usage_and_its_mark_but_no_body(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with run.ledger() as ledger:
        attempts, item, attempt = begun(ledger)
        attempts.echoed_key(attempt, 200, USAGE, "the answer held the key")
        assert attempts.raw_answer(item) is None
        assert attempts.unknown_outcomes() == []
        assert ledger.read("SELECT outcome, http_status, cost FROM attempts", ()) == [("echoed_key", 200, 0.25)]
    (stage,) = run_status(run.path).stages
    assert stage.spent is not None
    assert (stage.spent.cost, stage.spent.prompt_tokens, stage.spent.echoed_keys) == (0.25, 70, 1)
    assert verify_run(run.path).problems == ()
