"""RLAIF-V and RLHF-V: a question, a chosen and a rejected text, the image's bytes in the row.

Source: the published columns of openbmb/RLAIF-V-Dataset and openbmb/RLHF-V-Dataset; the latter keeps the three texts as
a JSON object in `text`.
"""

import json
from typing import ClassVar

from pairsight.bounded import unique
from pairsight.errors import DataError, one_line
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets.format import Example, Format, Head, Plain, RowCompletion, Turn, location_of
from pairsight.formats.datasets.turns import asked, pictures_of, spoken, with_leading_mark
from pairsight.formats.datasets.written import one_question, plain_picture
from pairsight.formats.rows import Row


class RlaifV(Format):
    """`question`, `chosen`, `rejected`, `image` {bytes, path}, and where they come from."""

    title: ClassVar[str] = "RLAIF-V"
    columns: ClassVar[tuple[str, ...]] = ("question", "chosen", "rejected", "image", "ds_name")
    known: ClassVar[tuple[str, ...]] = ("origin_dataset", "origin_split", "idx", "image_path")
    containers: ClassVar[tuple[Container, ...]] = ("parquet", "save_to_disk")

    def example(self, row: Row) -> Example:
        """One pair; DataError where a text is missing."""
        return _pair(row, row)

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        question, image, rejected = one_question(example, self.title)
        shared: Plain = {
            "ds_name": "pairsight",
            "image": plain_picture(image),
            "question": question,
            "chosen": example.completions[0].text,
            "origin_dataset": example.source,
            "idx": example.id,
        }
        return tuple(shared | {"rejected": one.text} for one in rejected)


class RlhfV(Format):
    """`text`, a JSON object of `question`, `chosen` and `rejected`, and `image`."""

    title: ClassVar[str] = "RLHF-V"
    columns: ClassVar[tuple[str, ...]] = ("text", "image")
    known: ClassVar[tuple[str, ...]] = ("ds_name", "origin_dataset", "origin_split", "idx", "image_path")
    containers: ClassVar[tuple[Container, ...]] = ("parquet", "save_to_disk")

    def detect(self, head: Head) -> bool:
        """Whether the first text is such an object."""
        text = head.first.values.get("text")
        return super().detect(head) and isinstance(text, str) and text.lstrip()[:1] == "{" and '"chosen"' in text

    def example(self, row: Row) -> Example:
        """One pair; DataError where `text` is not such an object."""
        try:
            texts = json.loads(row.text("text"), object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{row.location}: 'text' must be a JSON object: {one_line(error)}", "bad_json") from None
        if not isinstance(texts, dict):
            raise DataError(f"{row.location}: 'text' must be a JSON object, found {texts!r:.40}", "bad_json")
        return _pair(row, Row(f"{row.location} 'text'", row.number, texts))

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        question, image, rejected = one_question(example, self.title)
        texts = {"question": question, "chosen": example.completions[0].text}
        shared: Plain = {"image": plain_picture(image), "origin_dataset": example.source, "idx": example.id}
        return tuple(
            shared | {"text": json.dumps(texts | {"rejected": one.text}, ensure_ascii=False)} for one in rejected
        )


def _pair(row: Row, texts: Row) -> Example:
    identity = row.identity("idx", "id")
    location = location_of(row, identity)
    turns = asked((Turn("user", with_leading_mark(texts.text("question"))),), location)
    chosen, rejected = (spoken(texts.required(name), f"{location}: '{name}'") for name in ("chosen", "rejected"))
    return Example(
        identity,
        location,
        turns,
        pictures_of(row.values.get("image"), f"{location}: 'image'"),
        (RowCompletion(chosen, preferred=True), RowCompletion(rejected, preferred=False)),
        row.optional_text("origin_dataset"),
    )
