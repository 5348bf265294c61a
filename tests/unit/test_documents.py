"""What the documents name is there: files, classes, options, links, verbs and flags."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from pairsight.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
INDEX = ROOT / "docs" / "paper_index.md"


def named_in_index() -> list[str]:
    return re.findall(r"`([\w/]+\.(?:py|csv)(?::[\w.]+)?)`", INDEX.read_text(encoding="utf-8"))


def names(path: Path) -> set[str]:
    """Every top-level name of a module, and `Class.member` for every member written in its body."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for name in _names_of(node):
            found.add(name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{name}.{member}" for part in node.body for member in _names_of(part)}
    return found


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def test_the_paper_index_names_only_what_is_there():
    wrong = []
    for entry in named_in_index():
        file, _, name = entry.partition(":")
        path = ROOT / "src" / "pairsight" / file
        if not path.is_file() or (name and name not in names(path)):
            wrong.append(entry)
    assert wrong == []
    assert len(named_in_index()) > 60


def test_every_numbered_equation_and_table_of_the_papers_is_in_the_index():
    text = INDEX.read_text(encoding="utf-8")
    seva, feedback, synthetic = (part for part in text.split("\n## ")[2:])
    for part, equations, tables in ((seva, 18, 6), (feedback, 0, 9), (synthetic, 10, 5)):
        ranges = re.findall(r"eq\. (\d+)(?:[–, ]+(\d+))?", part)
        covered = {n for low, high in ranges for n in range(int(low), int(high or low) + 1)}
        assert covered == set(range(1, equations + 1))
        assert {int(n) for n in re.findall(r"Table (\d)", part)} == set(range(1, tables + 1))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in targets if link and not (document.parent / link).exists()] == []


def commands() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            if language not in ("", "sh", "bash"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("pairsight ") and "…" not in line:
                    found.append((document.name, line.split("#")[0].strip()))
    return found


def test_the_documents_show_the_verbs():
    shown = {line.split()[1] for _, line in commands()}
    assert shown >= {"tiny", "build", "status", "inspect", "align", "evaluate", "score", "report", "run", "study"}


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_line_has_verbs_and_flags_that_exist(document, line):
    command = typer.main.get_command(app)
    verb, *words = shlex.split(line)[1:]
    assert verb in command.commands, f"{document}: {line}"
    command = command.commands[verb]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {flag for parameter in command.params for flag in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == [], f"{document}: {line}"
