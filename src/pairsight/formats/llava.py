"""LLaVA-style rows: `{"id", "image", "conversations": [{"from": "human"|"gpt", "value"}]}`.

Questions become prompts; what `gpt` says is kept aside as the dataset's answer. `image` may be missing (text only) or a
list; turns may be named `role`/`content` as well. Consecutive human turns are one question.
Source: the format of LLaVA's instruction data (llava_v1_5_mix665k).
"""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, RowFormat, images_of, questions_about, source_of
from pairsight.formats.rows import Row, checked_text

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Llava(RowFormat):
    """Rows with a conversation each."""

    field: ClassVar[str] = "conversations"

    def dialogue(self, row: Row) -> Dialogue:
        """One row's questions; DataError when its turns, images or marks are not in order."""
        identity = row.identity("id", "question_id")
        location = f"{row.location} id '{identity}'"
        images = images_of(row, location)
        system, turns = _turns(row, location)
        questions = questions_about(images, turns, location, marks_needed=True)
        return Dialogue(identity, location, tuple(questions), source_of(images), system)


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
