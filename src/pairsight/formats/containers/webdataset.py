"""Samples of WebDataset archives: files of one name up to the first dot are one row; nothing is unpacked to disk."""

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pairsight.bounded import load_json
from pairsight.errors import DataError, one_line
from pairsight.formats.rows import Row
from pairsight.images.source import SUFFIXES

_LARGEST = 256 << 20
"""Bytes of one file in an archive."""
_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)
Members = dict[str, bytes]


def tar_rows(file: Path) -> Iterator[Row | DataError]:
    """The samples of an archive, one in memory at once.

    The fields of `KEY.json` are the row's own; `KEY.txt` is its `text`, `KEY.NAME.txt` its `NAME`; an image is `image`,
    or `NAME` for `KEY.NAME.png`; `__key__` is the id where the row has none.

    Raises:
        DataError: no archive, or one that breaks off.
    """
    number, said = 0, set[str]()
    for key, members in _samples(file):
        number += 1
        location = f"{file} sample {number} ('{key:.80}')"
        try:
            values = _values(members, location)
        except DataError as error:
            yield error
            continue
        yield Row(location, number, {"id": key, **values, "__key__": key}, said)


def _samples(file: Path) -> Iterator[tuple[str, Members]]:
    key, members = "", Members()
    try:
        with tarfile.open(file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.size > _LARGEST:
                    raise DataError(f"{file}: '{member.name:.80}' has more than {_LARGEST} bytes", "bad_tar")
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if members and f"{folder}{slash}{stem}" != key:
                    yield key, members
                    members = Members()
                key = f"{folder}{slash}{stem}"
                held = archive.extractfile(member)
                members[suffix.lower()] = held.read() if held is not None else b""
    except DataError:
        raise
    except _ERRORS as error:
        raise DataError(f"{file} cannot be read as an archive: {one_line(error)}", "bad_tar") from None
    if members:
        yield key, members


def _values(members: Members, location: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for suffix, data in members.items():
        name, _, kind = suffix.rpartition(".")
        if f".{kind}" in SUFFIXES:
            values[name or "image"] = {"bytes": data, "path": f"image.{kind}"}
        elif kind == "json":
            found = _json(data, location)
            if name:
                values[name] = found
            elif isinstance(found, dict):
                values |= {str(one): what for one, what in found.items() if one not in values}
            else:
                raise DataError(f"{location}: its .json must be an object", "wrong_type")
        elif kind in ("txt", "cls"):
            try:
                values[name or "text"] = data.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                raise DataError(f"{location}: its .{suffix} is not UTF-8 text", "bad_text") from None
        else:
            values[name or kind] = data
    return values


def _json(data: bytes, location: str) -> object:
    try:
        return load_json(data.removeprefix(b"\xef\xbb\xbf"))
    except (json.JSONDecodeError, ValueError) as error:
        raise DataError(f"{location}: its .json cannot be read: {one_line(error)}", "bad_json") from None
