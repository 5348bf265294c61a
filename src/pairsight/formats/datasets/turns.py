"""Messages, images and completions as rows spell them, read into `Turn`s, `Picture`s and texts."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Picture, Turn
from pairsight.formats.rows import Row, checked_text
from pairsight.records import IMAGE_MARK, Dropped

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "llava": "assistant", "bot": "assistant", "chatgpt": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
"""What datasets call who speaks -> what we call them."""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")
_OTHER_MEDIA = ("video", "videos", "video_path", "audio", "audios")
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_LONGEST_SHOWN = 60


def turns_of(value: object, location: str) -> tuple[tuple[Turn, ...], tuple[Picture, ...]]:
    """A list of messages, each `{from, value}` or `{role, content}`, and the images inside contents of parts.

    Following messages of one role are joined by a line break; where a part is an image the text has a mark.

    Raises:
        DataError: no such list, or a message of an unknown role or shape.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{location} must be a list of messages, found {value!r:.60}", "no_turns")
    turns, pictures = list[Turn](), list[Picture]()
    for number, one in enumerate(value, start=1):
        where = f"{location} message {number}"
        if not isinstance(one, dict):
            raise DataError(f"{where} must be an object with a role and a text, found {one!r:.60}", "wrong_type")
        text, inside = text_of(one.get("value", one.get("content")), where)
        pictures += inside
        role = role_of(one.get("from", one.get("role")), where)
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].text}\n{text}".strip())
        else:
            turns.append(Turn(role, text))
    return tuple(turns), tuple(pictures)


def role_of(name: object, location: str) -> str:
    """What we call a speaker; DataError for an unknown one."""
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise DataError(f"{location} is from {name!r:.40}; known: {', '.join(ROLES)}", "unknown_role")
    return role


def text_of(content: object, location: str) -> tuple[str, list[Picture]]:
    """A text, or OpenAI's and TRL's list of parts as a text with marks and the images that the parts hold."""
    if isinstance(content, str):
        return checked_text(content, location), []
    if not isinstance(content, list):
        raise DataError(f"{location} must be text or a list of parts, found {content!r:.60}", "wrong_type")
    pieces, pictures = list[str](), list[Picture]()
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text"):
            pieces.append(checked_text(part.get("text"), location))
        elif kind in ("image", "image_url", "input_image"):
            pieces.append(IMAGE_MARK)
            held = part.get("image_url", part.get("image"))
            held = held.get("url") if isinstance(held, dict) and "url" in held else held
            if held is not None:
                pictures.append(picture_of(held, location))
        else:
            raise DataError(f"{location}: a part must be a text or an image, found {part!r:.60}", "wrong_type")
    return "\n".join(piece for piece in pieces if piece), pictures


def pictures_of(value: object, location: str) -> tuple[Picture, ...]:
    """No image (None, an empty list or text), one, or a list of them; DataError for anything else."""
    if value is None or value in ("", {"bytes": None, "path": None}):
        return ()
    return tuple(picture_of(one, location) for one in (value if isinstance(value, list) else [value]))


def picture_of(value: object, location: str) -> Picture:
    """One image: a file's name or web address, bytes, a base64 data URI, or `datasets`' {bytes, path}."""
    if isinstance(value, bytes):
        return Picture(data=value)
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        data, name = value.get("bytes"), value.get("path")
        if data is None or isinstance(data, bytes):
            return Picture(checked_text(name or "", location), data)
    if isinstance(value, str) and value.strip():
        text = checked_text(value, location)
        inline = _DATA_URI.match(text)
        if inline is None:
            return Picture(text)
        try:
            return Picture(data=base64.b64decode(text[inline.end() :], validate=True))
        except (binascii.Error, ValueError):
            raise DataError(f"{location}: {text[:40]}… is not base64", "wrong_type") from None
    shown = f"{value!r:.{_LONGEST_SHOWN}}"
    raise DataError(f"{location} must be an image's name, its bytes or {{bytes, path}}, found {shown}", "wrong_type")


def with_leading_mark(text: str) -> str:
    """LLaVA's way: one mark, wherever the row has it, goes before the text; several stay where they are."""
    if text.count(IMAGE_MARK) != 1:
        return text.strip()
    return f"{IMAGE_MARK}\n{text.replace(IMAGE_MARK, '').strip()}".strip()


def asked(turns: Sequence[Turn], location: str) -> tuple[Turn, ...]:
    """Turns that end with the user's; DataError where they end with another's, or nobody asks."""
    if not turns or turns[-1].role != "user":
        who = turns[-1].role if turns else "nobody"
        raise DataError(f"{location}: the last message before the completions is from {who}, not the user", "no_turns")
    if not turns[-1].text.replace(IMAGE_MARK, "").strip():
        raise DataError(f"{location}: the question is empty", "empty_question")
    return tuple(turns)


def spoken(value: object, location: str) -> str:
    """A completion: a text, one message, or a list of one message; DataError for anything else."""
    if isinstance(value, str):
        return checked_text(value, location)
    turns, _ = turns_of(value if isinstance(value, list) else [value], location)
    if len(turns) != 1 or turns[0].role == "system":
        raise DataError(f"{location} must be one message of the assistant, found {len(turns)}", "wrong_type")
    return turns[0].text


def other_media(row: Row, pictures: Sequence[Picture] = ()) -> Dropped | None:
    """Why a row with a video or a sound is left out; None for rows without."""
    held: Mapping[str, object] = row.values
    found = next((f"'{name}' {held[name]!r:.60}" for name in _OTHER_MEDIA if held.get(name)), "")
    for picture in pictures:
        if not found and PurePosixPath(picture.name.partition("?")[0]).suffix.lower() in VIDEO_SUFFIXES:
            found = repr(picture.name[:_LONGEST_SHOWN])
    return Dropped(row.location, "read", "video", f"a video or sound, {found}: only images are read") if found else None


def llava_turns(value: object, location: str) -> tuple[Turn, ...]:
    """A conversation in LLaVA's style: a single mark of a turn goes before its text; contents are texts.

    A first turn from the assistant's side without any question is kept.
    """
    turns, inside = turns_of(value, location)
    if inside:
        raise DataError(f"{location} holds images inside its turns: they are named beside them", "wrong_type")
    return tuple(Turn(turn.role, with_leading_mark(turn.text) if turn.role == "user" else turn.text) for turn in turns)


def llava_pictures(row: Row, location: str) -> tuple[Picture, ...]:
    """The images that `image` or `images` names; DataError where both do."""
    given = [name for name in ("image", "images") if pictures_of(row.values.get(name), f"{location}: '{name}'")]
    if len(given) == 2:
        raise DataError(f"{location} has both 'image' and 'images': keep one", "image_marks")
    return pictures_of(row.values[given[0]], f"{location}: '{given[0]}'") if given else ()
