"""Text from outside, made what we can keep: JSON read, halves of characters replaced. Pure."""

import json
import re
from typing import Any

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_HALF_OF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str) -> tuple[Any, bool]:
    """The value of a JSON text from outside, and whether U+FFFD had to replace halves of surrogate pairs in it.

    JSON may escape such a half (`"\\ud83d"`, a cut emoji), which is not a character: neither UTF-8 nor tables hold it.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deeply.
    """
    value = json.loads(text.removeprefix("\ufeff"))
    if _HALF_OF_PAIR.search(text) is None:
        return value, False
    with_halves = json.dumps(value, ensure_ascii=False)
    as_text = paired_text(with_halves)
    return (value, False) if as_text == with_halves else (json.loads(as_text), True)


def paired_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair; halves that meet become their character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_nested_deeper(text: str, most: int) -> bool:
    """Whether lists and objects in a JSON text are nested deeper than `most`; counted without parsing it."""
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for bracket in re.finditer(r"[][{}]", _STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > most:
            return True
    return False
