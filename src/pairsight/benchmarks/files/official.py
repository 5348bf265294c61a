"""Strict readers of official files: each error names the file, the line, the id, what was found and what is allowed."""

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
    """How `load` refers to images: by a file name in the user's folder, or by bytes embedded in the official file."""

    def ref(self, name: str, *others: str) -> ImageRef:
        """The image called `name`, else the first of `others` that exists; DataError when all are missing or bad."""
        ...

    def add(self, data: bytes, name: str) -> ImageRef:
        """The image in `data`, stored for the model; `name` is for messages. DataError for a bad image."""
        ...


_LONGEST_NAME = 260  # longer text is an image in base64


@dataclass(slots=True)
class FileRecord:
    """One record of an official file or an answer file, with its file and line for error messages.

    `id` is empty until `with_id` sets it. Not frozen: files hold hundreds of thousands of records, and creating a
    frozen one takes three times as long.
    """

    file: Path
    line: int
    values: Mapping[str, object]
    id: str = ""

    def error(self, problem: str, reason: str = "bad_row") -> DataError:
        """A DataError about this record: file, line, id and the problem."""
        identity = f" (id {one_line(self.id, 80)})" if self.id else ""
        return DataError(f"{self.file}:{self.line}{identity}: {one_line(problem, 500)}", reason=reason)

    def with_id(self, *fields: str) -> "FileRecord":
        """This record with its id, read from the first of `fields` it has: non-empty text or an integer."""
        for field in fields:
            if field in self.values:
                value = self.values[field]
                if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                    raise self.error(f"'{field}' must be an id (text or whole number), found {_shown(value)}")
                return FileRecord(self.file, self.line, self.values, str(value))
        raise self.error(f"no {' or '.join(repr(f) for f in fields)}; found {self._fields()}")

    def text(self, field: str, *, empty: bool = False) -> str:
        """The text in `field`; empty text only if `empty` allows it."""
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
        """The integer in `field`."""
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

    def listed(self, field: str) -> "Iterator[FileRecord]":
        """The objects of the list in `field`, each with this record's line and id."""
        value = self._get(field)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(f"'{field}' must be a list of objects, found {_shown(value)}")
        return (FileRecord(self.file, self.line, item, self.id) for item in value)

    def image(self, images: SampleImages, field: str) -> ImageRef:
        """The image that `field` names; a bad image is reported as this record's error."""
        return self.image_called(images, self.text(field))

    def image_called(self, images: SampleImages, name: str, *others: str) -> ImageRef:
        """The image called `name`, else the first of `others` that exists; a bad image is this record's error."""
        try:
            return images.ref(name, *others)
        except DataError as error:
            raise self.error(str(error), reason=error.reason) from None

    def image_of(self, images: SampleImages, data: bytes, name: str) -> ImageRef:
        """The image in `data`; a bad image is this record's error. `name` is for the message."""
        try:
            return images.add(data, name)
        except DataError as error:
            raise self.error(str(error), reason=error.reason) from None

    def image_or_base64(self, images: SampleImages, field: str) -> ImageRef:
        """The image that `field` names or holds in base64; a bad image is this record's error."""
        text = self.text(field)
        if len(text) <= _LONGEST_NAME:
            return self.image_called(images, text)
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            raise self.error(f"'{field}' is neither a file name nor base64", reason="not_an_image") from None
        return self.image_of(images, data, f"{self.file.name}, image {self.id}")

    def _get(self, field: str) -> Any:
        if field not in self.values:
            raise self.error(f"no '{field}'; found {self._fields()}")
        return self.values[field]

    def _fields(self) -> str:
        return ", ".join(str(name) for name in list(self.values)[:12]) or "no fields"


def escape_surrogates(text: str) -> str:
    r"""Text that UTF-8 can encode: a lone surrogate, which JSON allows, is written as an escape such as `\\ud83d`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


_ObjectMaker = Callable[[Sequence[tuple[str, Any]]], object]
"""Makes an object's value from its names and values, in their order."""
_DECODE = json.JSONDecoder(object_pairs_hook=unique).decode  # `json.loads` first checks each line's encoding


class UniqueIds:
    """Refuses a repeated id and names both lines."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}

    def add(self, record: FileRecord) -> str:
        """The record's id; DataError if an earlier record has it."""
        first = self._lines.setdefault(record.id, record.line)
        if first != record.line:
            raise record.error(f"duplicate id, first on line {first}; ids must be unique", reason="duplicate_id")
        return record.id


def unique_records(records: Iterable[FileRecord], *fields: str) -> Iterator[FileRecord]:
    """The records with their ids, read from the first of `fields` each has; DataError for a duplicate id."""
    ids = UniqueIds()
    for raw in records:
        record = raw.with_id(*fields)
        ids.add(record)
        yield record


def listed_records(path: Path, items: Sequence[Any], field: str = "") -> Iterator[FileRecord]:
    """The objects of a list in a JSON file; `line` is their 1-based number in the list.

    Args:
        path: the file, for messages.
        items: the list.
        field: the field that holds the list, for messages; "" for the top level.

    Raises:
        DataError: an item is not an object.
    """
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            where = f"item {number} of '{field}'" if field else f"item {number}"
            raise DataError(f"{path}: {where} must be an object, found {type(item).__name__}")
        yield FileRecord(path, number, item)


def read_jsonl(path: Path) -> Iterator[FileRecord]:
    """The objects of a JSONL file, one per line; empty lines are skipped.

    Only a line feed ends a line: U+2028 and U+0085 within a text belong to it.

    Raises:
        DataError: the file is missing; a line is not UTF-8, not JSON (e.g. a truncated last line) or not an object.
    """
    num_records = 0
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    num_records += 1
                    yield _json_record(path, number, line)
    except OSError as error:
        raise unreadable(path, error) from None
    if num_records == 0:
        raise DataError(f"{path} is empty: one JSON object per line is expected", reason="empty_file")


def _json_record(path: Path, number: int, line: bytes) -> FileRecord:
    origin = FileRecord(path, number, {})
    try:
        values = _DECODE(line.decode("utf-8"))
    except DuplicateKeyError as error:
        raise origin.error(f"has {error}", reason="duplicate_key") from None
    except (ValueError, RecursionError):
        values = _parse(line, origin)
    if not isinstance(values, dict):
        hint = "; is this a JSON list instead of JSONL?" if isinstance(values, list) else ""
        raise origin.error(f"a JSON object is expected, found {_shown(values)}{hint}", reason="not_json")
    origin.values = values
    return origin


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text without line end) of the non-empty lines of a UTF-8 file.

    Raises:
        DataError: the file is missing, empty or not UTF-8.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise unreadable(path, error) from None
    found = []
    for number, raw in enumerate(lines, start=1):
        try:
            text = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError:
            raise FileRecord(path, number, {}).error("not UTF-8", reason="not_utf8") from None
        if text.strip():
            found.append((number, text))
    if not found:
        raise DataError(f"{path} is empty", reason="empty_file")
    return found


def read_json(path: Path, object_hook: Callable[[dict[str, object]], object] | None = None) -> Any:
    """The value in a JSON file; DataError if it is missing, not UTF-8, not JSON, or has a duplicate key in an object.

    Args:
        path: the file.
        object_hook: replaces each object while it is read, as in `json.loads`; saves memory.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    maker: _ObjectMaker = unique if object_hook is None else (lambda pairs: object_hook(unique(pairs)))
    try:
        return _parse(data.removeprefix(b"\xef\xbb\xbf"), FileRecord(path, 1, {}), maker)
    except DuplicateKeyError as error:
        raise DataError(f"{path} has {error}; one of the two values would be lost", "duplicate_key") from None


def _parse(data: bytes, origin: FileRecord, maker: _ObjectMaker | None = None) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=maker)
    except DuplicateKeyError:
        raise
    except UnicodeDecodeError as error:
        raise origin.error(f"not UTF-8 (byte {error.start + 1} of the line)", reason="not_utf8") from None
    except json.JSONDecodeError as error:
        where = FileRecord(origin.file, origin.line + error.lineno - 1, {})
        raise where.error(f"not JSON: {error.msg} at column {error.colno}", reason="not_json") from None
    except (RecursionError, ValueError) as error:
        raise origin.error(f"unsupported JSON: {error}", reason="not_json") from None


def unreadable(path: Path, error: OSError) -> DataError:
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
        raise unreadable(path, error) from None
    return digest.hexdigest()


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}{'…' if len(text) > 60 else ''}"
