"""MMBench's tables: questions with base64 images, read as the original reads them, and predictions.

Errors name the line and the index.
"""

import base64
import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsight.benchmarks.files.official import FileRecord, unreadable
from pairsight.benchmarks.files.xlsx import read_xlsx, write_xlsx
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError

LETTERS = ("A", "B", "C", "D")
_NO_TEXT = ("", "nan", "none")
_LONGEST_INDEX = 64  # a longer `image` is base64; a shorter one is the index of the row that has the image
_PUBLISHED = "its authors publish the .tsv files at github.com/open-compass/MMBench"


@dataclass(frozen=True, slots=True)
class Question:
    """One row. `options`: letter -> text, without empty ones. `image_index`: the row that has the image."""

    record: FileRecord
    index: int
    question: str
    hint: str
    options: Mapping[str, str]
    answer: str
    category: str
    l2_category: str
    split: str
    image: bytes
    image_index: int

    @property
    def text(self) -> str:
        """Hint, question and lettered options up to the first empty one, one per line, as LLaVA shows them."""
        lines = [self.question] if self.hint.lower() in _NO_TEXT else [self.hint, self.question]
        for letter in LETTERS:
            option = self.options.get(letter, "")
            if option.lower() in _NO_TEXT:
                break
            lines.append(f"{letter}. {option}")
        return "\n".join(lines)


def read_table(path: Path) -> list[Question]:
    """The rows of an MMBench TSV.

    pandas reads the values, as in the original, so that an option `None` or `NA` counts as empty.

    Raises:
        DataError: no such file, another separator, a row with a wrong number of fields, a bad or duplicate index, no
            question, or an image that is missing or not base64.
    """
    lines = dict(_lines(path))
    import pandas as pd

    frame = pd.read_csv(path, sep="\t", encoding="utf-8-sig")
    records = []
    for position, row in enumerate(frame.to_dict("records")):
        values = {str(name): value for name, value in row.items() if not _is_nan(value)}
        records.append(FileRecord(path, lines[position], values, str(int(float(values["index"])))))
    encoded: dict[int, str] = {}
    for record in records:
        data = record.values.get("image")
        if isinstance(data, str) and len(data) > _LONGEST_INDEX:
            encoded[_index(record)] = data
    questions = []
    decoded: dict[int, bytes] = {}
    for record in records:
        source = _image_index(record, encoded)
        if source not in decoded:
            decoded[source] = _bytes(record, encoded[source])
        questions.append(_question(record, source, decoded[source]))
    return questions


def prediction_records(path: Path) -> Iterator[tuple[FileRecord, str]]:
    """The predictions in a table (.xlsx, .tsv, .csv) with columns `index` (the id) and `prediction`.

    Raises:
        DataError: the file cannot be read, a column is missing, or an index is empty.
    """
    rows = [[cell or "" for cell in cells] for cells in read_xlsx(path)] if path.suffix == ".xlsx" else _fields(path)
    if not rows or not {"index", "prediction"} <= set(rows[0]):
        found = ", ".join(rows[0][:10]) if rows else "nothing"
        raise DataError(f"{path}:1: columns 'index' and 'prediction' are expected, found {found}")
    index, prediction = rows[0].index("index"), rows[0].index("prediction")
    for number, fields in enumerate(rows[1:], start=2):
        record = FileRecord(path, number, {}, fields[index].removesuffix(".0") if index < len(fields) else "")
        if not record.id:
            raise record.error("'index' is empty")
        yield record, fields[prediction] if prediction < len(fields) else ""


def write_predictions(path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> Path:
    """Write the .xlsx file that LLaVA uploads: index, question, A–D, prediction, and answer and split where known."""
    samples = sorted((sample for group in groups for sample in group), key=lambda sample: sample.target["line"])
    rows: list[list[str | int | None]] = [["index", "question", *LETTERS, "prediction", "answer", "split"]]
    for sample in samples:
        target = sample.target
        options = [target["options"].get(letter) for letter in LETTERS]
        known = [target["answer"] or None, target["split"] or None]
        rows.append([int(sample.id), target["question"], *options, answers.get(sample.id, ""), *known])
    return write_xlsx(path, rows)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _question(record: FileRecord, source: int, image: bytes) -> Question:
    given = record.values
    optional = {name: str(given.get(name, "")) for name in ("hint", "answer", "category", "l2-category", "split")}
    options = {letter: str(given[letter]) for letter in LETTERS if letter in given}
    if "question" not in given:
        raise record.error("'question' is empty")
    if len(options) < 2:
        raise record.error(f"two to four options are expected in A–D, found {len(options)}")
    if optional["answer"] and optional["answer"] not in options:
        raise record.error(f"'answer' must be one of {', '.join(options)}, found {optional['answer'][:40]!r}")
    return Question(
        record, _index(record), str(given["question"]), optional["hint"], options, optional["answer"],
        optional["category"], optional["l2-category"], optional["split"], image, source,
    )  # fmt: skip


def _index(record: FileRecord) -> int:
    return int(record.id)


def _image_index(record: FileRecord, encoded: Mapping[int, str]) -> int:
    value = record.values.get("image")
    if value is None:
        raise record.error("'image' is empty")
    if isinstance(value, str) and len(value) > _LONGEST_INDEX:
        return _index(record)
    try:
        source = int(float(str(value)))
    except (TypeError, ValueError, OverflowError):
        raise record.error(f"'image' must be base64 or another row's index, found {str(value)[:40]!r}") from None
    if source not in encoded:
        raise record.error(f"'image' names the index {source}, which has no image")
    return source


def _bytes(record: FileRecord, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise record.error("'image' is not base64", reason="not_an_image") from None


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """(0-based number, line) of every data row of a valid table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"MMBench: {unreadable(path, error)}; {_PUBLISHED}", reason="missing_file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})", reason="not_utf8") from None
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        yield from _checked_lines(path, text)
    except csv.Error as error:
        raise DataError(f"{path} is not a TSV file: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _checked_lines(path: Path, text: str) -> Iterator[tuple[int, int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    header = next(reader, [])
    lacking = [name for name in ("index", "question", "A", "B", "image") if name not in header]
    if lacking:
        hint = "; is this comma-separated?" if len(header) == 1 and "," in header[0] else ""
        raise DataError(
            f"{path}:1: the header has no {', '.join(lacking)}; tab-separated names are expected{hint}; {_PUBLISHED}",
            reason="bad_header",
        )
    first: dict[str, int] = {}
    column = header.index("index")
    position = 0
    line = reader.line_num + 1
    for fields in reader:
        if fields:
            record = FileRecord(path, line, {}, fields[column] if column < len(fields) else "")
            if len(fields) != len(header):
                raise record.error(f"{len(header)} fields are expected, found {len(fields)}")
            if not re.fullmatch(r"\d{1,15}(?:\.0+)?", record.id):
                raise record.error(f"'index' must be a whole number, found {record.id[:40]!r}")
            if record.id in first:
                raise record.error(f"duplicate index, first on line {first[record.id]}", reason="duplicate_id")
            first[record.id] = line
            yield position, line
            position += 1
        line = reader.line_num + 1
    if position == 0:
        raise DataError(f"{path} has a header but no rows", reason="empty_file")


def _fields(path: Path) -> list[list[str]]:
    """The rows of a .tsv or .csv file, without empty ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = "\t" if path.suffix == ".tsv" else ","
        return [fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None
