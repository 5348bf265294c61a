"""LLaVA-style rows: `{"id", "image", "conversations": [{"from": "human"|"gpt", "value"}]}`.

Questions become prompts; what `gpt` says is kept aside as the dataset's answer. `image` may be missing (text only) or a
list; turns may be named `role`/`content` as well. Consecutive human turns are one question.
Source: the format of LLaVA's instruction data (llava_v1_5_mix665k).
"""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, RowFormat, questions_about, source_of
from pairsight.formats.rows import Row, checked_text, names_image

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Llava(RowFormat):
    """Rows with a conversation each."""

    field: ClassVar[str] = "conversations"

    def dialogue(self, row: Row) -> Dialogue:
        """One row's questions; DataError when its turns, images or marks are not in order."""
        identity = row.identity("id", "question_id")
        location = f"{row.location} id '{identity}'"
        images = image_names(row, location)
        system, turns = _turns(row, location)
        questions = questions_about(images, turns, location, marks_needed=True)
        return Dialogue(identity, location, tuple(questions), source_of(images), system)


_NO_IMAGE_FIELDS = ("id", "question_id", "answer", "question", "source")


def image_names(row: Row, location: str) -> tuple[str, ...]:
    """The names in `image` or `images`: none, one or several; DataError for both, or images under another name."""
    given = [row.values[name] for name in ("image", "images") if row.values.get(name) is not None]
    if len(given) == 2:
        raise DataError(f"{location} has both 'image' and 'images': keep one", reason="image_marks")
    if not given:
        for name, value in row.values.items():
            if name not in _NO_IMAGE_FIELDS and names_image(value):
                message = f"{location}: '{name}' names an image ({value!r:.60}) and is not read: call it 'image'"
                raise DataError(message, reason="unread_image")
        return ()
    (value,) = given
    names = tuple(
        checked_text(name, f"{location}: 'image'") for name in (value if isinstance(value, list) else [value])
    )
    if "" in names:
        raise DataError(
            f"{location}: 'image' is an empty name; leave it out for a text-only row", reason="missing_image"
        )
    return names


def _turns(row: Row, location: str) -> tuple[str, list[tuple[str, str]]]:
    """The system text and (human turn, its answer) in order; consecutive turns of one role are joined."""
    found = row.values.get("conversations")
    if not isinstance(found, list) or not found:
        raise DataError(f"{location}: 'conversations' must be a list of turns, found {found!r:.60}", reason="no_turns")
    system, turns, previous = "", list[tuple[str, str]](), ""
    for number, turn in enumerate(found, start=1):
        where = f"{location}: turn {number}"
        if not isinstance(turn, dict):
            raise DataError(f"{where} must be an object with 'from' and 'value'", reason="wrong_type")
        name = turn.get("from", turn.get("role"))
        role = ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            allowed = ", ".join(ROLES)
            raise DataError(f"{where} is from {name!r:.40}; known: {allowed}", reason="unknown_role")
        text = checked_text(turn.get("value", turn.get("content")), where)
        if role == "system":
            system = text
        elif role == "user" and previous == "user":
            turns[-1] = (f"{turns[-1][0]}\n{text}", "")
        elif role == "user":
            turns.append((text, ""))
        elif turns:
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n{text}".strip())
        previous = role
    if not turns:
        raise DataError(f"{location}: no turn is from 'human'", reason="no_turns")
    return system, turns
