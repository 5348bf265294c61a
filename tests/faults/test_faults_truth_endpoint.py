"""The feedback recipe judged through an endpoint: the pairs are those of the same truth in process, whatever fails."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fault_server import Fault, FaultServer
from pairsight.cli.main import main
from pairsight.engine.calls import limits as gate
from pairsight.formats.pairs import read_pairs
from pairsight.formats.prompts import read_prompts
from pairsight.formats.record_tables import read_candidates
from pairsight.pipeline.build import build
from pairsight.recipes.feedback import Feedback
from pairsight.store.ledger import Ledger
from pairsight.store.sealed import verified_files
from pairsight.store.status import run_status
from pairsight.tiny.truth.annotator import TruthAnnotator
from pairsight.tiny.truth.model import TruthModel
from pairsight.tiny.truth.server import TruthServer, chat_completion
from pairsight.tiny.world.world_files import write_world

FAULTS: tuple[Fault, ...] = ("429", "500", "torn", "disconnect", "error-200", "html-502")
OPTIONS = ["--set", "max_new_tokens=24", "--set", "temperature=1.0"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("truth") / "world", scenes=4, seed=6)


def built(world: Path, out: Path, annotator: str, *more: str) -> int:
    given = ["build", "feedback", "--model", str(world / "model"), "--prompts", str(world / "prompts.json")]
    given += ["--images", str(world / "images"), "--out", str(out), "--annotator", annotator, "--quiet"]
    return main([*given, *OPTIONS, *more])


def pairs(run: Path) -> list[tuple[str, str, list[str], list[dict[str, float]]]]:
    """What must be equal: who beats whom, and every score; not who said so and in which words."""
    return [
        (
            pair.prompt.id,
            pair.chosen.text,
            [one.text for one in pair.rejected],
            [dict(a.scores) for a in pair.annotations],
        )
        for pair in read_pairs(run / "data")
    ]


@pytest.fixture(scope="module")
def expected(world: Path) -> list[tuple[str, str, list[str], list[dict[str, float]]]]:
    prompts = read_prompts(world / "prompts.json", images=world / "images")
    recipe = Feedback(max_new_tokens=24, temperature=1.0)
    annotator = TruthAnnotator(world / "truth.jsonl")
    build(recipe, prompts, model=world / "model", run=world.parent / "here", annotator=annotator, quiet=True)
    return pairs(world.parent / "here")


def test_the_pairs_are_those_of_the_truth_in_process(
    world: Path,
    tmp_path: Path,
    expected: list[tuple[str, str, list[str], list[dict[str, float]]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TruthServer(world) as server:
        prices = ["--set", "calls.prices.truth.prompt=1", "--set", "calls.prices.truth.completion=2"]
        assert built(world, tmp_path / "run", server.model_name, *prices) == 0
    assert pairs(tmp_path / "run") == expected
    (spent,) = [stage.spent for stage in run_status(tmp_path / "run").stages if stage.spent is not None]
    assert spent.calls == 14
    assert spent.cost == pytest.approx((spent.prompt_tokens + 2 * spent.completion_tokens) / 1e6)
    tokens = f"{spent.prompt_tokens} prompt and {spent.completion_tokens} completion tokens"
    assert f"annotate: 14 calls, {tokens}, cost {spent.cost:.4f}" in capsys.readouterr().out
    assert "summary: annotate: 14 done" in (tmp_path / "run" / "run.log").read_text()
    assert len(expected) >= 3


def test_structured_answers_make_the_same_pairs(
    world: Path, tmp_path: Path, expected: list[tuple[str, str, list[str], list[dict[str, float]]]]
) -> None:
    with TruthServer(world) as server:
        assert built(world, tmp_path / "run", server.model_name, "--set", "endpoint.structured_output=true") == 0
    assert pairs(tmp_path / "run") == expected
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        kept = [json.loads(json.loads(raw)["choices"][0]["message"]["content"]) for (raw,) in
                ledger.read("SELECT raw FROM answers", ())]  # fmt: skip
    answers = [answer for said in kept for answer in said["answers"]]
    assert len(answers) >= len(kept) == 14
    assert all(list(answer)[1] == "reasons" for answer in answers)


def test_faults_in_half_of_all_calls_change_nothing_but_time(
    world: Path,
    tmp_path: Path,
    expected: list[tuple[str, str, list[str], list[dict[str, float]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "OPEN_S", (0.1, 0.1, 0.1))
    monkeypatch.setattr("pairsight.engine.calls.calls.LONGEST_BACKOFF_S", 0.02)
    model = TruthModel(world)
    seen: Counter[str] = Counter()

    def every_second(question: str, time_asked: int) -> Fault:
        seen[question] += 1
        return FAULTS[len(seen) % len(FAULTS)] if time_asked % 2 == 0 else ""

    with FaultServer(every_second, respond=lambda body: chat_completion(model, body)) as server:
        assert built(world, tmp_path / "run", f"endpoint:truth@{server.url}") == 0
    assert pairs(tmp_path / "run") == expected
    assert len(seen) == 14
    assert all(count % 2 == 0 for count in seen.values())
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        kept = [
            json.loads(raw)["choices"][0]["message"]["content"] for (raw,) in ledger.read("SELECT raw FROM answers", ())
        ]
    assert len(kept) == len(seen)
    assert all(text.index("Answer 1: ") < text.index("Helpfulness: ") for text in kept)


def test_the_annotators_own_answers_are_the_truth(world: Path, tmp_path: Path) -> None:
    with TruthServer(world) as server:
        assert built(world, tmp_path / "run", server.model_name, "--set", "annotator_answers=true",
                     "--set", "strategy=sft") == 0  # fmt: skip
    rows = {row["id"]: row for row in map(json.loads, (world / "truth.jsonl").read_text().splitlines())}
    (stage,) = [one for one in run_status(tmp_path / "run").stages if one.stage == "answer"]
    assert (stage.done, stage.failed) == (14, {})
    candidates = list(read_candidates(verified_files(tmp_path / "run" / "data", "candidates")))
    assert len(candidates) == 14
    for one in candidates:
        (answer,) = [c for c in one.completions if c.derived_from == "annotator"]
        assert answer.text == rows[one.prompt.id]["answer"]


def test_cut_characters_in_every_answer_change_no_pair_and_the_run_resumes_retries_and_reports(
    world: Path, tmp_path: Path, expected: list[tuple[str, str, list[str], list[dict[str, float]]]]
) -> None:
    model = TruthModel(world)

    def cut(body: dict[str, Any]) -> dict[str, Any]:
        said = chat_completion(model, body)
        said["choices"][0]["message"]["content"] += "\n\ud83d"
        return said

    with FaultServer(respond=cut) as server:
        for _ in range(2):
            assert built(world, tmp_path / "run", f"endpoint:truth@{server.url}") == 0
            assert main(["retry", str(tmp_path / "run")]) == 0
        assert set(server.asked.values()) == {1}
    assert pairs(tmp_path / "run") == expected
    critiques = [a.critique for pair in read_pairs(tmp_path / "run" / "data") for a in pair.annotations]
    assert len(critiques) == 2 * len(expected)
    assert all(critique.endswith("\n\ufffd") for critique in critiques)
    assert main(["status", str(tmp_path / "run"), "--verify"]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    (spent,) = [stage.spent for stage in run_status(tmp_path / "run").stages if stage.spent is not None]
    assert spent.replaced_texts == 14
