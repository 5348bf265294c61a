"""Rows of a JSON list or of a JSON Lines file, each with its location, so that errors can name file and line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pairsight.bounded import DuplicateKeyError, unique
from pairsight.errors import DataError, one_line

_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file: its location for messages, its 1-based number among the rows, its values.

    `said` is shared by the rows of a file: the fields that a warning has named already.
    """

    location: str
    number: int
    values: Mapping[str, object]
    said: set[str] = field(default_factory=set, repr=False, compare=False)

    def text(self, name: str) -> str:
        """The string in a field, without surrounding space.

        Raises:
            DataError: the field is missing, no string, or holds characters that cannot be written as UTF-8.
        """
        if name not in self.values:
            raise DataError(f"{self.location}: no '{name}' (found {_found(self.values)})", reason="missing_field")
        return checked_text(self.values[name], f"{self.location}: '{name}'")

    def identity(self, *names: str) -> str:
        """The id in the first of these fields that is there, else `row-<number>`."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                text = str(value) if isinstance(value, int) else checked_text(value, f"{self.location}: '{name}'")
                if not text.isprintable():
                    message = f"{self.location}: '{name}' {text!r:.60} must be one line of printable characters"
                    raise DataError(message, reason="bad_text")
                if text:
                    return text
        return f"row-{self.number}"


def checked_text(value: object, location: str) -> str:
    """A value that must be text, stripped; DataError otherwise or when UTF-8 cannot hold it (lone surrogates)."""
    if not isinstance(value, str):
        raise DataError(f"{location} must be text, found {type(value).__name__} {value!r:.60}", reason="wrong_type")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{location} holds half a surrogate pair, which is not a character", reason="bad_text"
        ) from None
    return value.strip()


def read_rows(path: Path) -> Iterator[Row | DataError]:
    """Every row of a `[…]` JSON file or of a JSON Lines file, lazily; a DataError instead of a bad line or row.

    Raises:
        DataError: the file cannot be read, is not UTF-8, is empty, or is a JSON list that breaks off (with line and
            column): what comes after that cannot be known.
    """
    text = _read_text(path)
    start = _skip_space(text, 0)
    if start == len(text):
        raise DataError(f"{path} is empty: a JSON list or one JSON object a line is needed", reason="empty_file")
    if text[start] == "[":
        yield from _list_rows(path, text, start + 1)
    else:
        yield from _line_rows(path, text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", reason="missing_file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", reason="bad_text") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", reason="missing_file") from None


def _list_rows(path: Path, text: str, position: int) -> Iterator[Row | DataError]:
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    number, line, counted, said = 0, 1, 0, set[str]()
    position = _skip_space(text, position)
    if text[position : position + 1] == "]":
        return
    while True:
        line, counted = line + text.count("\n", counted, position), position
        number += 1
        location = f"{path} line {line} (row {number})"
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _syntax(path, error) from None
        except DuplicateKeyError as error:
            raise DataError(f"{location} has {error}", reason="duplicate_key") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{location}: {_why(error)}", reason="bad_json") from None
        yield _row(location, number, value, said)
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            break
        if text[position : position + 1] != ",":
            raise _syntax(path, json.JSONDecodeError("Expecting ',' or ']'", text, position))
        position = _skip_space(text, position + 1)
    if _skip_space(text, position + 1) != len(text):
        raise _syntax(path, json.JSONDecodeError("Extra data after the list", text, position + 1))


def _line_rows(path: Path, text: str) -> Iterator[Row | DataError]:
    number, said = 0, set[str]()
    for index, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        number += 1
        location = f"{path} line {index}"
        try:
            yield _row(location, number, json.loads(line, object_pairs_hook=unique), said)
        except json.JSONDecodeError as error:
            hint = "; one JSON object a line is needed" if number == 1 else ""
            yield DataError(f"{location}: not JSON at column {error.colno}: {error.msg}{hint}", reason="bad_json")
        except DuplicateKeyError as error:
            yield DataError(f"{location} has {error}", reason="duplicate_key")
        except (ValueError, RecursionError) as error:
            yield DataError(f"{location}: {_why(error)}", reason="bad_json")


def _row(location: str, number: int, value: object, said: set[str]) -> Row | DataError:
    if isinstance(value, dict):
        return Row(location, number, value, said)
    return DataError(f"{location}: a row must be an object {{…}}, found {type(value).__name__}", reason="wrong_type")


def _syntax(path: Path, error: json.JSONDecodeError) -> DataError:
    message = f"{path} line {error.lineno}: not JSON at column {error.colno}: {error.msg}"
    return DataError(message, reason="bad_json")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _found(values: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in list(values)[:8]) or "nothing"


def _why(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
