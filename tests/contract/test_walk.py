"""A way that can be walked: how many files a verb's functions lie in; docs/dataflow.md shows its calls in order.

Each verb runs as a user runs it, on the tiny world, in a process of its own (`recorded_way.py`).
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pairsight.tiny.world.world_files import write_world

ROOT = Path(__file__).parents[2]
MOST_FILES = {"build": 60, "align": 61, "evaluate": 57}
"""A later issue raises a bound only with a line in docs/decisions/0011-a-way-that-can-be-walked.md."""

Way = list[tuple[str, str]]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    """What build, align and evaluate call, each call once, by when it came first; one after the other on one run."""
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
    shown = _shown((ROOT / "docs" / "dataflow.md").read_text(encoding="utf-8"), verb)
    assert sum(len(callees) for _, callees in shown) > 10
    assert _untrue(ways[verb], shown) == []


def test_a_line_that_is_not_called_and_lines_in_another_order_are_found():
    way = [("", "cli/m main"), ("cli/m main", "store/a open"), ("store/a open", "store/b read"),
           ("cli/m main", "store/a close"), ("store/a close", "store/b write")]  # fmt: skip
    text = "```\npairsight v X\n  cli/m main\n    {}\n    {}  # why\n      {}\n```\n"
    true = _shown(text.format("store/a open", "store/a close", "store/b write"), "v")
    assert true == [("cli/m main", ["store/a open", "store/a close"]), ("store/a close", ["store/b write"])]
    assert _untrue(way, true) == []
    assert _untrue(way, [("cli/m main", ["store/b read", "store/b write"])]) == [], "through others of the two folders"
    swapped = _shown(text.format("store/a close", "store/a open", "store/b read"), "v")
    assert _untrue(way, swapped) == ["cli/m main → store/a open: called before store/a close"]
    assert _untrue(way, [("store/a open", ["store/b write"])]) == ["store/a open → store/b write: not called"]


def _shown(text: str, verb: str) -> list[tuple[str, list[str]]]:
    """Each line of the verb's tree in docs/dataflow.md that others are indented below, with those of the next depth."""
    (tree,) = re.findall(rf"^```\npairsight {verb}\b.*\n((?:.+\n)+)```$", text, re.M)
    below: list[tuple[str, list[str]]] = []
    above: list[tuple[str, list[str]]] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        function = line.split("  #")[0].strip()
        assert depth <= len(above) + 1, line
        below.append((function, []))
        above = [*above[: depth - 1], below[-1]]
        if depth > 1:
            above[depth - 2][1].append(function)
    return [(caller, callees) for caller, callees in below if callees]


def _untrue(way: Way, shown: list[tuple[str, list[str]]]) -> list[str]:
    """The lines whose function is not called by the one above it, or is called before one shown earlier."""
    wrong = []
    for caller, callees in shown:
        last, before = -1, ""
        for callee in callees:
            first = _first_call(way, caller, callee)
            if first is None:
                wrong.append(f"{caller} → {callee}: not called")
            elif first < last:
                wrong.append(f"{caller} → {callee}: called before {before}")
            else:
                last, before = first, callee
    return wrong


def _first_call(way: Way, caller: str, callee: str) -> int | None:
    """When one function first calls another, itself or through others of their two folders: a position in the way."""
    calls: dict[str, dict[str, int]] = {}
    for position, (one, other) in enumerate(way):
        calls.setdefault(one, {})[other] = position
    rooms, seen, ahead, found = {_room(caller), _room(callee)}, {caller}, [caller], []
    while ahead:
        for one, position in calls.get(ahead.pop(), {}).items():
            if one == callee:
                found.append(position)
            elif one not in seen and _room(one) in rooms:
                seen.add(one)
                ahead.append(one)
    return min(found, default=None)


def _room(function: str) -> str:
    """The folder of `src/pairsight` that a function is in, or the file that is in none."""
    return function.split(" ", maxsplit=1)[0].partition("/")[0]
