"""Rows of one question each: `{"image", "question"}`, one a line, or a JSON list.

`id`, `answer` and `source` are read where they are given. `image` may be missing (text only) or a list; a single image
needs no `<image>` mark here.
"""

from typing import ClassVar

from pairsight.formats.dialogue import Dialogue, RowFormat, images_of, questions_about, source_of
from pairsight.formats.rows import Row


class Jsonl(RowFormat):
    """Rows with a question each."""

    field: ClassVar[str] = "question"

    def dialogue(self, row: Row) -> Dialogue:
        """One row's question; DataError when it is empty or its marks do not fit its images."""
        identity = row.identity("id", "question_id")
        location = f"{row.location} id '{identity}'"
        images = images_of(row, location)
        answer = row.text("answer") if "answer" in row.values else ""
        questions = questions_about(images, [(row.text("question"), answer)], location, marks_needed=False)
        source = row.text("source") if "source" in row.values else source_of(images)
        return Dialogue(identity, location, tuple(questions), source)
