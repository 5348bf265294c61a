"""Verify finds any damage; retry and salvage let a run go on."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from made_tables import seal
from pairsight.cli.main import main
from pairsight.errors import LockedError, RunError
from pairsight.records import ImageRef, ItemError
from pairsight.store.ledger import Entry, Ledger, Outcome, Results
from pairsight.store.repair import retry_run, salvage_run
from pairsight.store.run_folder import RunFolder
from pairsight.store.verify import verify_run


def fill(ledger: Ledger, names: list[str]) -> int:
    """A finished plan; names with an 'x' fail."""
    plan = ledger.open_plan("generate", 0, len(names))
    planned = ledger.plan(plan, 0, [Entry(name.encode(), name) for name in names])
    ledger.commit(
        [
            Outcome(p.item, ItemError("has_x") if "x" in name else ImageRef(name * 20))
            for p, name in zip(planned, names, strict=True)
            if p.status == "pending"
        ]
    )
    ledger.finish_plan(plan, len(names))
    return plan


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "run", {})
    with run.ledger() as ledger:
        fill(ledger, ["a", "bx", "c"])
    with Ledger(run.evaluate("held-out") / "ledger.sqlite") as ledger:
        fill(ledger, ["d", "ex"])
    run.blobs.add_bytes(b"one", ".png")
    run.blobs.add_bytes(b"two", ".png")
    seal(run.data, "pairs", [pa.record_batch({"id": ["a"]})], pa.schema({"id": pa.string()}))
    return run


def flip(path: Path, what: bytes | None = None) -> None:
    """Change one byte: of `what` if it is given, else in the middle."""
    data = bytearray(path.read_bytes())
    offset = data.index(what) if what else len(data) // 2
    data[offset] ^= 0x01
    path.write_bytes(data)


def test_a_whole_run_has_no_problems(run: RunFolder) -> None:
    found = verify_run(run.path)
    assert (found.num_results, found.num_blobs, found.num_files, found.problems) == (3, 2, 1, ())


def test_each_kind_of_damage_is_found(run: RunFolder) -> None:
    flip(run.path / "ledger.sqlite", b"cccccccc")
    flip(next(run.blobs.files()))
    flip(run.data / "pairs-00000.parquet")
    problems = verify_run(run.path).problems
    assert len(problems) == 3
    assert "the result of item 'c' is damaged" in problems[0]
    assert "its bytes do not have the hash in its name" in problems[1]
    assert "pairs-00000.parquet is damaged" in problems[2]


def test_a_lost_file_and_a_lost_payload_are_found(run: RunFolder) -> None:
    (run.data / "pairs-00000.parquet").unlink()
    with run.ledger() as ledger, ledger.transaction() as db:
        db.execute("DELETE FROM payloads")
        db.execute("DELETE FROM items WHERE name = 'bx'")
    problems = " ".join(verify_run(run.path).problems)
    assert "1 rows of results belong to no item" in problems
    assert "the result of item 'a' is damaged" in problems
    assert "pairs-00000.parquet is missing" in problems


def test_a_ledger_that_is_no_database_is_a_problem_and_no_traceback(run: RunFolder) -> None:
    (run.path / "ledger.sqlite").write_bytes(b"gone" * 1000)
    (problem,) = verify_run(run.path).problems
    assert "file is not a database" in problem


def test_retry_reaches_all_ledgers_and_names_unknown_stages(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has no stage 'paint'; it has: generate"):
        retry_run(run.path, stage="paint")
    assert retry_run(run.path, reason="other") == 0
    assert retry_run(run.path, stage="generate", reason="has_x") == 2
    assert retry_run(run.path) == 0


def test_a_run_at_work_is_left_alone(run: RunFolder) -> None:
    evaluation = RunFolder(run.evaluate("held-out"), {})
    with evaluation.lock("evaluate"):  # what `evaluate_models` holds
        for change in (retry_run, salvage_run):
            with pytest.raises(LockedError, match="evaluate-held-out"):
                change(run.path)
    with run.lock("build"), pytest.raises(LockedError, match="build of"):
        retry_run(run.path)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_after_a_damaged_page_the_rest_is_salvaged_and_the_run_goes_on(tmp_path: Path, share: float) -> None:
    run = RunFolder.create(tmp_path, {})
    names = [f"item{i}" for i in range(3000)]
    with run.ledger() as ledger:
        fill(ledger, names)
    shutil.rmtree(run.path / "journal")
    file = run.path / "ledger.sqlite"
    data = bytearray(file.read_bytes())
    page = int(len(data) * share) // 4096 * 4096
    data[page : page + 4096] = b"\xde" * 4096
    file.write_bytes(data)
    assert verify_run(run.path).problems
    (salvaged,) = salvage_run(run.path)
    assert salvaged.num_kept > 2000
    assert salvaged.damaged is not None
    assert salvaged.damaged.read_bytes() == bytes(data)
    assert verify_run(run.path).problems == ()
    with run.ledger() as ledger:
        plan = fill(ledger, names)
        assert [r.sha256 for r in Results(ledger, plan, ImageRef) if isinstance(r, ImageRef)] == [n * 20 for n in names]


def test_what_is_intact_is_left_as_it_is_and_not_called_damaged(run: RunFolder, capsys) -> None:
    before = {file: file.read_bytes() for file in run.path.rglob("*.sqlite*")}
    assert [(one.damaged, one.num_kept, one.num_lost) for one in salvage_run(run.path)] == [(None, 3, 0), (None, 2, 0)]
    assert main(["salvage", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert "ledger.sqlite: intact, 3 results" in printed
    assert "no ledger is damaged, nothing was changed" in printed
    assert "the damaged ledger" not in printed
    assert "go on" not in printed
    shutil.rmtree(run.path / "journal")
    flip(run.path / "ledger.sqlite", b"cccccccc")
    evaluation = run.evaluate("held-out") / "ledger.sqlite"
    assert main(["salvage", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert "rebuilt, 2 results kept, 1 to be computed again" in printed
    assert f"{evaluation}: intact, 2 results" in printed
    assert "run the same build or evaluate command to continue" in printed
    assert evaluation.read_bytes() == before[evaluation]


def test_a_flipped_payload_comes_from_the_journal(run: RunFolder) -> None:
    flip(run.path / "ledger.sqlite", b"cccccccc")
    own, evaluation = salvage_run(run.path)
    assert (own.num_kept, own.num_lost, evaluation.num_kept, evaluation.num_lost) == (3, 0, 2, 0)
    assert verify_run(run.path).problems == ()


def test_without_a_journal_a_flipped_payload_is_made_again_after_salvage(run: RunFolder) -> None:
    shutil.rmtree(run.path / "journal")  # as in a run of a time before journals
    flip(run.path / "ledger.sqlite", b"cccccccc")
    own, evaluation = salvage_run(run.path)
    assert (own.num_kept, own.num_lost, evaluation.num_kept, evaluation.num_lost) == (2, 1, 2, 0)
    with run.ledger() as ledger:
        plan = ledger.open_plan("generate", 0, None)
        planned = ledger.plan(plan, 0, [Entry(name.encode(), name) for name in ("a", "bx", "c")])
        assert [p.status for p in planned] == ["done", "failed", "pending"]


def test_a_ledger_of_which_nothing_is_left_says_so_and_the_run_can_go_on(run: RunFolder) -> None:
    shutil.rmtree(run.path / "journal")
    (run.path / "ledger.sqlite").write_bytes(b"gone" * 1000)
    own, _ = salvage_run(run.path)
    assert (own.num_kept, own.unreadable) == (0, "file is not a database")
    assert own.damaged is not None
    assert own.damaged.read_bytes() == b"gone" * 1000
    with run.ledger() as ledger:
        fill(ledger, ["a", "bx", "c"])
    assert verify_run(run.path).problems == ()
