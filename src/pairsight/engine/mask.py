"""Hides a secret in text that will be kept or shown, in whatever rendering it comes back. Pure."""

import base64
import re
from collections.abc import Iterable, Sequence
from html.entities import html5

HIDDEN = "***"
_NAMES: dict[str, list[str]] = {}
for _name, _value in html5.items():
    _NAMES.setdefault(_value, []).append(re.escape(_name.removesuffix(";")))


class Mask:
    """Finds secrets as they are, and as JSON, URLs, HTML, Python or C escape them (some characters or all, also twice),
    as base64 (at any offset in a longer text) and as hexadecimal. Source: ours.

    Args:
        secrets: printable ASCII texts of at least 8 characters.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # longest first: of two secrets that begin alike, none of the longer one may be left
        renderings = [one for secret in sorted(secrets, key=len, reverse=True) for one in _renderings(secret)]
        self._pattern = re.compile("|".join(renderings)) if renderings else None

    def hide(self, text: str) -> str:
        """The text with `***` for every secret."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def is_needed(self, text: str) -> bool:
        """Whether a secret is in the text."""
        return self._pattern is not None and self._pattern.search(text) is not None


def _renderings(secret: str) -> Sequence[str]:
    """Patterns of the secret's renderings."""
    escaped = "".join(_escaped(character) for character in secret)
    data = secret.encode()
    return [escaped, *(_base64(data, offset) for offset in range(3)), f"(?i:{data.hex()})"]


def _escaped(character: str) -> str:
    """A pattern of one character as it is or escaped; a backslash, `%` or `&` may itself be escaped up to three times.

    All repetitions are bounded, so that no text takes more than linear time.
    """
    code = ord(character)
    two = f"(?i:{code:02x})"
    names = "".join(f"|{name}" for name in _NAMES.get(character, ()))
    return (
        rf"(?:\\{{0,8}}{re.escape(character)}"
        rf"|\\{{1,8}}(?:u00{two}|u\{{0{{0,6}}{two}\}}|x{two}|U000000{two}|0{{0,2}}{code:o})"
        rf"|%(?:25){{0,3}}{two}|&(?:amp;){{0,3}}(?:#0{{0,6}}{code}|#[xX]0{{0,6}}{two}{names});?)"
    )


def _base64(data: bytes, offset: int) -> str:
    """A pattern of what base64 shows of `data` when `offset` bytes, modulo 3, come before it.

    Characters that are made of a neighbour's bits as well are left out: at most two of the secret's bytes stay hidden
    in them.
    """
    encoded = base64.b64encode(bytes(offset) + data).decode()
    start = -(-offset * 8 // 6)
    stop = (offset + len(data)) * 8 // 6
    inner = encoded[start:stop]
    return re.escape(inner).replace(r"\+", "+").replace("+", r"[+\-]").replace("/", "[/_]")
