"""The objects of one long JSON list, one at a time: Visual Genome's regions are a list of 700 MB."""

import json
from collections.abc import Iterator
from pathlib import Path

from pairsight.benchmarks.files.official import FileRecord, unreadable
from pairsight.bounded import MOST_JSON_BYTES, DuplicateKeyError, unique
from pairsight.errors import DataError

_CHUNK = 1 << 20
_DECODE = json.JSONDecoder(object_pairs_hook=unique).raw_decode


def read_list(path: Path) -> Iterator[FileRecord]:
    """The objects of a JSON file that holds one list; `line` is an object's number.

    Raises:
        DataError: the file is missing or no such list, or an object is longer than 64 MiB.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_CHUNK).lstrip()
            if not text.startswith("["):
                raise DataError(f"{path} must hold a list of objects", reason="not_json")
            text, number = text[1:], 0
            while True:
                text = text.lstrip().removeprefix(",").lstrip()
                if text.startswith("]"):
                    return
                try:
                    value, end = _DECODE(text)
                except json.JSONDecodeError as error:
                    more = file.read(_CHUNK)
                    if not more or len(text) > MOST_JSON_BYTES:
                        raise DataError(f"{path}: item {number + 1}: not JSON: {error.msg}", "not_json") from None
                    text += more
                    continue
                number, text = number + 1, text[end:]
                if not isinstance(value, dict):
                    raise DataError(f"{path}: item {number} must be an object, found {type(value).__name__}")
                yield FileRecord(path, number, value)
    except OSError as error:
        raise unreadable(path, error) from None
    except DuplicateKeyError as error:
        raise DataError(f"{path} has {error}", reason="duplicate_key") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}", reason="not_json") from None
