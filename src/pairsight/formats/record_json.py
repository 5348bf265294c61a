"""Records <-> JSON text, lossless, not-a-number and infinities included: the `record` column of every table."""

from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pairsight.errors import DataError

Record = TypeVar("Record")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def to_json(record: object) -> str:
    """One record (a dataclass or plain values) as JSON; equal records give equal text."""
    return _adapter(type(record)).dump_json((record,)).decode()[1:-1]


def from_json(cls: type[Record], text: str, place: str) -> Record:
    """The record of class `cls` in `text`; DataError naming `place` when it holds none."""
    try:
        (record,) = _adapter(cls).validate_json(f"[{text}]")
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(piece) for piece in problem["loc"][1:])
        raise DataError(f"{place} holds no {cls.__name__} ({where}: {problem['msg']})", "bad_record") from None
    return record  # type: ignore[no-any-return]


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        # a config cannot be given for a bare dataclass, so the record travels as a tuple of one
        _ADAPTERS[cls] = TypeAdapter(tuple[cls], config=ConfigDict(ser_json_inf_nan="constants"))  # type: ignore[valid-type]
    return _ADAPTERS[cls]
