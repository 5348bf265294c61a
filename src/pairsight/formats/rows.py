"""Rows of a JSON list or of a JSON Lines file, each with its location, so that errors can name file and line."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from pairsight.bounded import DuplicateKeyError, unique
from pairsight.errors import DataError, one_line

_SPACE = " \t\n\r"
_PIECE = 1 << 20
"""Bytes that are read at once."""
_LONGEST_WORD = 16
"""Characters before the end of a piece within which an error may come from the cut: `-Infinity`, an escape."""


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

    def required(self, name: str) -> object:
        """The value in a field, whatever it is; DataError where it is missing or null."""
        value = self.values.get(name)
        if value is None:
            what = "is null" if name in self.values else f"is missing (found {_found(self.values)})"
            raise DataError(f"{self.location}: '{name}' {what}", reason="missing_field")
        return value

    def optional_text(self, name: str) -> str:
        """The string in a field; "" where the field is missing or null."""
        return "" if self.values.get(name) is None else self.text(name)

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
    """Every row of a `[…]` JSON file or of a JSON Lines file, perhaps gzipped; a DataError instead of a bad row.

    A row and a piece of the file are in memory at once.

    Raises:
        DataError: the file cannot be read, is empty, or is a JSON list that is not UTF-8 or breaks off (with line and
            column): what comes after that cannot be known.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            source = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
            first = _first_character(source)
            if first == b"":
                raise DataError(f"{path} is empty: a JSON list or one JSON object a line is needed", "empty_file")
            source.seek(0)
            yield from _list_rows(path, _Pieces(path, source)) if first == b"[" else _line_rows(path, source)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", reason="missing_file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}", reason="missing_file") from None


def _first_character(source: IO[bytes]) -> bytes:
    """The first byte that is neither white space nor a byte order mark; b"" where there is none."""
    start = True
    while piece := source.read(max(_PIECE, len(codecs.BOM_UTF8))):
        text = (piece.removeprefix(codecs.BOM_UTF8) if start else piece).lstrip(_SPACE.encode())
        start = False
        if text:
            return text[:1]
    return b""


class _Pieces:
    """The text of a JSON list, of which only what is not read yet is held; positions are of the complete file."""

    def __init__(self, path: Path, source: IO[bytes]) -> None:
        self._path, self._source = path, source
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes, self._ended = 0, False
        self._text, self._position = "", 0
        self._line, self._column = 1, 0  # of the first character of `_text`

    def value(self, decoder: json.JSONDecoder) -> object:
        """The next JSON value; json.JSONDecodeError with the place in the file where there is none."""
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_WORD
                if cut and self._more():
                    continue
                raise
            if end < len(self._text) or not self._more():  # a number that ends here may go on
                self._position = end
                return value

    def next(self) -> str:
        """The next character that is not white space, which stays; "" at the end."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Go one character on."""
        self._position += 1

    @property
    def line(self) -> int:
        """The line of the next character."""
        self._forget()
        return self._line

    def syntax(self, message: str, position: int | None = None) -> DataError:
        """The error about the file at a position of what is held; None: at the next character."""
        at = self._position if position is None else position
        before = self._text[:at]
        line, last = self._line + before.count("\n"), before.rfind("\n")
        column = at - last if last >= 0 else self._column + at + 1
        return DataError(f"{self._path} line {line}: not JSON at column {column}: {message}", reason="bad_json")

    def _forget(self) -> None:
        """Drop what was read."""
        read, self._text, self._position = self._text[: self._position], self._text[self._position :], 0
        lines, last = read.count("\n"), read.rfind("\n")
        self._line += lines
        self._column = len(read) - last - 1 if lines else self._column + len(read)

    def _more(self) -> bool:
        """Read on, at least as much as is held; False at the end of the file."""
        if self._ended:
            return False
        data = self._source.read(max(_PIECE, len(self._text) - self._position))
        waiting = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            byte = self._bytes - waiting + error.start
            raise DataError(f"{self._path} is not UTF-8 text (byte {byte})", reason="bad_text") from None
        self._bytes += len(data)
        self._text += text
        self._ended = not data
        return bool(data)


def _list_rows(path: Path, pieces: _Pieces) -> Iterator[Row | DataError]:
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    number, said = 0, set[str]()
    pieces.next()
    pieces.skip()
    if pieces.next() == "]":
        return
    while True:
        number += 1
        pieces.next()
        location = f"{path} line {pieces.line} (row {number})"
        try:
            value = pieces.value(decoder)
        except json.JSONDecodeError as error:
            raise pieces.syntax(error.msg, error.pos) from None
        except DuplicateKeyError as error:
            raise DataError(f"{location} has {error}", reason="duplicate_key") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{location}: {_why(error)}", reason="bad_json") from None
        yield _row(location, number, value, said)
        after = pieces.next()
        if after == "]":
            break
        if after != ",":
            raise pieces.syntax("Expecting ',' or ']'")
        pieces.skip()
    pieces.skip()
    if pieces.next():
        raise pieces.syntax("Extra data after the list")


def _line_rows(path: Path, source: IO[bytes]) -> Iterator[Row | DataError]:
    number, start, said = 0, 0, set[str]()
    for index, data in enumerate(source, start=1):
        begins, start = start, start + len(data)
        location = f"{path} line {index}"
        try:
            line = data.removeprefix(codecs.BOM_UTF8 if index == 1 else b"").decode()
        except UnicodeDecodeError as error:
            number += 1
            yield DataError(f"{location} is not UTF-8 text (byte {begins + error.start})", reason="bad_text")
            continue
        if not line.strip():
            continue
        number += 1
        try:
            yield _row(location, number, json.loads(line.removesuffix("\n"), object_pairs_hook=unique), said)
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


def _found(values: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in list(values)[:8]) or "nothing"


def _why(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
