"""The house's own rules: sizes, names, lazy imports."""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pairsight

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
BANNED = {"utils", "util", "common", "helpers", "helper", "misc", "manager"}


def test_no_file_is_longer_than_400_lines_and_the_median_is_between_120_and_220():
    sizes = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert 120 <= statistics.median(size for size in sizes.values() if size > 1) <= 220


def test_no_folder_holds_more_than_20_files():
    counts = Counter(p.parent.relative_to(ROOT) for p in SOURCES if p.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > 20} == {}


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


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file names in imports: at its top, inside functions, and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules.keys()


def test_no_modules_import_each_other_in_a_circle_not_even_inside_functions():
    modules = {".".join(p.relative_to(ROOT / "src").with_suffix("").parts): p for p in SOURCES}
    modules = {name: p for name, p in modules.items() if p.name != "__init__.py"}
    graph = {name: _imports(p, modules) for name, p in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


def test_nobody_below_the_command_line_imports_the_package_face():
    face = re.compile(r"^\s*(?:import pairsight|from pairsight import __version__)\b(?!\.)", re.M)
    assert [str(p) for p in SOURCES if face.search(p.read_text(encoding="utf-8"))] == []


def test_nothing_loads_remote_code_or_pickles_by_default():
    text = {p: p.read_text(encoding="utf-8") for p in SOURCES}
    assert [str(p) for p, t in text.items() if "trust_remote_code=True" in t] == []
    assert [str(p) for p, t in text.items() if re.search(r"^\s*import pickle", t, re.M)] == []
    loads = {p.name: re.findall(r"torch\.load\(.*", t) for p, t in text.items() if "torch.load(" in t}
    assert list(loads) == ["pickles.py"]
    assert all(", weights_only=True" in call for call in loads["pickles.py"])


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


def test_no_room_asks_which_model_it_was_given():
    """What one kind of Generator, Annotator, Recipe, Strategy or Benchmark does otherwise is a method of the base."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    contracts = {"Generator", "Annotator", "Recipe", "Strategy", "Benchmark"}
    derived = set(contracts)
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in range(3):
        derived |= {one.name for one in classes if {ast.unparse(base) for base in one.bases} & derived}
    assert {"EndpointModel", "LocalVLM", "VlmAnnotator", "MMBenchCn"} <= derived
    asking = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)} & (
                    derived - contracts
                )
                asking += [f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in asked]
    assert asking == []
