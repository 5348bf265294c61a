"""Reading official files strictly: every error names the file, the line, the id, what was found and what is allowed."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pairsight.bounded import DuplicateKeyError, unique
from pairsight.errors import DataError, one_line
from pairsight.records import ImageRef


class SampleImages(Protocol):
    """How `load` names its images: by the file's name in the user's folder, or by the bytes the official file holds."""

    def ref(self, name: str, *others: str) -> ImageRef:
        """The image called `name`, else the first of `others` that is there; DataError when all are missing or bad."""
        ...

    def add(self, data: bytes, name: str) -> ImageRef:
        """The image in `data`, kept for the model to see; `name` is for messages; DataError when it is bad."""
        ...


_LONGEST_NAME = 260  # a longer text is an image in base64


@dataclass(slots=True)
class Row:
    """One row of an official file, which knows where it stands. `name` is the row's id, once it is known.

    Not frozen: there are hundreds of thousands of them, and a frozen one takes three times as long to make.
    """

    file: Path
    line: int
    values: Mapping[str, object]
    name: str = ""

    def error(self, problem: str, reason: str = "bad_row") -> DataError:
        """A DataError about this row: file, line, id and the problem."""
        identity = f" (id {one_line(self.name, 80)})" if self.name else ""
        return DataError(f"{self.file}:{self.line}{identity}: {one_line(problem, 500)}", reason=reason)

    def named(self, *fields: str) -> "Row":
        """This row under the id in the first of `fields` it has: a non-empty text or a whole number."""
        for field in fields:
            if field in self.values:
                value = self.values[field]
                if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                    raise self.error(f"'{field}' must be an id (text or whole number), found {_shown(value)}")
                return Row(self.file, self.line, self.values, str(value))
        raise self.error(f"no {' or '.join(repr(f) for f in fields)}; found {self._fields()}")

    def text(self, field: str, *, empty: bool = False) -> str:
        """The text in `field`; empty only where that is allowed."""
        value = self._get(field)
        if not isinstance(value, str):
            raise self.error(f"'{field}' must be text, found {_shown(value)}")
        if not empty and not value.strip():
            raise self.error(f"'{field}' is empty")
        return value

    def choice(self, field: str, allowed: Sequence[str]) -> str:
        """The text in `field`, one of `allowed`."""
        value = self._get(field)
        if value not in allowed:
            raise self.error(f"'{field}' must be one of {', '.join(allowed)}, found {_shown(value)}")
        return str(value)

    def number(self, field: str) -> int:
        """The whole number in `field`."""
        value = self._get(field)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"'{field}' must be a whole number, found {_shown(value)}")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """The list of texts in `field`."""
        value = self._get(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"'{field}' must be a list of texts, found {_shown(value)}")
        return tuple(value)

    def image(self, images: SampleImages, field: str) -> ImageRef:
        """The image that `field` names; a bad one is this row's error."""
        return self.image_called(images, self.text(field))

    def image_called(self, images: SampleImages, name: str, *others: str) -> ImageRef:
        """The image called `name`, else the first of `others` that is there; a bad one is this row's error."""
        try:
            return images.ref(name, *others)
        except DataError as error:
            raise self.error(str(error), reason=error.reason) from None

    def image_of(self, images: SampleImages, data: bytes, name: str) -> ImageRef:
        """The image in `data`; a bad one is this row's error, in which it is called `name`."""
        try:
            return images.add(data, name)
        except DataError as error:
            raise self.error(str(error), reason=error.reason) from None

    def image_or_base64(self, images: SampleImages, field: str) -> ImageRef:
        """The image that `field` names, or whose bytes it holds in base64; a bad one is this row's error."""
        text = self.text(field)
        if len(text) <= _LONGEST_NAME:
            return self.image_called(images, text)
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            raise self.error(f"'{field}' is neither a file's name nor base64", reason="not_an_image") from None
        return self.image_of(images, data, f"{self.file.name}, image {self.name}")

    def _get(self, field: str) -> Any:
        if field not in self.values:
            raise self.error(f"no '{field}'; found {self._fields()}")
        return self.values[field]

    def _fields(self) -> str:
        return ", ".join(str(name) for name in list(self.values)[:12]) or "no fields"


def written(text: str) -> str:
    r"""A text as UTF-8 can hold it: a lone half of a pair of surrogates, which JSON may carry, becomes `\\ud83d`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


_Made = Callable[[Sequence[tuple[str, Any]]], object]
"""What makes an object's value of its names and values, in their order."""
_DECODE = json.JSONDecoder(object_pairs_hook=unique).decode  # `json.loads` looks at every line's encoding first


class UniqueIds:
    """Refuses an id that was there before, naming both lines."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}

    def add(self, row: Row) -> str:
        """The row's id; DataError when another row has it."""
        first = self._lines.setdefault(row.name, row.line)
        if first != row.line:
            raise row.error(f"the id stands already in line {first}; ids must be unique", reason="duplicate_id")
        return row.name


def unique_rows(rows: Iterable[Row], *fields: str) -> Iterator[Row]:
    """The rows under the id in the first of `fields` that each has; DataError when two have one id."""
    ids = UniqueIds()
    for bare in rows:
        row = bare.named(*fields)
        ids.add(row)
        yield row


def listed_rows(path: Path, items: Sequence[Any], field: str = "") -> Iterator[Row]:
    """The objects of a list in a JSON file; `line` counts them.

    Args:
        path: the file, for messages.
        items: the list.
        field: where in the file it is, for messages.

    Raises:
        DataError: an item that is not an object.
    """
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            place = f"item {number} of '{field}'" if field else f"item {number}"
            raise DataError(f"{path}: {place} must be an object, found {type(item).__name__}")
        yield Row(path, number, item)


def read_jsonl(path: Path) -> Iterator[Row]:
    """The objects of a JSONL file, one a line; empty lines are passed over.

    Lines end at a line feed only: U+2028 and U+0085 inside a text are text.

    Raises:
        DataError: the file is missing, or a line is not UTF-8, not JSON (a truncated last line included), no object.
    """
    num_rows = 0
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    num_rows += 1
                    yield _json_row(path, number, line)
    except OSError as error:
        raise missing(path, error) from None
    if num_rows == 0:
        raise DataError(f"{path} is empty: one JSON object a line is expected", reason="empty_file")


def _json_row(path: Path, number: int, line: bytes) -> Row:
    try:
        values = _DECODE(line.decode("utf-8"))
    except DuplicateKeyError as error:
        raise Row(path, number, {}).error(f"has {error}", reason="duplicate_key") from None
    except (ValueError, RecursionError):
        values = _parse(line, Row(path, number, {}))
    if not isinstance(values, dict):
        hint = "; is this a JSON list instead of JSONL?" if isinstance(values, list) else ""
        raise Row(path, number, {}).error(f"a JSON object is expected, found {_shown(values)}{hint}", reason="not_json")
    return Row(path, number, values)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text without its end) of the lines of a UTF-8 file that are not empty.

    Raises:
        DataError: the file is missing, empty or not UTF-8.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise missing(path, error) from None
    found = []
    for number, raw in enumerate(lines, start=1):
        try:
            text = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError:
            raise Row(path, number, {}).error("not UTF-8", reason="not_utf8") from None
        if text.strip():
            found.append((number, text))
    if not found:
        raise DataError(f"{path} is empty", reason="empty_file")
    return found


def read_json(path: Path, object_hook: Callable[[dict[str, object]], object] | None = None) -> Any:
    """The value of a JSON file; DataError when it is missing, not UTF-8, not JSON, or names a key of an object twice.

    Args:
        path: the file.
        object_hook: makes something smaller of each object while it is read, as in `json.loads`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise missing(path, error) from None
    made: _Made = unique if object_hook is None else (lambda pairs: object_hook(unique(pairs)))
    try:
        return _parse(data.removeprefix(b"\xef\xbb\xbf"), Row(path, 1, {}), made)
    except DuplicateKeyError as error:
        raise DataError(f"{path} has {error}; of two such values one would be lost", "duplicate_key") from None


def _parse(data: bytes, place: Row, made: "_Made | None" = None) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=made)
    except DuplicateKeyError:
        raise
    except UnicodeDecodeError as error:
        raise place.error(f"not UTF-8 (byte {error.start + 1} of the line)", reason="not_utf8") from None
    except json.JSONDecodeError as error:
        where = Row(place.file, place.line + error.lineno - 1, {})
        raise where.error(f"not JSON: {error.msg} at column {error.colno}", reason="not_json") from None
    except (RecursionError, ValueError) as error:
        raise place.error(f"not JSON we read: {error}", reason="not_json") from None


def missing(path: Path, error: OSError) -> DataError:
    """The error for a file that cannot be read."""
    what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    return DataError(f"{path} {what}", reason="missing_file")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes; of a folder: of the names and hashes of its files, sorted by name."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.iterdir() if p.is_file()):
            digest.update(f"{file.name}\0{sha256_of(file)}\n".encode())
        return digest.hexdigest()
    try:
        with path.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise missing(path, error) from None
    return digest.hexdigest()


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}{'…' if len(text) > 60 else ''}"
