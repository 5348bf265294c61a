"""A way that can be walked: how many files a verb's functions lie in.

Each verb runs as a user runs it, on the tiny world, in a process of its own (`recorded_way.py`).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pairsight.tiny.world.world_files import write_world

MOST_FILES = {"build": 60, "align": 53, "evaluate": 56}
"""A later issue raises a bound only with a line in docs/decisions/0011-the-second-house.md."""

Way = list[tuple[str, str]]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    """What build, align and evaluate call, one after the other on one run."""
    folder = tmp_path_factory.mktemp("walk")
    world = write_world(folder / "world", scenes=6, prompt_scenes=6)
    model, images, run = str(world / "model"), str(world / "images"), str(folder / "run")
    verbs = {
        "build": [
            "build", "seva", "--model", model, "--prompts", str(world / "prompts.json"), "--images", images,
            "--limit", "6", "--set", "noise_step=500", "--set", "max_new_tokens=8", "--out", run,
        ],
        "align": ["align", run, "--model", model],
        "evaluate": [
            "evaluate", run, "--model", model, "--benchmark", f"pope={world / 'pope.jsonl'}", "--images", images,
            "--limit", "4",
        ],
    }  # fmt: skip
    return {verb: _way(folder / f"{verb}.json", arguments) for verb, arguments in verbs.items()}


def _way(out: Path, arguments: list[str]) -> Way:
    recorder = Path(__file__).parents[1] / "recorded_way.py"
    done = subprocess.run(
        [sys.executable, str(recorder), str(out), *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [(caller, callee) for caller, callee in json.loads(out.read_text())]


def _files(way: Way) -> set[str]:
    return {callee.split(" ")[0] for _, callee in way}


@pytest.mark.parametrize("verb", MOST_FILES)
def test_a_verb_goes_through_few_files(ways: dict[str, Way], verb: str):
    files = _files(ways[verb])
    assert len(files) <= MOST_FILES[verb], "\n".join(sorted(files))
    assert len(files) > 20, "the recorder lost its way"
