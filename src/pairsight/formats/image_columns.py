"""Whether a column that is not read holds images, so that none is dropped in silence. Source: ours."""

import base64
import binascii
import re
from functools import lru_cache
from urllib.parse import urlsplit

from pairsight.images.source import SUFFIXES

HOW = (
    "bytes (in Parquet) and names of image files are read; save base64 text, pixels and web addresses as files first, "
    "and remove a column that holds no image"
)
"""What is allowed and how to get there, for errors about such a column."""

_IMAGE = re.compile(
    r"(image|img|picture|pic|photo|pixel)(s|paths?|files?|filenames?|names?|urls?|uris?|b|base|bytes|data|values?)?"
)
"""A word of a column's name that says image; digits are apart, so that `b` and `base` are those of b64 and base64."""

_ABOUT = re.compile(
    r"u?u?ids?|index|idx|hash|md|sha|phash|num(ber)?|n|counts?|total|has|is|with|no|width|height|sizes?|shape|"
    r"resolution|dimensions|ratio|aspect|channels|format|type|mime|mode|captions?|desc(riptions?)?|texts?|content|"
    r"title|labels?|class(es)?|categor(y|ies)|tags?|topic|domain|style|source|origin|dataset|split|licen[sc]e|credits?|"
    r"author|date|time|timestamp|scores?|rating|quality|alt|value|questions?|answers?|prompts?|query|bbox|box(es)?|"
    r"regions?|position|embeddings?|features?|tokens?|language|lang|mean|std"
)
"""Words that say, after those of `_IMAGE`: something about an image, not the image."""
_COUNT = ("num", "number", "n", "total", "count", "has", "is", "no", "with")
"""First words of a column's name that say the same."""

_WEB = ("http://", "https://")
_DEPTH = 16
_LARGEST_BOX = 4
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{24,}={0,2}\s*")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")


def holds_image(name: str, value: object, *, of_image: bool = False, depth: int = 0) -> bool:
    """Whether a column's value is an image, or leads to one, by what it is or by the column's name.

    By itself: bytes, a file's name or address with an image's suffix, a data URI, base64 of an image, `datasets`'
    {bytes, path}, a list of such, or an object with such a member. Under a name such as `picture` or `img_path` also:
    one word of text, or rows of numbers (pixels); but not numbers, or columns such as `image_id` and `image_caption`.

    Args:
        name: the column's, or the member's, name.
        value: one row's value, as JSON and Arrow give it.
        of_image: whether `value` is a member of an object whose name says that it is an image.
        depth: how many lists and objects `value` is inside; what is deeper than `_DEPTH` is not looked at.
    """
    says_image, about = _says(name)
    image = not about and (of_image or says_image)
    if isinstance(value, str):
        text = value.strip()
        several = len(text.split(maxsplit=1)) > 1
        return (_is_image(text) and not (about and several)) or (image and bool(text) and not several)
    if isinstance(value, dict):
        inside = depth < _DEPTH and any(
            holds_image(str(member), one, of_image=image, depth=depth + 1) for member, one in value.items()
        )
        return inside or (set(value) == {"bytes", "path"} and any(value.values()))
    if isinstance(value, list):
        values = [one for one in value if one is not None] if depth < _DEPTH else []
        if not values or isinstance(values[0], int | float):
            return bool(values) and image and ("pixel" in name.lower() or len(values) > _LARGEST_BOX)
        found = (holds_image(name, one, of_image=of_image, depth=depth + 1) for one in values)
        one_is_enough = image or isinstance(values[0], dict)
        return (image and _are_numbers(values[0])) or (any(found) if one_is_enough else all(found))
    return isinstance(value, bytes) and value != b""


@lru_cache(4096)
def _says(name: str) -> tuple[bool, bool]:
    """Whether a name says image, and whether it says only something about one."""
    words = [word.lower() for word in _WORD.findall(name)]
    image = [bool(_IMAGE.fullmatch(word)) for word in words]
    last = [index for index, is_image in enumerate(image) if is_image][-1:]
    after = words[last[0] + 1 :] if last else words
    return any(image), any(word in _COUNT for word in words[:1]) or any(_ABOUT.fullmatch(word) for word in after)


def _are_numbers(value: object) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float)


def is_no_file(text: str) -> bool:
    """Whether a text cannot be a file's name: a web address, a data URI, or an image in base64."""
    return text.startswith(_WEB) or _is_inline(text)


def _is_image(text: str) -> bool:
    return text.lower().endswith(SUFFIXES) or _is_inline(text) or _path(text).lower().endswith(SUFFIXES)


def _is_inline(text: str) -> bool:
    if text[:11].lower() == "data:image/":
        return True
    if not _BASE64.fullmatch(text[:64]):
        return False
    try:
        start = base64.b64decode("".join(text[:64].split())[:32].ljust(32, "="))
    except (binascii.Error, ValueError):
        return False
    return start.startswith(_SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:8] == b"ftyp"


def _path(text: str) -> str:
    """The path in a web address, without its query; "" for other texts."""
    try:
        return urlsplit(text).path if text.startswith(_WEB) else ""
    except ValueError:
        return ""
