"""Lists of questions as SeVa's authors and LLaVA's evaluation write them: `{"image", "text"}`, one a line.

`question_id` or `id` is the row's id where it is given, else its number, as an image may be asked several questions.
Source: the public code of Zhu et al. (2404.10501), `{image, text}`; LLaVA's question files, which add `question_id`.
"""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, RowFormat, images_of, questions_about, source_of
from pairsight.formats.rows import Row


class QuestionList(RowFormat):
    """Rows with a question each, in `text`."""

    field: ClassVar[str] = "text"

    def dialogue(self, row: Row) -> Dialogue:
        """One row's question; DataError when it is empty, has no image, or its marks do not fit its images."""
        identity = row.identity("id", "question_id")
        location = f"{row.location} id '{identity}'"
        images = images_of(row, location)
        if not images:
            raise DataError(
                f"{location}: no 'image' beside 'text'; without an image, call it 'question'", "missing_field"
            )
        questions = questions_about(images, [(row.text("text"), "")], location, marks_needed=False)
        return Dialogue(identity, location, tuple(questions), source_of(images))
