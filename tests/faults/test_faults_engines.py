"""Drivers of engines that are interrupted or killed: their workers end, what was committed stays, the run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pairsight.store.ledger import Ledger

PROGRAM = Path(__file__).parent / "slow_build.py"
PATIENCE_S = 30.0


def start(folder: Path, engine: str, seconds: str = "0") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent)}
    command = [sys.executable, str(PROGRAM), str(folder), engine, seconds]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def notes(folder: Path, what: str) -> list[str]:
    file = folder.with_suffix(".notes")
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.split()[-1] for line in lines if line.startswith(what)]


def wait_until(true: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "engine", ["processes", *(pytest.param(one, marks=pytest.mark.long) for one in ("local", "ray"))]
)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_driver_takes_its_workers_along_and_the_run_goes_on(
    tmp_path: Path, engine: str, how: signal.Signals
) -> None:
    folder = tmp_path / "run"
    driver = start(folder, engine, "0.2")
    wait_until(lambda: len(notes(folder, "made")) >= 5)  # more than are in flight at once: one is kept
    driver.send_signal(how)
    _, stderr = driver.communicate(timeout=PATIENCE_S)
    assert ("KeyboardInterrupt" in stderr) == (how == signal.SIGINT)
    workers = [int(pid) for pid in notes(folder, "worker")]
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        kept = ledger.counts(1)
        num_kept = kept["done", ""] + kept["failed", "three"]
    made = len(notes(folder, "made"))
    again = start(folder, engine)
    assert again.communicate(timeout=PATIENCE_S * 2) is not None
    assert again.returncode == 0
    in_flight = {"local": 1, "processes": 4, "ray": 4}[engine]
    assert 1 <= num_kept < 11
    assert len(notes(folder, "made")) - made == 11 - num_kept
    assert made - num_kept <= in_flight


def test_a_second_driver_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(folder, "local", "0.2")
    wait_until(lambda: len(notes(folder, "made")) >= 1)
    second = start(folder, "local")
    _, stderr = second.communicate(timeout=PATIENCE_S)
    assert f"LockedError: build of {folder}: process {first.pid} on" in stderr
    first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0
