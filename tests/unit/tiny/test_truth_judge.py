"""The judge that knows the world: verdicts by hand, and five benchmarks through a real endpoint."""

import json

import pytest

from pairsight.cli.main import main
from pairsight.tiny.truth.judge import alike, verdict_on
from pairsight.tiny.truth.server import TruthServer
from pairsight.tiny.world.world_files import write_world

BENCHMARKS = ("mm_vet", "llava_bench", "mt_bench", "mmhal", "alpaca_eval")
RED, BLUE = "There is a red circle.", "There is a red circle and a blue ring."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("judged") / "world", scenes=8, prompt_scenes=0)


def test_how_alike_two_texts_are():
    assert alike(BLUE, RED) == 0.5
    assert alike(BLUE, "a blue ring, a red circle") == 1
    assert alike(RED, "a green star") == 0
    assert alike("Yes", "yes, there is") == 1
    assert alike("red", "Red.") == 1
    assert alike("red", "blue") == 0


def test_what_is_not_a_judges_prompt_has_no_verdict():
    assert verdict_on("Is there a red circle in the image?", str) is None
    assert verdict_on("", str) is None


@pytest.mark.timeout(120)
def test_five_benchmarks_are_judged_offline(world, tmp_path, capsys):
    paths = {name: world / "judged" / name for name in BENCHMARKS}
    paths["alpaca_eval"] /= "outputs.json"
    given = [part for name, path in paths.items() for part in ("--benchmark", f"{name}={path}")]
    with TruthServer(world) as server:
        command = ["evaluate", "--model", str(world / "model"), *given, "--images", str(world / "images")]
        status = main([*command, "--out", str(tmp_path / "out"), "--judge", server.model_name, "--limit", "6"])
    assert status == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]
    assert len(found) == len(BENCHMARKS)
    for key, section in found.items():
        assert section["judge"].startswith("endpoint:truth@"), key
        assert section["judge_failed"] == 0
        assert all(metric.get("unparsed", 0) == 0 for metric in section["metrics"].values()), key
