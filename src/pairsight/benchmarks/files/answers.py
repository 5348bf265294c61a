"""Answer files from elsewhere, joined to the samples by id, never by order; a bad, missing or duplicate id is named."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pairsight.benchmarks.files.official import FileRecord, listed_records, read_json, read_jsonl
from pairsight.errors import DataError, did_you_mean
from pairsight.store.durable import write_file

ID_FIELDS = ("question_id", "id", "questionId", "q_id")
TEXT_FIELDS = ("text", "answer", "prediction", "response")
_LISTED_IDS = 3  # missing ids that an error lists


def answer_records(
    path: Path, ids: Sequence[str] = ID_FIELDS, texts: Sequence[str] = TEXT_FIELDS
) -> Iterator[tuple[FileRecord, str]]:
    """The records of an answer file with their ids, and the answer text of each.

    Args:
        path: JSON Lines, or one JSON list.
        ids: fields that may hold the id; the first that exists is used.
        texts: fields that may hold the text.

    Raises:
        DataError: a record without id or text, or whose text is not a string.
    """
    for raw in json_records(path):
        record = raw.with_id(*ids)
        yield record, answer_text(record, texts)


def answer_text(record: FileRecord, texts: Sequence[str] = TEXT_FIELDS) -> str:
    """The answer text of a record; it may be empty."""
    field = next((name for name in texts if name in record.values), None)
    if field is None:
        found = ", ".join(record.values) or "nothing"
        raise record.error(f"no {' or '.join(repr(name) for name in texts)}; found {found}")
    return record.text(field, empty=True)


def json_records(path: Path) -> Iterator[FileRecord]:
    """The objects of a JSON Lines file, or of one JSON list (`line` is then the object's number)."""
    if path.is_file() and _begins_with_list(path):
        values = read_json(path)
        yield from listed_records(path, values if isinstance(values, list) else [values])
    else:
        yield from read_jsonl(path)


def join(
    records: Iterable[tuple[FileRecord, str]],
    known: Mapping[str, str],
    path: Path,
    *,
    ignored: Iterable[str] = (),
    allow_missing: bool = False,
) -> dict[str, str]:
    """Sample id -> answer text.

    Args:
        records: from `answer_records`.
        known: the id in the answer file -> the sample's id.
        path: the answer file, for messages.
        ignored: ids of records to skip; read only once an unknown id is found.
        allow_missing: whether samples may have no answer.

    Raises:
        DataError: an id is unknown, duplicate or missing.
    """
    skipped: frozenset[str] | None = None
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for record, text in records:
        if record.id in lines:
            raise record.error(f"duplicate id, first answered on line {lines[record.id]}", reason="duplicate_id")
        lines[record.id] = record.line
        if record.id in known:
            if known[record.id] in found:
                raise record.error("its question is already answered under another id", reason="duplicate_id")
            found[known[record.id]] = text
            continue
        skipped = frozenset(ignored) if skipped is None else skipped
        if record.id not in skipped:
            nearest = did_you_mean(record.id, list(known)[:2000]) if len(known) <= 2000 else ""
            raise record.error(f"the benchmark has no such id{nearest}"[:400], reason="foreign_id")
    missing = list({ours: theirs for theirs, ours in reversed(list(known.items())) if ours not in found}.values())[::-1]
    if missing and not allow_missing:
        more = f" and {len(missing) - _LISTED_IDS} more" if len(missing) > _LISTED_IDS else ""
        shown = ", ".join(missing[:_LISTED_IDS]) + more
        raise DataError(f"{path}: no answer for the id {shown}", reason="missing_id")
    return found


def numbered(names: Iterable[str], mark: str = "#") -> list[str]:
    """The names, with repeated ones numbered, e.g. 7, 7#2."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}{mark}{seen[name]}")
    return found


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> Path:
    """Write one object per line, atomically; returns the path."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    write_file(path, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    return path


def write_json(path: Path, value: object) -> Path:
    """Write one JSON value, atomically; returns the path."""
    write_file(path, (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    return path


def _begins_with_list(path: Path) -> bool:
    with path.open("rb") as data:
        return data.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
