"""CRC-32 of what the ledger keeps, so that bytes changed on disk are noticed. Source: zlib's, by choice of speed."""

import zlib


def text_checksum(text: str | bytes) -> int:
    """Of a payload or a raw answer; the same for a text and for its bytes as UTF-8."""
    return zlib.crc32(text if isinstance(text, bytes) else text.encode())


def has_checksum(text: object, checksum: object) -> bool:
    """Whether a text, or the bytes of one, still has the checksum that was kept beside it."""
    return isinstance(text, str | bytes) and text_checksum(text) == checksum


def row_checksum(*row: object) -> int:
    """Of a row of `results`, from its item to its payload's checksum."""
    return text_checksum("\0".join(map(str, row)))
