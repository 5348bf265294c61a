"""Text-to-image prompts: rows of `{"prompt"}`, with `id` and `topic` if wanted; one a line, or a JSON list."""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.dialogue import NO_IMAGES, Dialogue, RowFormat, questions_about
from pairsight.formats.image_columns import holds_image
from pairsight.formats.rows import Row


class Texts(RowFormat):
    """Rows of one text each, without images; the topic is the source."""

    field: ClassVar[str] = "prompt"

    def dialogue(self, row: Row) -> Dialogue:
        """One row's text; DataError when it is empty, has image marks, or comes with an image."""
        identity = row.identity("id")
        location = f"{row.location} id '{identity}'"
        given = [name for name in ("image", "images") if row.values.get(name) is not None]
        given += [name for name, value in row.values.items() if name not in NO_IMAGES and holds_image(name, value)]
        if given:
            message = f"{location}: 'prompt' is a text to make pictures from; to ask about an image, call it 'question'"
            message += f"; else remove '{given[0]}', which is not read"
            raise DataError(message, reason="unread_image")
        questions = questions_about((), [(row.text("prompt"), "")], location, marks_needed=True)
        return Dialogue(identity, location, tuple(questions), row.text("topic") if "topic" in row.values else "")
