"""What travels between rooms is a record. Mappings of anything are for the edges, each listed with its reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "pairsight"
BOTH_WAYS = {"parse", "to_plain", "from_plain", "__getstate__", "__setstate__"}
"""Functions that make a record of plain values, or plain values of a record."""
EDGES = {
    "files": (
        "bounded.py", "config.py", "store", "formats", "benchmarks/files", "benchmarks/suites",
        "benchmarks/protocol.py", "benchmarks/results.py", "benchmarks/evaluate.py", "training/adapter.py",
    ),
    "requests, answers and models' own files": ("engine/calls", "engine/stage.py", "models", "tiny"),
    "other libraries": (
        "engine/ray.py", "pipeline/lmms_eval.py", "training/vision", "training/policy.py",
    ),
    "options as a user gives them, in flags, a config or Python": (
        "cli", "options.py", "build_record.py", "registry.py", "pipeline/run.py", "pipeline/evaluate.py",
        "studies/strategies.py",
        "benchmarks/tasks.py", "benchmarks/score.py", "training/objective.py", "training/trainer.py",
    ),
}  # fmt: skip
"""Reason -> the files and folders of src/pairsight that may have mappings of anything outside `BOTH_WAYS`."""
MOST = 249
"""Mappings of anything in all of src/pairsight; a later issue raises it only with a line in docs/decisions/0012."""


def mappings(source: str) -> Iterator[tuple[int, str]]:
    """(line, enclosing function) of each `dict` or `Mapping` from text to `Any` or `object`, by an alias or not."""
    tree = ast.parse(source)
    aliases = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and any(_is_mapping(part, set()) for part in ast.walk(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, function = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if _is_mapping(node, aliases):
            yield node.lineno, function  # type: ignore[attr-defined]
        waiting += [(child, function) for child in ast.iter_child_nodes(node)]


def _is_mapping(node: ast.AST, aliases: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in aliases and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Constant):  # an annotation as text
        return isinstance(node.value, str) and bool(re.search(r"\b(dict|Mapping)\[str, (Any|object)\]", node.value))
    return isinstance(node, ast.Subscript) and bool(
        re.fullmatch(r"(?:\w+\.)?\w*([dD]ict|Mapping)\[str, (Any|object)\]", ast.unparse(node))
    )


def test_mappings_of_anything_are_at_the_edges_and_few() -> None:
    edges = [SOURCE / path for paths in EDGES.values() for path in paths]
    assert [str(path) for path in edges if not path.exists()] == []
    count, elsewhere = 0, []
    for path in sorted(SOURCE.rglob("*.py")):
        for line, function in mappings(path.read_text(encoding="utf-8")):
            count += 1
            if function not in BOTH_WAYS and not any(edge in (path, *path.parents) for edge in edges):
                elsewhere.append(f"{path.relative_to(SOURCE)}:{line} {function}")
    assert elsewhere == []
    assert count <= MOST


def test_no_edge_is_listed_for_nothing() -> None:
    unused = []
    for path in (SOURCE / path for paths in EDGES.values() for path in paths):
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if all(function in BOTH_WAYS for file in files for _, function in mappings(file.read_text(encoding="utf-8"))):
            unused.append(str(path.relative_to(SOURCE)))
    assert unused == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x: dict[str, Any] = {}", [(1, "")]),
        ("def f(x: 'Mapping[str, object] | None') -> None: ...", [(1, "f")]),
        ("def f() -> list[dict[str, object]]: ...", [(1, "f")]),
        ("P = dict[str, object]\ndef f(x: P) -> P: ...", [(1, ""), (2, "f"), (2, "f")]),
        ("class C:\n    def to_plain(self) -> dict[str, object]: ...", [(2, "to_plain")]),
        ("def f(x: dict[str, int], y: dict[int, Any]): return dict(a=1)", []),
    ],
)
def test_a_mapping_of_anything_is_found_however_it_is_written(source: str, found: list[tuple[int, str]]) -> None:
    assert sorted(mappings(source)) == found
