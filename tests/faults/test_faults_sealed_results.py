"""Paid builds and evaluations by the command line: rebuilt from sealed tables alone; what their exit status says."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fault_server import Fault, FaultServer, answer
from pairsight.cli.main import main
from pairsight.store.status import run_status
from pairsight.tiny.world.world_files import write_world

PROMPTS, QUESTIONS = 3, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("sealed") / "world", scenes=2, seed=6)


def seen(body: dict[str, Any]) -> dict[str, Any]:
    """An answer that differs for each image, so that a distorted one makes a pair."""
    digest = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
    return answer(f"yes, {digest[:8]}")


def build(world: Path, run: Path, url: str, *more: str) -> int:
    given = ["build", "seva", "--model", f"endpoint:m@{url}", "--prompts", str(world / "prompts.json")]
    given += ["--images", str(world / "images"), "--limit", str(PROMPTS), "--out", str(run), "--quiet"]
    return main([*given, "--set", "calls.max_attempts=1", "--set", "distortion=small_crop", *more])


def evaluate(world: Path, out: Path, url: str, *more: str) -> int:
    given = ["evaluate", "--model", f"endpoint:m@{url}", "--benchmark", f"pope={world / 'pope.jsonl'}"]
    given += ["--images", str(world / "images"), "--limit", str(QUESTIONS), "--out", str(out), "--quiet"]
    return main([*given, "--set", "calls.max_attempts=1", *more])


def tables(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in [*run.glob("data/*"), *run.glob("*.parquet")]}


def lose(run: Path) -> None:
    """The ledger and its journal, without which the answers are nowhere but in the tables."""
    for file in run.glob("ledger.sqlite*"):
        file.unlink()
    shutil.rmtree(run / "journal")


@pytest.mark.parametrize(("verb", "num_calls"), [(build, 2 * PROMPTS), (evaluate, QUESTIONS)])
def test_without_ledger_and_journal_a_sealed_stage_is_not_bought_again(
    verb: Any, num_calls: int, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with FaultServer(respond=seen) as server:
        assert verb(world, run, server.url) == 0
        assert server.asked.total() == num_calls
        sealed = tables(run)
        assert "data/ledger-00000.parquet" in sealed
        lose(run)
        capsys.readouterr()
        assert verb(world, run, server.url) == 1
        said = capsys.readouterr().err
        assert "ledger.sqlite is missing" in said
        assert f"pairsight salvage {run}" in said
        assert main(["salvage", str(run)]) == 0
        said = capsys.readouterr().out
        assert f"{num_calls} results kept, 0 to be computed again" in said
        assert f"{num_calls} of them were left in sealed tables only, which hold no raw answers" in said
        assert verb(world, run, server.url) == 0
        assert server.asked.total() == num_calls
    assert tables(run) == sealed
    assert main(["status", str(run), "--verify"]) == 0


def test_of_a_run_sealed_without_the_table_one_is_told_before_anything_is_bought(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with FaultServer(respond=seen) as server:
        assert build(world, run, server.url) == 0
        manifest = json.loads((run / "data" / "manifest.json").read_text())
        del manifest["tables"]["ledger"]
        (run / "data" / "manifest.json").write_text(json.dumps(manifest))
        (run / "data" / "ledger-00000.parquet").unlink()
        lose(run)
        assert main(["salvage", str(run)]) == 0
        assert "computes, and pays for, everything again" in capsys.readouterr().out
        assert server.asked.total() == 2 * PROMPTS


@pytest.mark.parametrize("verb", [build, evaluate])
def test_that_everything_failed_is_an_error_with_what_to_do(
    verb: Any, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, up = tmp_path / "run", False

    def down(question: str, time_asked: int) -> Fault:
        return "" if up else "not-json"

    with FaultServer(down, respond=seen) as server:
        assert verb(world, run, server.url) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert "not_json" in said
        assert f"`pairsight retry {run}` and the same command" in said
        assert not (run / "results.json").exists()
        up = True
        assert verb(world, run, server.url) == 1  # a failure stays one until it is retried
        assert main(["retry", str(run)]) == 0
        assert verb(world, run, server.url) == 0


@pytest.mark.parametrize("verb", [build, evaluate])
def test_that_some_failed_is_a_status_of_its_own(
    verb: Any, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, up, first = tmp_path / "run", False, list[str]()

    def one_is_bad(question: str, time_asked: int) -> Fault:
        first[1:] = []
        first.append(question)
        return "not-json" if not up and question == first[0] else ""

    with FaultServer(one_is_bad, respond=seen) as server:
        assert verb(world, run, server.url) == 3
        said = capsys.readouterr().out
        assert "not_json" in said
        assert verb(world, run, server.url) == 3
        assert sum(sum(stage.failed.values()) for stage in run_status(run).stages) >= 1
        up = True
        assert main(["retry", str(run)]) == 0
        assert verb(world, run, server.url) == 0
