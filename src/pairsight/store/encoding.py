"""What the ledger keeps: records as JSON text, keys of items, checksums. A record it cannot read is the run's error."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import TypeVar

from pairsight.errors import DataError, RunError
from pairsight.records import from_json, to_json

Record = TypeVar("Record")
encode = to_json
"""One record as JSON text; `decode` gives it back."""


def decode(cls: type[Record], text: str) -> Record:
    """The record of class `cls` in `text`; `decode(type(r), encode(r)) == r`.

    Raises:
        RunError: the text is not such a record: a damaged ledger, or one of another version.
    """
    try:
        return from_json(cls, text, "the ledger")
    except DataError as error:
        raise RunError(f"{error}; `pairsight status RUN --verify` lists what is damaged") from None


def paired_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair; halves that meet become their character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)


def item_key(stage: str, version: int, mapping: Mapping[str, object]) -> bytes:
    """SHA-256 of the canonical JSON of the stage's name, its version and what determines the result.

    Args:
        stage: the stage's name.
        version: the stage's version.
        mapping: model fingerprint, prompt text, image hashes, generation parameters, seed, sample index… as JSON
            values; never batch size, worker count, time-outs or paths.
    """
    return _digest([stage, version, mapping])


def shared_part(mapping: Mapping[str, object]) -> dict[str, str]:
    """What is the same for all items of a stage, in short: of a million keys it is encoded once.

    Args:
        mapping: the part of `item_key`'s mapping that no item changes.
    """
    return {"shared": _digest(mapping).hex()}


def _digest(value: object) -> bytes:
    return hashlib.sha256(_CANONICAL.encode(value).encode("ascii")).digest()


def text_checksum(text: str | bytes) -> int:
    """Of a payload or a raw answer; the same for a text and for its bytes as UTF-8."""
    return zlib.crc32(text if isinstance(text, bytes) else text.encode())


def has_checksum(text: object, checksum: object) -> bool:
    """Whether a text, or the bytes of one, still has the checksum that was kept beside it."""
    return isinstance(text, str | bytes) and text_checksum(text) == checksum


def row_checksum(*row: object) -> int:
    """Of a row of `results`, from its item to its payload's checksum."""
    return text_checksum("\0".join(map(str, row)))
