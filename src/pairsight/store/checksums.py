"""CRC-32 of what the ledger keeps, so that bytes changed on disk are noticed. Source: zlib's, by choice of speed."""

import zlib


def text_checksum(text: str) -> int:
    """Of a payload or a raw answer."""
    return zlib.crc32(text.encode())


def has_checksum(text: object, checksum: object) -> bool:
    """Whether a text still has the checksum that was kept beside it."""
    return isinstance(text, str) and text_checksum(text) == checksum


def row_checksum(*row: object) -> int:
    """Of a row of `results`, from its item to its payload's checksum."""
    return text_checksum("\0".join(map(str, row)))
