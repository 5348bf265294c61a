"""Messages, docstrings, comments and documents are plain standard English: some words are refused in finished rooms."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FINISHED = ("store", "engine", "images", "formats", "models", "recipes", "selection", "tiny", "registry.py",
            "plots.py", "statistics.py", "records.py", "config.py", "bounded.py", "errors.py", "seeds.py",
            "training", "inspection", "cli", "options.py", "build_record.py", "version.py", "__init__.py",
            "pipeline", "reporting", "benchmarks", "studies")  # fmt: skip
"""Rooms and files of src/pairsight whose words were gone through; the others follow."""
PAGES = sorted({ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "LOG.md"})
REFUSED = {
    r"\bmend(s|ed|ing)?\b": "fix or repair",
    r"\bt(ell|ells|old|elling)\b[^.;:]{0,30}\bapart\b": "distinguish",
    r"\bwhole\b(?! (numbers?|intent)\b)": "complete, full or entire",  # annotators are asked for the whole intent
    r"\banew\b": "again",
    r"\bto be had\b": "available or supported",
    r"\bstands?\b(?!-)": "is, goes or means",
    r"\bis at it\b": "holds it or works on it",
    r"(?<!there )\b(is|are) no (?!longer\b|more\b)": "is not a",
    r"(?<!there )\b(is|are) (?-i:none)\b": "is not",
    r"\bnearest right\b": "nearest known",
    r"\b(by|at|of) (the |this |its |their |each |one |same )*places?\b": "index, position or location",
    r"\bso many\b": "this many, or the number",
    r"\bpassed over\b": "skipped",
    r"\b(there|ids?) twice\b": "duplicate",
    r"\ba line each\b": "one per line",
}


def said(source: str) -> list[tuple[int, str]]:
    """The strings and comments of a program, with their lines."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(token.start[0], token.string) for token in tokens if token.type in kinds]


def refused(line: int, text: str) -> list[str]:
    """What is wrong with a text that begins on a line."""
    found = []
    for pattern, instead in REFUSED.items():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            found.append(f"{line + text[: match.start()].count(chr(10))}: '{match[0]}' (say {instead})")
    return found


def test_finished_rooms_speak_plainly() -> None:
    files = [file for name in FINISHED for file in [ROOT / "src" / "pairsight" / name, *room(name)] if file.is_file()]
    assert len(files) > 60
    found = [
        f"{file.relative_to(ROOT)}:{problem}"
        for file in files
        for line, text in said(file.read_text(encoding="utf-8"))
        for problem in refused(line, text)
    ]
    assert found == []


def room(name: str) -> list[Path]:
    return sorted((ROOT / "src" / "pairsight" / name).rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_speak_plainly(page: Path) -> None:
    assert refused(1, page.read_text(encoding="utf-8")) == []


def test_a_refused_word_is_found_where_it_is() -> None:
    source = (
        'def f(x):\n    """Reads.\n\n    Raises: no whole file.\n    """\n    return f"{x} is no model"  # mend it\n'
    )
    assert [problem for line, text in said(source) for problem in refused(line, text)] == [
        "4: 'whole' (say complete, full or entire)", "6: 'is no ' (say is not a)", "6: 'mend' (say fix or repair)",
    ]  # fmt: skip
    assert (
        refused(1, "a whole number; there is no such file; it is no longer there; a stand-in; why there is none") == []
    )
