"""Records <-> JSON text, as the ledger keeps them: as in every table, but what cannot be read is the run's error."""

from typing import TypeVar

from pairsight.errors import DataError, RunError
from pairsight.formats.record_json import from_json
from pairsight.formats.record_json import to_json as encode

__all__ = ["decode", "encode"]
Record = TypeVar("Record")


def decode(cls: type[Record], text: str) -> Record:
    """The record of class `cls` in `text`; `decode(type(r), encode(r)) == r`.

    Raises:
        RunError: the text is not such a record: a damaged ledger, or one of another version.
    """
    try:
        return from_json(cls, text, "the ledger")
    except DataError as error:
        raise RunError(f"{error}; `pairsight status RUN --verify` lists what is damaged") from None
