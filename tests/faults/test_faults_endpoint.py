"""A server that fails in every way, and clients that are killed: every item answered, at most the calls in flight
repeated, and these listed with their cost."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from small_calls import MAX_CONCURRENCY, QUESTIONS, build

from fault_server import Fault, FaultServer
from pairsight.engine.calls import limits as gate
from pairsight.store.attempts import Attempts
from pairsight.store.ledger import Ledger

PROGRAM = Path(__file__).parent / "small_calls.py"
WELL = [f"you asked: {question}" for question in QUESTIONS]
FAULTS: tuple[Fault, ...] = (
    "429",
    "500",
    "torn",
    "disconnect",
    "disconnect-before",
    "html-502",
    "error-200",
    "hang",
    "",
)


def client(folder: Path, url: str, point: int | None = None) -> subprocess.CompletedProcess[str]:
    """The paid build in a process of its own, which imports as the tests do."""
    arguments = [sys.executable, str(PROGRAM), str(folder), url, *([] if point is None else [str(point)])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROGRAM.parent), str(PROGRAM.parents[1]), *sys.path]),
    }
    return subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)


def check(folder: Path, server: FaultServer, where: str) -> None:
    """What the server counted against what the ledger says."""
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        unknown = Counter(call.item.removesuffix(":0") for call in Attempts(ledger).unknown_outcomes())
        (attempts,) = ledger.read("SELECT count(*) FROM attempts", ())[0]
        kept = ledger.read("SELECT count(*) FROM answers", ())[0][0]
        costs = [call.estimated_cost for call in Attempts(ledger).unknown_outcomes()]
    assert kept == len(QUESTIONS), where
    assert server.asked.total() <= attempts, f"{where}: a call was sent without an attempt row"
    repeated = {question: count - 1 for question, count in server.answered.items() if count > 1}
    assert all(unknown[question] >= count for question, count in repeated.items()), f"{where}: unlisted repetition"
    assert sum(repeated.values()) <= MAX_CONCURRENCY, f"{where}: more than the calls in flight were repeated"
    assert all(cost is not None and cost > 0 for cost in costs), where


def test_every_fault_is_overcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "OPEN_S", (0.1, 0.1, 0.1))
    monkeypatch.setattr("pairsight.engine.calls.calls.LONGEST_BACKOFF_S", 0.05)
    with FaultServer(lambda question, n: FAULTS[(QUESTIONS.index(question) + n) % 9] if n < 2 else "") as server:
        assert build(tmp_path / "run", server.url) == WELL
        with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
            lost = {call.detail.split(":")[0] for call in Attempts(ledger).unknown_outcomes()}
        assert {"connection lost", "no answer in 1 s"} <= lost
        asked = server.asked.total()
        assert build(tmp_path / "run", server.url) == WELL
        assert server.asked.total() == asked


def test_an_answer_that_is_no_json_is_kept_marked_and_not_bought_again(tmp_path: Path) -> None:
    with FaultServer(lambda question, n: "not-json" if question == "question 4" else "") as server:
        for _ in range(2):
            texts = build(tmp_path / "run", server.url)
        assert texts == [*WELL[:4], "not_json", *WELL[5:]]
        assert set(server.asked.values()) == {1}


def sweep(tmp_path: Path, points: range | None, step: int) -> None:
    with FaultServer() as server:
        whole = client(tmp_path / "whole", server.url)
    assert whole.returncode == 0, whole.stderr
    last = int(whole.stdout.split()[1])
    for point in points or range(0, last, step):
        with FaultServer(delay_s=0.01) as server:
            folder = tmp_path / f"at{point}"
            killed = client(folder, server.url, point)
            assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
            resumed = client(folder, server.url)
            assert resumed.returncode == 0, resumed.stderr
            check(folder, server, f"killed at point {point}")


def test_after_a_kill_at_some_points_at_most_the_calls_in_flight_are_repeated(tmp_path: Path) -> None:
    sweep(tmp_path, None, step=23)


@pytest.mark.long
def test_after_a_kill_at_every_point_at_most_the_calls_in_flight_are_repeated(tmp_path: Path) -> None:
    sweep(tmp_path, None, step=1)


def test_after_ctrl_c_the_calls_in_flight_are_finished_and_kept(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROGRAM.parent), str(PROGRAM.parents[1]), *sys.path]),
    }
    with FaultServer(delay_s=0.3) as server:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path / "run"), server.url], env=environment,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while server.asked.total() < 4:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert "KeyboardInterrupt" in stderr
        with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
            assert Attempts(ledger).unknown_outcomes() == []
            assert ledger.counts(1)["done", ""] == server.answered.total() < len(QUESTIONS)
        assert client(tmp_path / "run", server.url).returncode == 0
        assert set(server.asked.values()) == {1}
