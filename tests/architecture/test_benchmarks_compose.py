"""A benchmark is composed of the base class and few named pieces."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
SUITES = sorted((SOURCE / "pairsight" / "benchmarks" / "suites").rglob("*.py"))
MOST_NAMES = 8
OF_A_JUDGE = 4
"""A suite that a judge scores also names what the judge is asked, what it says, and where the authors' words are."""
MOST_REACHED = 13
"""With what is taken from the modules that are imported by name, such as `files.read_jsonl`."""


def own_names(source: str) -> list[str]:
    """The names that a file takes from our own modules, wherever it imports them."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "pairsight"):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "pairsight"]
    return found


def reached_names(source: str) -> list[str]:
    """As `own_names`, with what is taken from an imported module in its stead."""
    tree = ast.parse(source)
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (SOURCE / (node.module or "").replace(".", "/") / f"{alias.name}.py").is_file():
                    modules[alias.asname or alias.name] = alias.name
    taken = {
        f"{modules[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    return [name for name in own_names(source) if name not in modules.values()] + sorted(taken)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_a_suite_imports_at_most_eight_of_our_names(path):
    names = own_names(path.read_text(encoding="utf-8"))
    more = OF_A_JUDGE if "JudgedBenchmark" in names else 0
    assert "*" not in names
    assert len(names) <= MOST_NAMES + more, names
    assert len(reached_names(path.read_text(encoding="utf-8"))) <= MOST_REACHED + more


def test_names_are_counted_wherever_they_are_imported():
    source = "import os\nimport pairsight.x\nfrom pairsight.a import b, c\ndef f():\n    from . import d\n"
    assert sorted(own_names(source)) == ["b", "c", "d", "pairsight.x"]


def test_a_module_counts_as_what_is_taken_from_it():
    source = (
        "from pairsight.benchmarks.files import official as files, xlsx\n"
        "from pairsight.benchmarks.protocol import Sample\n"
        "def f(path: files.FileRecord): return files.read_jsonl(path) or files.read_jsonl(Sample)\n"
    )
    assert reached_names(source) == ["Sample", "official.FileRecord", "official.read_jsonl"]
