"""A benchmark is composed of the base class and few named pieces."""

import ast
from pathlib import Path

import pytest

SUITES = sorted((Path(__file__).parents[2] / "src" / "pairsight" / "benchmarks" / "suites").rglob("*.py"))
MOST_NAMES = 8


def own_names(source: str) -> list[str]:
    """The names that a file takes from our own modules, wherever it imports them."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "pairsight"):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "pairsight"]
    return found


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_a_suite_imports_at_most_eight_of_our_names(path):
    names = own_names(path.read_text(encoding="utf-8"))
    assert "*" not in names
    assert len(names) <= MOST_NAMES, names


def test_names_are_counted_wherever_they_are_imported():
    source = "import os\nimport pairsight.x\nfrom pairsight.a import b, c\ndef f():\n    from . import d\n"
    assert sorted(own_names(source)) == ["b", "c", "d", "pairsight.x"]
