"""A paid build whose ledger is deleted, emptied, cut short or overwritten: noticed, rebuilt, nothing bought twice."""

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from crash_points import crash_at
from small_calls import QUESTIONS, build

from fault_server import FaultServer
from pairsight.errors import RunError
from pairsight.store.attempts import Attempts
from pairsight.store.journal import journal_files
from pairsight.store.ledger import Ledger
from pairsight.store.repair import salvage_run
from pairsight.store.verify import verify_run

WELL = [f"you asked: {question}" for question in QUESTIONS]
Damage = Callable[[Path], None]


def cut(size: int | float) -> Damage:
    """To so many bytes, or such a share of them."""

    def damage(file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[: size if isinstance(size, int) else int(len(data) * size)])

    return damage


def become(content: bytes) -> Damage:
    def damage(file: Path) -> None:
        file.write_bytes(content)

    return damage


def blank(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE t (x)")


def overwrite(first: int, last: int, value: int) -> Damage:
    """Pages `first` to `last`, as shares of the file in tenths, become one byte over and over."""

    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        start, stop = (len(data) * tenth // 10 // 4096 * 4096 for tenth in (first, last))
        data[start:stop] = bytes([value]) * (stop - start)
        file.write_bytes(data)

    return damage


DAMAGES: dict[str, Damage] = {
    "deleted": Path.unlink,
    "emptied": become(b""),
    "another file": become(b"no database" * 1000),
    "a blank database": blank,
    **{f"cut to {size} bytes": cut(size) for size in (1, 100, 4096, 5000)},
    **{f"cut to {share:.0%}": cut(share) for share in (0.25, 0.5, 0.75, 0.99)},
    "first page zeroed": overwrite(0, 1, 0),
    "all but the first page overwritten": overwrite(1, 10, 0xDE),
    "second half overwritten": overwrite(5, 10, 0xDE),
    "all zeros": overwrite(0, 10, 0),
}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """One for all, as its URL is part of what a call is."""
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, server: FaultServer) -> Path:
    folder = tmp_path_factory.mktemp("complete") / "run"
    assert build(folder, server.url) == WELL
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_noticed_and_rebuilt_and_nothing_is_bought_again(
    tmp_path: Path, complete: Path, server: FaultServer, damage: str
) -> None:
    folder, asked = tmp_path / "run", server.asked.total()
    shutil.copytree(complete, folder)
    DAMAGES[damage](folder / "ledger.sqlite")
    assert any("ledger.sqlite" in problem for problem in verify_run(folder).problems)
    with pytest.raises(RunError) as error:
        build(folder, server.url)
    assert "pairsight salvage" in str(error.value)
    assert "remove it" not in str(error.value)
    (salvaged,) = salvage_run(folder)
    assert salvaged.num_answers == len(QUESTIONS)
    assert verify_run(folder).problems == ()
    assert build(folder, server.url) == WELL
    assert server.asked.total() == asked
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        assert Attempts(ledger).spent().calls == len(QUESTIONS)


@pytest.mark.parametrize("damage", ["deleted", "cut to 50%"])
def test_after_an_interruption_only_what_was_in_flight_is_bought_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "run"
    with FaultServer(lambda question, n: "disconnect" if question == QUESTIONS[6] and n == 0 else "") as server:
        build(folder, server.url, max_attempts=1)  # question 6 was answered, and the answer lost on its way
        asked = server.asked.copy()
        DAMAGES[damage](folder / "ledger.sqlite")
        salvage_run(folder)
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            (unknown,) = Attempts(ledger).unknown_outcomes()
            assert unknown.item.startswith(QUESTIONS[6])
            assert unknown.estimated_cost is not None
        with Ledger(folder / "ledger.sqlite") as ledger:
            ledger.retry()
        assert build(folder, server.url) == WELL
        assert server.asked - asked == {QUESTIONS[6]: 1}


def test_the_ledger_of_an_evaluation_is_rebuilt_with_its_run(
    tmp_path: Path, complete: Path, server: FaultServer
) -> None:
    asked = server.asked.total()
    run, inner = tmp_path / "run", tmp_path / "run" / "evaluate" / "held-out"
    shutil.copytree(complete, run)
    shutil.copytree(complete, inner)
    (inner / "ledger.sqlite").unlink()
    assert "evaluate/held-out/ledger.sqlite is missing" in " ".join(verify_run(run).problems)
    own, evaluation = salvage_run(run)
    assert (own.num_answers, evaluation.num_answers) == (len(QUESTIONS), len(QUESTIONS))
    assert build(inner, server.url) == WELL
    assert server.asked.total() == asked


def test_without_ledger_and_journal_nothing_is_bought_before_a_person_was_told(
    tmp_path: Path, complete: Path, server: FaultServer
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(complete, folder)
    (folder / "ledger.sqlite").unlink()
    shutil.rmtree(folder / "journal")
    with pytest.raises(RunError, match="pairsight salvage"):
        build(folder, server.url)
    (salvaged,) = salvage_run(folder)
    assert (salvaged.num_kept, salvaged.num_answers) == (0, 0)
    assert build(folder, server.url) == WELL


def test_a_journal_that_lost_answers_is_noticed_and_rewritten(tmp_path: Path, complete: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(complete, folder)
    (file,) = journal_files(folder / "journal")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert any("raw answer" in problem and "journal" in problem for problem in verify_run(folder).problems)
    salvage_run(folder)
    assert verify_run(folder).problems == ()
    (folder / "ledger.sqlite").unlink()
    (salvaged,) = salvage_run(folder)
    assert salvaged.num_answers == len(QUESTIONS)


def salvaged_in_child(folder: Path, point: int | None) -> int:
    """Salvage in a process that dies at a durable step; returns the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            with crash_at(point):
                salvage_run(folder)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("damage", ["deleted", pytest.param("cut to 50%", marks=pytest.mark.long)])
def test_a_salvage_that_is_killed_can_be_repeated(
    tmp_path: Path, complete: Path, server: FaultServer, damage: str
) -> None:
    names: list[str] = []
    asked = server.asked.total()
    for point in itertools.count(0, 5):
        folder = tmp_path / f"run{point}"
        shutil.copytree(complete, folder)
        DAMAGES[damage](folder / "ledger.sqlite")
        (file,) = journal_files(folder / "journal")
        file.write_bytes(b"x" + file.read_bytes())  # so that the journal is rewritten too
        signal = salvaged_in_child(folder, point)
        names.append("killed" if signal else "ended")
        salvage_run(folder)
        assert verify_run(folder).problems == (), f"killed at {point}"
        assert build(folder, server.url) == WELL, f"killed at {point}"
        assert server.asked.total() == asked, f"killed at {point}"
        if not signal:
            break
    assert names[-1] == "ended"
    assert len(names) > 3
