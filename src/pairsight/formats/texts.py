"""Text-to-image prompts: rows of `{"prompt"}`, with `id` and `topic` if wanted; one a line, or a JSON list."""

from collections.abc import Iterator
from pathlib import Path

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, questions_about, read_dialogues
from pairsight.formats.rows import Row


def read(path: Path, question: str | None = None) -> Iterator[Dialogue | DataError]:
    """Every row as a dialogue of one text without images, its source the topic, or the error that a bad row makes.

    Raises:
        DataError: a `question` was given (it belongs to folders of images), or the file is no JSON.
    """
    return read_dialogues(path, question, dialogue)


def dialogue(row: Row) -> Dialogue:
    """One row's text; DataError when it is empty, has image marks, or comes with an image."""
    identity = row.identity("id")
    place = f"{row.place} id '{identity}'"
    if row.values.get("image", row.values.get("images")) is not None:
        message = f"{place}: 'prompt' is a text to make pictures from; to ask about an image, call it 'question'"
        raise DataError(message, reason="unread_image")
    questions = questions_about((), [(row.text("prompt"), "")], place, marks_needed=True)
    return Dialogue(identity, place, tuple(questions), row.text("topic") if "topic" in row.values else "")
