"""MMPR, the preference data of InternVL's MPO: JSON Lines of `image`, `question`, `chosen`, `rejected`.

Its meta file names each file of rows and the folder of its images (`formats/containers/find.py`). Source: the columns
of OpenGVLab/MMPR.
"""

from typing import ClassVar

from pairsight.formats.datasets.format import Example, Format, Head, Plain, RowCompletion, Turn, location_of
from pairsight.formats.datasets.turns import asked, pictures_of, spoken
from pairsight.formats.datasets.written import name_or_bytes, pair_of, plain_question
from pairsight.formats.rows import Row


class Mmpr(Format):
    """A question with its marks, one image, several or none, a chosen and a rejected text."""

    title: ClassVar[str] = "MMPR"
    columns: ClassVar[tuple[str, ...]] = ("image", "question", "chosen", "rejected")
    known: ClassVar[tuple[str, ...]] = ("id", "margin", "meta")

    def detect(self, head: Head) -> bool:
        """Whether the texts are texts."""
        return super().detect(head) and all(isinstance(head.first.values[name], str) for name in self.columns[1:])

    def example(self, row: Row) -> Example:
        """One pair; DataError where a text is missing."""
        identity = row.identity("id")
        location = location_of(row, identity)
        chosen, rejected = (spoken(row.required(name), f"{location}: '{name}'") for name in ("chosen", "rejected"))
        return Example(
            identity,
            location,
            asked((Turn("user", row.text("question")),), location),
            pictures_of(row.values.get("image"), f"{location}: 'image'"),
            (RowCompletion(chosen, preferred=True), RowCompletion(rejected, preferred=False)),
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        chosen, rejected = pair_of(example, self.title)
        question = plain_question(example, self.title)
        images = [name_or_bytes(picture) for picture in example.images]
        shared: Plain = {
            "id": example.id,
            "image": images[0] if len(images) == 1 else images,
            "question": question,
            "chosen": chosen.text,
        }
        return tuple(shared | {"rejected": one.text} for one in rejected)
