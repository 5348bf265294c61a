"""The house's own rules: sizes, names, lazy imports."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pairsight

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
BANNED = {"utils", "util", "common", "helpers", "helper", "misc", "manager"}


def test_no_file_is_longer_than_400_lines_and_the_median_is_at_most_180():
    sizes = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert statistics.median(size for size in sizes.values() if size > 1) <= 180


def test_no_function_is_longer_than_60_lines():
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} ({length})")
    assert long == []


def test_no_file_has_a_name_that_says_nothing():
    assert [p for p in SOURCES if p.stem in BANNED or p.parent.name in BANNED] == []


def test_import_pairsight_loads_nothing_heavy():
    code = (
        "import sys, pairsight, pairsight.cli\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'kornia', 'ray', 'pyarrow')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_public_face_is_small_and_every_name_is_there():
    assert len(pairsight.__all__) <= 20
    for name in pairsight.__all__:
        assert getattr(pairsight, name) is not None


def test_imports_point_down_only():
    run = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_nothing_loads_remote_code_or_pickles_by_default():
    text = {p: p.read_text(encoding="utf-8") for p in SOURCES}
    assert [str(p) for p, t in text.items() if "trust_remote_code=True" in t] == []
    assert [str(p) for p, t in text.items() if re.search(r"^\s*import pickle|torch\.load\(", t, re.M)] == []


MAY_PROBE = {"training", "models", "images", "tiny", "studies"}
"""Rooms that hold objects of transformers, peft, diffusers or Pillow, whose attributes differ between versions."""


def test_no_room_probes_our_own_objects():
    """Contracts are base classes with defaults; registry.py alone looks at a user's piece of unknown kind."""
    probing = []
    for path in SOURCES:
        room = path.relative_to(ROOT / "src" / "pairsight").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            has_default = called == "getattr" and isinstance(node, ast.Call) and len(node.args) == 3
            if (called == "hasattr" or has_default) and room not in MAY_PROBE and path.name != "registry.py":
                probing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert probing == []
