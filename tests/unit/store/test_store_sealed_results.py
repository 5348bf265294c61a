"""The sealed table of a ledger's results: equal for equal builds, and enough to rebuild the ledger from."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made_tables import seal
from pairsight.errors import RunError
from pairsight.records import ImageRef, ItemError
from pairsight.store.ledger import Entry, Ledger, Outcome
from pairsight.store.repair import salvage_run
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import read_sealed
from pairsight.store.sealed_results import SCHEMA, TABLE, results_of_plans, seal_results
from pairsight.store.verify import verify_run


def entry(name: str) -> Entry:
    return Entry(hashlib.sha256(name.encode()).digest(), name)


def work(ledger: Ledger, stage: str, names: str, *, call: int = 0) -> int:
    """A plan of which each item is done, "x" failed."""
    plan = ledger.open_plan(stage, call, len(names))
    for name, planned in zip(names, ledger.plan(plan, 0, [entry(f"{stage} {n}") for n in names]), strict=True):
        result = ItemError("no_x", "…", retryable=False) if name == "x" else ImageRef(name * 3)
        ledger.commit([Outcome(planned.item, result, parser_version=2)])
    ledger.finish_plan(plan, len(names))
    return plan


def content(path: Path) -> list[tuple[object, ...]]:
    """Every result by key, without when it was committed."""
    with Ledger(path, read_only=True) as ledger:
        return ledger.read(
            "SELECT i.key, i.name, s.name, r.status, r.reason, r.detail, r.retryable, r.parser_version, l.payload "
            "FROM results r JOIN items i ON i.id = r.item JOIN stages s ON s.id = i.stage "
            "LEFT JOIN payloads l ON l.item = r.item ORDER BY i.key",
            (),
        )


def lose(run: RunFolder) -> None:
    (run.path / "ledger.sqlite").unlink()
    shutil.rmtree(run.path / "journal")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished build: two stages, a failure, an item that two plans have; and an older plan of a stage."""
    run = RunFolder.create(tmp_path / "run", {})
    with run.ledger() as ledger:
        work(ledger, "draw", "old")
        plans = [work(ledger, "ask", "abx"), work(ledger, "draw", "cd", call=1), work(ledger, "ask", "be", call=1)]
        seal(run.data, TABLE, results_of_plans(ledger, plans), SCHEMA)
    return run


def test_the_rows_are_those_of_the_plans_each_item_once(run: RunFolder) -> None:
    rows = read_sealed(run.data, TABLE).to_pylist()
    assert [row["name"] for row in rows] == ["ask a", "ask b", "ask x", "draw c", "draw d", "ask e"]
    assert rows[2] == {
        "stage": "ask", "key": hashlib.sha256(b"ask x").digest(), "name": "ask x", "parser_version": 2, "done": False,
        "reason": "no_x", "detail": "…", "retryable": False, "payload": "",
    }  # fmt: skip
    assert json.loads(rows[0]["payload"])["sha256"] == "aaa"


def test_the_same_plans_give_the_same_bytes_in_whichever_order_items_were_made(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "other", {})
    with other.ledger() as ledger:
        for stage, names in (("draw", "dc"), ("ask", "ebx"), ("unused", "u")):
            work(ledger, stage, names, call=7)
        plans = [work(ledger, "ask", "abx"), work(ledger, "draw", "cd"), work(ledger, "ask", "be", call=1)]
        seal(other.data, TABLE, results_of_plans(ledger, plans), SCHEMA)
    name = f"{TABLE}-00000.parquet"
    assert (other.data / name).read_bytes() == (run.data / name).read_bytes()


def test_a_ledger_without_journal_comes_back_from_the_table(run: RunFolder) -> None:
    wanted = [row for row in content(run.path / "ledger.sqlite") if row[1] not in ("draw o", "draw l")]
    lose(run)
    (salvaged,) = salvage_run(run.path)
    assert (salvaged.num_kept, salvaged.num_sealed, salvaged.num_answers, salvaged.problems) == (6, 6, 0, ())
    assert content(run.path / "ledger.sqlite") == wanted
    assert verify_run(run.path).problems == ()
    (run.path / "ledger.sqlite").unlink()  # the journal was written anew, and is enough by itself
    shutil.rmtree(run.data)
    (salvaged,) = salvage_run(run.path)
    assert (salvaged.num_kept, salvaged.num_sealed) == (6, 0)
    assert content(run.path / "ledger.sqlite") == wanted


def test_an_evaluations_table_has_all_that_its_ledger_holds(run: RunFolder) -> None:
    wanted = content(run.path / "ledger.sqlite")
    with run.ledger() as ledger:
        seal_results(run.data, ledger)
    assert len(read_sealed(run.data, TABLE)) == len(wanted) == 8
    lose(run)
    salvage_run(run.path)
    assert content(run.path / "ledger.sqlite") == wanted


def test_what_pages_and_journal_hold_is_newer_and_a_forgotten_failure_stays_forgotten(run: RunFolder) -> None:
    with run.ledger() as ledger:
        assert ledger.retry() == 1
        (planned,) = ledger.plan(ledger.open_plan("ask", 0, 1), 0, [entry("ask a")])
        ledger.commit([Outcome(planned.item, ImageRef("newer"), 3)])
    wanted = content(run.path / "ledger.sqlite")
    assert "ask x" not in [row[1] for row in wanted]
    (run.path / "ledger.sqlite").unlink()
    (salvaged,) = salvage_run(run.path)
    assert salvaged.num_sealed == 0
    assert content(run.path / "ledger.sqlite") == wanted


def test_a_damaged_table_gives_nothing_and_is_named(run: RunFolder) -> None:
    file = run.data / f"{TABLE}-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    lose(run)
    (salvaged,) = salvage_run(run.path)
    assert (salvaged.num_kept, salvaged.num_sealed) == (0, 0)
    assert "ledger-00000.parquet is damaged" in salvaged.problems[0]
    (run.data / "manifest.json").write_text("{")
    (run.path / "ledger.sqlite").unlink()
    (salvaged,) = salvage_run(run.path)
    assert "manifest.json is damaged" in salvaged.problems[0]


@pytest.mark.parametrize("payload", ['{"sha256":\n"a"}', None])
def test_a_strangers_table_gives_nothing_that_would_break_the_journal(run: RunFolder, payload: str | None) -> None:
    row = {**read_sealed(run.data, TABLE).to_pylist()[0], "payload": payload}
    seal(run.data, TABLE, [pa.RecordBatch.from_pylist([row], SCHEMA)], SCHEMA)
    lose(run)
    (salvaged,) = salvage_run(run.path)
    assert (salvaged.num_kept, salvaged.num_sealed) == (0, 0)
    assert "is not a table of results" in salvaged.problems[0]
    seal(run.data, TABLE, [pa.RecordBatch.from_pylist([{"a": 1}])], pa.schema([("a", pa.int64())]))
    (run.path / "ledger.sqlite").unlink()
    assert "its columns are a" in salvage_run(run.path)[0].problems[0]


def test_a_damaged_result_is_not_sealed(run: RunFolder) -> None:
    before = pq.read_table(run.data / f"{TABLE}-00000.parquet")
    with closing(sqlite3.connect(run.path / "ledger.sqlite")) as db:
        db.execute("UPDATE payloads SET payload = replace(payload, 'aaa', 'aab')")
        db.commit()
    with run.ledger() as ledger, pytest.raises(RunError, match="result of item 'ask a' is damaged"):
        seal_results(run.data, ledger)
    assert pq.read_table(run.data / f"{TABLE}-00000.parquet") == before
