"""Answers made elsewhere, joined to the samples by id, never by position; a wrong, missing or double id is named."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pairsight.benchmarks.files.official import Row, listed_rows, read_json, read_jsonl
from pairsight.errors import DataError, did_you_mean
from pairsight.store.durable import write_file

ID_FIELDS = ("question_id", "id", "questionId", "q_id")
TEXT_FIELDS = ("text", "answer", "prediction", "response")
_NAMED = 3  # missing ids that an error names


def answer_rows(
    path: Path, ids: Sequence[str] = ID_FIELDS, texts: Sequence[str] = TEXT_FIELDS
) -> Iterator[tuple[Row, str]]:
    """Each row of an answers file, named by its id, with its text.

    Args:
        path: JSON Lines, or one JSON list.
        ids: fields that may hold the id, the first that is there.
        texts: fields that may hold the text.

    Raises:
        DataError: a row without id or text, or whose text is no text.
    """
    for bare in json_rows(path):
        row = bare.named(*ids)
        yield row, answer_text(row, texts)


def answer_text(row: Row, texts: Sequence[str] = TEXT_FIELDS) -> str:
    """The text of an answers row, which may be empty."""
    field = next((name for name in texts if name in row.values), None)
    if field is None:
        raise row.error(f"no {' or '.join(repr(name) for name in texts)}; found {', '.join(row.values) or 'nothing'}")
    return row.text(field, empty=True)


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON Lines file, or of one JSON list (then `line` counts the objects)."""
    if path.is_file() and _begins_with_list(path):
        values = read_json(path)
        yield from listed_rows(path, values if isinstance(values, list) else [values])
    else:
        yield from read_jsonl(path)


def join(
    rows: Iterable[tuple[Row, str]],
    known: Mapping[str, str],
    path: Path,
    *,
    ignored: Iterable[str] = (),
    may_miss: bool = False,
) -> dict[str, str]:
    """Sample id -> text, from named rows.

    Args:
        rows: from `answer_rows`.
        known: the id in the answers file -> the sample's id.
        path: the answers file, for messages.
        ignored: ids that may be there and are passed over; looked at only when an id is unknown.
        may_miss: whether samples may have no answer.

    Raises:
        DataError: an id that is unknown, there twice, or missing.
    """
    passed_over: frozenset[str] | None = None
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row, text in rows:
        if row.name in lines:
            raise row.error(f"the id was answered already in line {lines[row.name]}", reason="duplicate_id")
        lines[row.name] = row.line
        if row.name in known:
            if known[row.name] in found:
                raise row.error("its question was answered already under another id", reason="duplicate_id")
            found[known[row.name]] = text
            continue
        passed_over = frozenset(ignored) if passed_over is None else passed_over
        if row.name not in passed_over:
            nearest = did_you_mean(row.name, list(known)[:2000]) if len(known) <= 2000 else ""
            raise row.error(f"the benchmark has no such id{nearest}"[:400], reason="foreign_id")
    missing = list({ours: theirs for theirs, ours in reversed(list(known.items())) if ours not in found}.values())[::-1]
    if missing and not may_miss:
        shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        raise DataError(f"{path}: no answer for the id {shown}", reason="missing_id")
    return found


def numbered(names: Iterable[str], mark: str = "#") -> list[str]:
    """Each name, from its second time on with a mark and a number, e.g. 7, 7#2."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}{mark}{seen[name]}")
    return found


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write objects one a line, atomically; returns the path."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_file(path, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    return path


def write_json(path: Path, value: object) -> Path:
    """Write one JSON value, atomically; returns the path."""
    write_file(path, (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    return path


def _begins_with_list(path: Path) -> bool:
    with path.open("rb") as data:
        return data.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
