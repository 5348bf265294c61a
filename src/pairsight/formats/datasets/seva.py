"""SeVa's pairs: `question`, `chosen`, `reject`, `image_id`. Source: the files of the authors' code."""

from pathlib import PurePosixPath
from typing import ClassVar

from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets.format import Example, Format, Picture, Plain, RowCompletion, Turn, location_of
from pairsight.formats.datasets.turns import asked, with_leading_mark
from pairsight.formats.datasets.written import named, one_question
from pairsight.formats.rows import Row


class SevaPairs(Format):
    """A question on an image, the completion to the clean image and the one to the distorted image."""

    title: ClassVar[str] = "SeVa"
    columns: ClassVar[tuple[str, ...]] = ("question", "chosen", "reject", "image_id")
    known: ClassVar[tuple[str, ...]] = ("id", "question_id")
    containers: ClassVar[tuple[Container, ...]] = ("json", "jsonl", "csv")

    def example(self, row: Row) -> Example:
        """One pair; DataError where a text is missing."""
        identity = row.identity("id", "question_id")
        location = location_of(row, identity)
        return Example(
            identity,
            location,
            asked((Turn("user", with_leading_mark(row.text("question"))),), location),
            (Picture(with_suffix(row.identity("image_id"))),),
            (RowCompletion(row.text("chosen"), preferred=True), RowCompletion(row.text("reject"), preferred=False)),
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        question, image, rejected = one_question(example, self.title)
        shared: Plain = {
            "id": example.id,
            "image_id": named(example, image, self.title),
            "question": question,
            "chosen": example.completions[0].text,
        }
        return tuple(shared | {"reject": one.text} for one in rejected)


def with_suffix(name: str) -> str:
    """The file of an image that is named by a number or without an ending: `.jpg`."""
    return name if PurePosixPath(name).suffix else f"{name}.jpg"
