"""MMBench's tables: questions with images in base64, read as the original reads them, and predictions.

Errors name line and index.
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

from pairsight.benchmarks.files.official import Row, missing
from pairsight.benchmarks.files.xlsx import read_xlsx, write_xlsx
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError

LETTERS = ("A", "B", "C", "D")
_NO_TEXT = ("", "nan", "none")
_LONGEST_REFERENCE = 64  # an image this short is another row's index
_PUBLISHED = "its authors publish the .tsv files at github.com/open-compass/MMBench"


@dataclass(frozen=True, slots=True)
class Question:
    """One row: its options by letter, empty ones left out."""

    row: Row
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
        """Hint, question and lettered options up to the first that is empty, a line each, as LLaVA shows them."""
        lines = [self.question] if self.hint.lower() in _NO_TEXT else [self.hint, self.question]
        for letter in LETTERS:
            option = self.options.get(letter, "")
            if option.lower() in _NO_TEXT:
                break
            lines.append(f"{letter}. {option}")
        return "\n".join(lines)


def read_table(path: Path) -> list[Question]:
    """The rows of an MMBench TSV.

    Values are read by pandas as the original does, so that an option `None` or `NA` is no option.

    Raises:
        DataError: no such file, another separator, a row with a wrong number of fields, a bad or double index, no
            question, or an image that is missing or not base64.
    """
    lines = dict(_lines(path))
    import pandas as pd

    frame = pd.read_csv(path, sep="\t", encoding="utf-8-sig")
    rows = []
    for position, record in enumerate(frame.to_dict("records")):
        values = {str(name): value for name, value in record.items() if not _is_nan(value)}
        rows.append(Row(path, lines[position], values, str(int(float(values["index"])))))
    images: dict[int, tuple[bytes, str]] = {}
    questions = []
    for row in rows:
        data = row.values.get("image")
        if isinstance(data, str) and len(data) > _LONGEST_REFERENCE:
            images[_index(row)] = b"", data
    decoded: dict[int, bytes] = {}
    for row in rows:
        source = _image_index(row, images)
        if source not in decoded:
            decoded[source] = _bytes(row, images[source][1])
        questions.append(_question(row, source, decoded[source]))
    return questions


def prediction_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """The predictions of a table (.xlsx, .tsv, .csv) with `index` and `prediction`, each row named by its index.

    Raises:
        DataError: the file cannot be read, a column is not there, or an index is empty.
    """
    rows = [[cell or "" for cell in cells] for cells in read_xlsx(path)] if path.suffix == ".xlsx" else _fields(path)
    if not rows or not {"index", "prediction"} <= set(rows[0]):
        found = ", ".join(rows[0][:10]) if rows else "nothing"
        raise DataError(f"{path}:1: columns 'index' and 'prediction' are expected, found {found}")
    index, prediction = rows[0].index("index"), rows[0].index("prediction")
    for number, fields in enumerate(rows[1:], start=2):
        row = Row(path, number, {}, fields[index].removesuffix(".0") if index < len(fields) else "")
        if not row.name:
            raise row.error("'index' is empty")
        yield row, fields[prediction] if prediction < len(fields) else ""


def write_predictions(path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> Path:
    """The .xlsx file that LLaVA uploads: index, question, A–D, prediction, and answer and split where known."""
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


def _question(row: Row, source: int, image: bytes) -> Question:
    values = {name: str(row.values.get(name, "")) for name in ("hint", "answer", "category", "l2-category", "split")}
    options = {letter: str(row.values[letter]) for letter in LETTERS if letter in row.values}
    if "question" not in row.values:
        raise row.error("'question' is empty")
    if len(options) < 2:
        raise row.error(f"two to four options are expected in A–D, found {len(options)}")
    if values["answer"] and values["answer"] not in options:
        raise row.error(f"'answer' must be one of {', '.join(options)}, found {values['answer'][:40]!r}")
    return Question(
        row, _index(row), str(row.values["question"]), values["hint"], options, values["answer"], values["category"],
        values["l2-category"], values["split"], image, source,
    )  # fmt: skip


def _index(row: Row) -> int:
    return int(row.name)


def _image_index(row: Row, images: Mapping[int, Any]) -> int:
    value = row.values.get("image")
    if value is None:
        raise row.error("'image' is empty")
    if isinstance(value, str) and len(value) > _LONGEST_REFERENCE:
        return _index(row)
    try:
        source = int(float(str(value)))
    except (TypeError, ValueError, OverflowError):
        raise row.error(f"'image' must be base64 or another row's index, found {str(value)[:40]!r}") from None
    if source not in images:
        raise row.error(f"'image' names the index {source}, which has no image")
    return source


def _bytes(row: Row, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise row.error("'image' is not base64", reason="not_an_image") from None


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """(row number from 0, line) of every data row, once the table is known to be sound."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"MMBench: {missing(path, error)}; {_PUBLISHED}", reason="missing_file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})", reason="not_utf8") from None
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        yield from _sound_lines(path, text)
    except csv.Error as error:
        raise DataError(f"{path} is no TSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _sound_lines(path: Path, text: str) -> Iterator[tuple[int, int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    header = next(reader, [])
    lacking = [name for name in ("index", "question", "A", "B", "image") if name not in header]
    if lacking:
        hint = "; is this comma-separated?" if len(header) == 1 and "," in header[0] else ""
        raise DataError(
            f"{path}:1: the header has no {', '.join(lacking)}; tabs are expected between names{hint}; {_PUBLISHED}",
            reason="bad_header",
        )
    first: dict[str, int] = {}
    place = header.index("index")
    position = 0
    line = reader.line_num + 1
    for fields in reader:
        if fields:
            row = Row(path, line, {}, fields[place] if place < len(fields) else "")
            if len(fields) != len(header):
                raise row.error(f"{len(header)} fields are expected, found {len(fields)}")
            if not re.fullmatch(r"\d{1,15}(?:\.0+)?", row.name):
                raise row.error(f"'index' must be a whole number, found {row.name[:40]!r}")
            if row.name in first:
                raise row.error(f"the index stands already in line {first[row.name]}", reason="duplicate_id")
            first[row.name] = line
            yield position, line
            position += 1
        line = reader.line_num + 1
    if position == 0:
        raise DataError(f"{path} has a header but no rows", reason="empty_file")


def _fields(path: Path) -> list[list[str]]:
    """The rows of a .tsv or .csv file; a row is counted as one line however many its quoted texts take."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = "\t" if path.suffix == ".tsv" else ","
        return [fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None
