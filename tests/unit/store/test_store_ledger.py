"""The ledger: plans, results, retries, readers beside the writer, refusals."""

import sqlite3
from pathlib import Path

import pytest

from pairsight.errors import RunError
from pairsight.records import ImageRef, ItemError
from pairsight.store.ledger import Entry, Ledger, Outcome, Results


def entries(*names: str) -> list[Entry]:
    return [Entry(name.encode().ljust(32, b"."), name) for name in names]


def make(ledger: Ledger, names: str, call: int = 0) -> int:
    """A finished plan of one item a letter; capital letters fail."""
    plan = ledger.open_plan("stage", call, len(names))
    planned = ledger.plan(plan, 0, entries(*names))
    ledger.commit(
        [
            Outcome(item.item, ItemError("capital", name) if name.isupper() else ImageRef(name))
            for item, name in zip(planned, names, strict=True)
            if item.status == "pending"
        ]
    )
    ledger.finish_plan(plan, len(names))
    return plan


def test_results_come_back_in_item_order(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = ledger.open_plan("stage", 0, 3)
        a, b, c = ledger.plan(plan, 0, entries("a", "b", "c"))
        ledger.commit([Outcome(c.item, ImageRef("c"))])
        ledger.commit([Outcome(a.item, ImageRef("a")), Outcome(b.item, ItemError("odd", "why", False))])
        results = Results(ledger, plan, ImageRef)
        assert list(results) == [ImageRef("a"), ItemError("odd", "why", False), ImageRef("c")] == list(results)
        assert (len(results), ledger.counts(plan)) == (3, {("done", ""): 2, ("failed", "odd"): 1})


def test_a_result_is_found_again_by_key_in_another_process_order_and_plan(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        make(ledger, "abc")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = ledger.open_plan("stage", 0, None)
        assert [p.status for p in ledger.plan(plan, 0, entries("c", "x", "b"))] == ["done", "pending", "done"]
        other = ledger.open_plan("stage", 1, None)
        assert [p.status for p in ledger.plan(other, 0, entries("a"))] == ["done"]


def test_a_shorter_plan_cuts_the_longer_one(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        make(ledger, "abcd")
        plan = make(ledger, "ac")
        assert [r.sha256 for r in Results(ledger, plan, ImageRef)] == ["a", "c"]
        assert len(list(Results(ledger, plan, ImageRef))) == ledger.length(plan) == 2


def test_an_item_given_twice_is_one_row(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = ledger.open_plan("stage", 0, None)
        first, second = ledger.plan(plan, 0, entries("a", "a"))
        assert first.item == second.item
        ledger.commit([Outcome(first.item, ImageRef("a"))])
        assert list(Results(ledger, plan, ImageRef)) == [ImageRef("a")] * 2


def test_retry_forgets_failures_by_stage_and_reason(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = make(ledger, "aBcD")
        failed = [row for row in ledger.page(plan, 0, 9) if row.status == "failed"]
        assert [(row.name, row.reason, row.detail) for row in failed] == [("B", "capital", "B"), ("D", "capital", "D")]
        assert ledger.retry(stage="other") == ledger.retry(reason="other") == 0
        assert ledger.retry(stage="stage", reason="capital") == 2
        assert [row.status for row in ledger.page(plan, 0, 9)] == ["done", "pending", "done", "pending"]
        with pytest.raises(RunError, match="item 'B' has no result yet"):
            list(Results(ledger, plan, ImageRef))


def test_a_later_result_replaces_a_failure_and_a_failure_a_result(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = make(ledger, "aB")
        a, b = (row.item for row in ledger.page(plan, 0, 2))
        ledger.commit([Outcome(b, ImageRef("b")), Outcome(a, ItemError("lost"))])
        assert list(Results(ledger, plan, ImageRef)) == [ItemError("lost"), ImageRef("b")]


def test_pages_are_read_lazily_while_the_ledger_is_written(tmp_path: Path) -> None:
    names = "".join(chr(0x4E00 + i) for i in range(1300))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        source = make(ledger, names)
        target = ledger.open_plan("next", 0, None)
        for position, ref in enumerate(Results(ledger, source, ImageRef)):
            if position % 100 == 0:
                (planned,) = ledger.plan(target, position // 100, [Entry(f"next {ref.sha256}".encode(), ref.sha256)])
                ledger.commit([Outcome(planned.item, ref)])
        assert [r.sha256 for r in Results(ledger, target, ImageRef)] == list(names[::100])


def test_readers_look_on_and_cannot_write(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger, Ledger(ledger.path, read_only=True) as reader:
        plan = make(ledger, "aB")
        assert reader.counts(plan) == {("done", ""): 1, ("failed", "capital"): 1}
        with pytest.raises(RunError, match="readonly"):
            reader.retry()


def test_commits_are_all_or_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = ledger.open_plan("stage", 0, None)
        a, b = ledger.plan(plan, 0, entries("a", "b"))
        with pytest.raises(RunError), ledger.transaction() as db:
            db.execute("INSERT INTO payloads VALUES (?, 'x')", (a.item,))
            db.execute("INSERT INTO payloads VALUES (?, NULL)", (b.item,))
        ledger.commit([Outcome(a.item, ImageRef("a"))])
        assert ledger.counts(plan)["pending", ""] == 1


def test_the_file_is_written_through(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger, ledger.transaction() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_flipped_payload_is_noticed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = make(ledger, "ab")
        with ledger.transaction() as db:
            db.execute("UPDATE payloads SET payload = replace(payload, 'b', 'q')")
        with pytest.raises(RunError, match="result of item 'b' is damaged"):
            list(Results(ledger, plan, ImageRef))


def test_a_changed_row_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = make(ledger, "aB")
        with ledger.transaction() as db:
            db.execute("UPDATE results SET checksum = checksum + 1 WHERE status = 1")
        done, failed = ledger.plan(plan, 0, entries("a", "B"))  # planning trusts what is done,
        assert (done.status, failed.status, failed.reason) == ("done", "failed", "capital")
        with pytest.raises(RunError, match="result of item 'a' is damaged"):  # reading does not
            list(Results(ledger, plan, ImageRef))
        for change in ("reason = 'other'", "status = 7"):
            with ledger.transaction() as db:
                db.execute(f"UPDATE results SET {change} WHERE status = 2")
            with pytest.raises(RunError, match="result of item 'B' is damaged"):
                ledger.plan(plan, 0, entries("a", "B"))


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger, ledger.transaction() as db:
        db.execute("PRAGMA user_version = 2")
    for read_only in (False, True):
        with pytest.raises(RunError, match="newer Pairsight: upgrade"):
            Ledger(tmp_path / "ledger.sqlite", read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_ledger_is_one_clear_error(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database, surely not; " * 100)
    with pytest.raises(RunError, match="cannot use the ledger"):
        Ledger(tmp_path / "ledger.sqlite", read_only=read_only)


def test_a_missing_ledger_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no ledger"):
        Ledger(tmp_path / "ledger.sqlite", read_only=True)


def test_a_torn_ledger_is_one_clear_error(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        make(ledger, "".join(chr(0x4E00 + i) for i in range(2000)))
    data = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "ledger.sqlite").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"malformed|damaged"), Ledger(tmp_path / "ledger.sqlite") as ledger:
        list(Results(ledger, 1, ImageRef))


def test_what_was_committed_is_in_the_file_when_the_process_ends_without_closing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    plan = make(ledger, "abc")
    copy = tmp_path / "copy.sqlite"
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes((ledger.path.with_name(ledger.path.name + suffix)).read_bytes())
    assert sqlite3.connect(copy).execute("SELECT count(*) FROM payloads").fetchone() == (3,)
    with Ledger(copy) as other:
        assert other.counts(plan) == {("done", ""): 3}
