"""The journal: records come back as they were written, around torn ends and damage; a ledger and its journal agree."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from pairsight.errors import RunError
from pairsight.records import ImageRef, ItemError
from pairsight.store.attempts import Attempts, Usage
from pairsight.store.journal import Gap, Journal, Record, journal_files, journal_problems, last_record, read_journal
from pairsight.store.ledger import Entry, Ledger, Outcome
from pairsight.store.repair import salvage_run
from pairsight.store.run_folder import RunFolder
from pairsight.store.verify import verify_run


def write(folder: Path, *numbers: int) -> Path:
    journal = Journal(folder)
    for number in numbers:
        journal.append({"n": number}, bytes([number]) * number, durably=number % 2 == 0)
    journal.close()
    return journal_files(folder)[-1]


def numbers(file: Path) -> list[int | str]:
    return [r.about["n"] if isinstance(r, Record) else ("torn" if r.torn else "gap") for r in read_journal(file)]


def test_the_bytes_are_as_documented(tmp_path: Path) -> None:
    body = b'{"n":3}' + b"\n" + b"\x03\x03\x03"
    wanted = b"PSJ1" + struct.pack("<II", len(body), zlib.crc32(body)) + body
    assert write(tmp_path, 3).read_bytes() == wanted


def test_each_writer_has_a_file_of_its_own(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.append({"n": 1})
    second.append({"n": 2})
    first.append({"n": 3})
    assert [numbers(file) for file in journal_files(tmp_path)] == [[1, 3], [2]]
    assert [file.name for file in journal_files(tmp_path)] == ["00001.journal", "00002.journal"]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_end_costs_only_the_last_record(tmp_path: Path, cut: int) -> None:
    file = write(tmp_path, 5, 6, 20)
    data = file.read_bytes()
    file.write_bytes(data[:-cut])
    assert numbers(file) == [5, 6, *(["torn"] if len(data) - cut > data.rindex(b"PSJ1") else [])]
    found = last_record(file)
    assert found is not None
    assert found.about == {"n": 6}
    assert journal_problems(tmp_path) == (2, [])
    file.write_bytes(data + bytes(100))  # what a file system leaves of a write that a power cut ended
    assert numbers(file) == [5, 6, 20, "torn"]


def test_what_a_killed_writer_left_is_read_and_the_next_one_begins_a_file(tmp_path: Path) -> None:
    killed = Journal(tmp_path)
    killed.append({"n": 1}, b"answer", durably=True)
    killed.append({"n": 2})
    killed.append({"n": 3}, bytes(300_000), durably=True)
    (file,) = journal_files(tmp_path)
    size = file.stat().st_size
    assert numbers(file) == [1, 2, 3, "torn"]  # zeros that were written ahead
    found = last_record(file)
    assert found is not None
    assert found.about == {"n": 3}
    assert journal_problems(tmp_path) == (3, [])
    write(tmp_path, 4)
    assert numbers(journal_files(tmp_path)[1]) == [4]
    killed.close()
    assert numbers(file) == [1, 2, 3]
    assert file.stat().st_size < size


def test_damage_in_the_middle_costs_the_records_it_touches_and_is_a_problem(tmp_path: Path) -> None:
    file = write(tmp_path, *range(1, 9))
    data = bytearray(file.read_bytes())
    data[data.index(b'{"n":4}') + 3] ^= 1
    file.write_bytes(data)
    assert numbers(file) == [1, 2, 3, "gap", 5, 6, 7, 8]
    count, (problem,) = journal_problems(tmp_path)
    assert count == 7
    assert "00001.journal: bytes" in problem
    write(tmp_path, 9)
    write(tmp_path, 10)
    (tmp_path / "00002.journal").unlink()
    assert "00002.journal is missing" in " ".join(journal_problems(tmp_path)[1])


def test_bytes_that_look_like_a_record_inside_an_answer_are_not_taken_for_one(tmp_path: Path) -> None:
    inner = write(tmp_path / "inner", 7).read_bytes()
    journal = Journal(tmp_path / "outer")
    journal.append({"n": 1}, inner + b"PSJ1")
    journal.append({"n": 2})
    journal.close()
    assert numbers(journal_files(tmp_path / "outer")[0]) == [1, 2]


def test_a_failed_write_leaves_no_part_of_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append({"n": 1})

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pairsight.store.journal.write_all", half)
        with pytest.raises(RunError, match="No space left"):
            journal.append({"n": 2}, b"x" * 100)
    journal.append({"n": 3})
    journal.close()
    assert numbers(journal_files(tmp_path)[0]) == [1, 3]


def entries(names: str) -> list[Entry]:
    return [Entry(name.encode() * 32, name) for name in names]


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that a ledger holds, by key and not by row."""
    with Ledger(path, read_only=True) as ledger:
        return {
            "results": ledger.read(
                "SELECT i.key, i.name, s.name, r.status, r.reason, r.detail, r.retryable, r.parser_version, "
                "r.committed_s, l.payload FROM results r JOIN items i ON i.id = r.item JOIN stages s ON s.id = i.stage "
                "LEFT JOIN payloads l ON l.item = r.item ORDER BY i.key",
                (),
            ),
            "attempts": ledger.read(
                "SELECT a.*, w.raw FROM attempts a LEFT JOIN answers w ON w.attempt = a.id ORDER BY a.id", ()
            ),
        }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two processes' work: paid calls that ended in every way, a failure forgotten, one that stays, local results."""
    run = RunFolder.create(tmp_path / "run", {})
    with run.ledger() as ledger:
        paid = ledger.plan(ledger.open_plan("ask", 0, 6), 0, entries("abcdef"))
        attempts = Attempts(ledger)
        a, b, c, d, e, _ = (attempts.begin(one.item, "http://x", "m", 10, 0.5) for one in paid)
        attempts.answered(a, b"{}", 200, "stop", Usage(3, 4, 0.25))
        attempts.answered(b, b"\xff\x00", 200, "", Usage())
        attempts.refused(c, 400, "no")
        attempts.lost(d, "gone")
        attempts.echoed_key(e, 200, Usage(1, 1, 0.1), "held the key")
        ledger.commit([Outcome(paid[0].item, ImageRef("A"), 2), Outcome(paid[1].item, ItemError("not_json", "…"), 2)])
        ledger.commit([Outcome(paid[2].item, ItemError("refused", "no", retryable=False))])
        local = ledger.plan(ledger.open_plan("draw", 0, 3), 0, entries("xyz"))
        ledger.commit([Outcome(one.item, ImageRef(str(one.item))) for one in local])
    with run.ledger() as ledger:
        assert ledger.retry("ask", "not_json") == 1
        again = Attempts(ledger).begin(paid[1].item, "http://x", "m", 10, 0.5)
        Attempts(ledger).answered(again, b"better", 200, "stop", Usage(1, 1, 0.1))
    return run


def test_a_lost_ledger_comes_back_from_its_journal(run: RunFolder) -> None:
    wanted = content(run.path / "ledger.sqlite")
    assert len(wanted["results"]) == 5
    assert len(wanted["attempts"]) == 7
    (run.path / "ledger.sqlite").unlink()
    with pytest.raises(RunError, match=r"ledger.sqlite is missing, .*`pairsight salvage .*run` rebuilds it"):
        run.ledger()
    with pytest.raises(RunError, match="pairsight salvage"):
        Ledger(run.path / "ledger.sqlite", read_only=True)
    (salvaged,) = salvage_run(run.path)
    assert (salvaged.num_kept, salvaged.num_answers, salvaged.damaged) == (5, 3, None)
    assert content(run.path / "ledger.sqlite") == wanted


def test_an_emptied_ledger_is_lost_too(run: RunFolder) -> None:
    (run.path / "ledger.sqlite").write_bytes(b"")
    with pytest.raises(RunError, match=r"ledger.sqlite is empty, .*pairsight salvage"):
        run.ledger()


def test_a_new_ledger_is_made_only_where_there_is_no_trace_of_an_earlier_one(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    (tmp_path / "ledger.sqlite").unlink()
    Ledger(tmp_path / "ledger.sqlite").close()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    (tmp_path / "ledger.sqlite").unlink()
    with pytest.raises(RunError, match=r"though data/manifest.json beside it"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_ledger_that_lost_its_latest_commits_catches_up_when_it_is_opened(run: RunFolder, tmp_path: Path) -> None:
    shutil.copy(run.path / "ledger.sqlite", tmp_path / "backup")
    with run.ledger() as ledger:
        (item, *_) = ledger.plan(ledger.open_plan("ask", 0, 6), 0, entries("abcdefg"))[6:]
        attempt = Attempts(ledger).begin(item.item, "http://x", "m", 10, 0.5)
        Attempts(ledger).answered(attempt, b"dear", 200, "stop", Usage(1, 1, 9.0))
    wanted = content(run.path / "ledger.sqlite")
    shutil.copy(tmp_path / "backup", run.path / "ledger.sqlite")
    with run.ledger() as ledger:
        assert Attempts(ledger).spent().cost > 9
    assert content(run.path / "ledger.sqlite") == wanted


def test_results_that_were_not_synced_come_back_after_a_power_cut(run: RunFolder) -> None:
    ledger = run.ledger()
    (item, *_) = ledger.plan(ledger.open_plan("ask", 0, 6), 0, entries("abcdefg"))[6:]
    before = {file: file.read_bytes() for file in run.path.glob("ledger.sqlite*")}
    ledger.commit([Outcome(item.item, ImageRef("late"))], synced=False)
    wanted = content(run.path / "ledger.sqlite")
    assert (run.path / "ledger.sqlite-wal").stat().st_size > len(before[run.path / "ledger.sqlite-wal"])
    copy = RunFolder.create(run.path.parent / "copy", {})  # as the disk has it: the journal further than the ledger
    shutil.copytree(run.path / "journal", copy.path / "journal")
    for file, data in before.items():
        if file.suffix != ".sqlite-shm":
            (copy.path / file.name).write_bytes(data)
    ledger.close()
    copy.ledger().close()
    assert content(copy.path / "ledger.sqlite") == wanted


def test_opening_applies_nothing_to_a_ledger_that_is_up_to_date(run: RunFolder) -> None:
    wanted = content(run.path / "ledger.sqlite")
    for _ in range(2):
        run.ledger().close()
        assert content(run.path / "ledger.sqlite") == wanted
    assert len(journal_files(run.path / "journal")) == 2


def test_a_missing_journal_is_a_problem_and_the_next_opening_writes_it_of_all_that_the_ledger_holds(
    run: RunFolder,
) -> None:
    """Deleted, or never there as in a run of a time before journals."""
    shutil.rmtree(run.path / "journal")
    wanted = content(run.path / "ledger.sqlite")
    (problem,) = verify_run(run.path).problems
    assert "journal is missing" in problem
    assert "pairsight salvage" in problem
    run.ledger().close()
    assert verify_run(run.path).problems == ()
    assert not (run.path / "journal.damaged").exists()
    (run.path / "ledger.sqlite").unlink()
    salvage_run(run.path)
    assert content(run.path / "ledger.sqlite") == wanted


def test_salvage_writes_a_missing_journal_beside_an_intact_ledger(run: RunFolder) -> None:
    wanted = content(run.path / "ledger.sqlite")
    for file in journal_files(run.path / "journal"):
        file.unlink()
    (salvaged,) = salvage_run(run.path)
    assert (salvaged.what, salvaged.num_kept) == ("journal rewritten", 5)
    assert verify_run(run.path).problems == ()
    (run.path / "ledger.sqlite").unlink()
    salvage_run(run.path)
    assert content(run.path / "ledger.sqlite") == wanted


def test_a_ledger_that_holds_nothing_needs_no_journal(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.ledger().close()
    assert verify_run(run.path).problems == ()
    assert not (run.path / "journal").exists()


def test_a_damaged_journal_is_rewritten_by_salvage(run: RunFolder) -> None:
    wanted = content(run.path / "ledger.sqlite")
    file = journal_files(run.path / "journal")[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    salvage_run(run.path)
    assert journal_problems(run.path / "journal")[1] == []
    assert (run.path / "journal.damaged" / file.name).read_bytes() == data
    assert content(run.path / "ledger.sqlite") == wanted
    (run.path / "ledger.sqlite").unlink()
    salvage_run(run.path)
    assert content(run.path / "ledger.sqlite") == wanted


def test_records_are_json_that_a_person_can_read(run: RunFolder) -> None:
    found = [r for file in journal_files(run.path / "journal") for r in read_journal(file)]
    assert not any(isinstance(r, Gap) for r in found)
    kinds = [json.loads(json.dumps(r.about))["kind"] for r in found if isinstance(r, Record)]
    assert kinds == [*["attempt"] * 11, *["results"] * 3, "retry", "attempt", "attempt"]
