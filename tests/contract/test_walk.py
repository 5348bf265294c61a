"""A way that can be walked: how many files a verb's functions lie in, and that docs/dataflow.md shows the way it takes.

Each verb runs as a user runs it, on the tiny world, in a process of its own (`recorded_way.py`).
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairsight.tiny.world.world_files import write_world

ROOT = Path(__file__).parents[2]
MOST_FILES = {"build": 60, "align": 52, "evaluate": 56}
"""A later issue raises a bound only with a line in docs/decisions/0011-a-way-that-can-be-walked.md."""

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


@pytest.mark.parametrize("verb", MOST_FILES)
def test_dataflow_shows_the_way_that_a_verb_takes(ways: dict[str, Way], verb: str):
    calls: dict[str, set[str]] = {}
    for caller, callee in ways[verb]:
        calls.setdefault(caller, set()).add(callee)
    shown = list(_shown(verb))
    assert len(shown) > 10
    assert [f"{caller} → {callee}" for caller, callee in shown if not _leads(calls, caller, callee)] == []


def _shown(verb: str) -> Iterator[tuple[str, str]]:
    """The (caller, callee) of each line in the verb's tree in docs/dataflow.md, as indented there."""
    text = (ROOT / "docs" / "dataflow.md").read_text(encoding="utf-8")
    (tree,) = re.findall(rf"^```\npairsight {verb}\b.*\n((?:.+\n)+)```$", text, re.M)
    above: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        function = line.split("  #")[0].strip()
        assert depth <= len(above) + 1, line
        above = [*above[: depth - 1], function]
        if depth > 1:
            yield above[depth - 2], function


def _leads(calls: dict[str, set[str]], caller: str, callee: str) -> bool:
    """Whether one function calls another, itself or through others of their two folders."""
    rooms, seen, ahead = {_room(caller), _room(callee)}, {caller}, [caller]
    while ahead:
        for one in calls.get(ahead.pop(), ()):
            if one == callee:
                return True
            if one not in seen and _room(one) in rooms:
                seen.add(one)
                ahead.append(one)
    return False


def _room(function: str) -> str:
    """The folder of `src/pairsight` that a function is in, or the file that is in none."""
    return function.split(" ", maxsplit=1)[0].partition("/")[0]
