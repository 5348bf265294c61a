"""Instruction data to imitate: LLaVA's conversations, SciGraphQA and LRV-Instruct.

Each assistant turn is a demonstration on what was said before it. Source: llava_v1_5_mix665k,
alexshengzhili/SciGraphQA and LRV-Instruction's filter_cap.json; the last names an
image by its number, of which the file is NUMBER.jpg.
"""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets.format import (
    Example,
    Format,
    Gives,
    Head,
    Picture,
    Plain,
    RowCompletion,
    Turn,
    location_of,
)
from pairsight.formats.datasets.seva import with_suffix
from pairsight.formats.datasets.turns import asked, llava_pictures, llava_turns, pictures_of, with_leading_mark
from pairsight.formats.datasets.written import cannot, conversation, one_image
from pairsight.formats.rows import Row


class LlavaDemonstrations(Format):
    """`conversations` between human and gpt, with `image` (absent: text only)."""

    title: ClassVar[str] = "LLaVA instructions"
    gives: ClassVar[Gives] = "demonstrations"
    columns: ClassVar[tuple[str, ...]] = ("conversations",)
    known: ClassVar[tuple[str, ...]] = ("id", "question_id", "image", "images", "model")
    containers: ClassVar[tuple[Container, ...]] = ("json", "jsonl")

    def detect(self, head: Head) -> bool:
        """Whether the conversations end with an answer and nothing is chosen or rejected."""
        others = {"chosen", "rejected", "rejected_conversations", "output_1", "preference"}
        return super().detect(head) and not others & set(head.columns)

    def example(self, row: Row) -> Example:
        """One conversation; DataError where it does not end with an answer."""
        identity = row.identity("id", "question_id")
        location = location_of(row, identity)
        return _demonstration(row, identity, llava_pictures(row, location))

    def write(self, example: Example) -> tuple[Plain, ...]:
        """One row; the chosen completion of a pair is its last turn."""
        good = [one for one in example.completions if one.preferred is not False]
        if len(good) != 1 or good[0].images is not None:
            raise cannot(example, self.title, f"its rows have one completion and this has {len(good)}")
        return ({"id": example.id, **one_image(example, self.title), "conversations": conversation(example, good[0])},)


class SciGraphQa(Format):
    """`image_file`, and `conversations` about the figure; `caption` is not part of what is asked."""

    title: ClassVar[str] = "SciGraphQA"
    gives: ClassVar[Gives] = "demonstrations"
    columns: ClassVar[tuple[str, ...]] = ("conversations", "image_file")
    known: ClassVar[tuple[str, ...]] = (
        "id",
        "caption",
        "image",
        "first_mention",
        "response",
        "title",
        "abstract",
        "q_a_pairs",
    )

    def example(self, row: Row) -> Example:
        """One conversation; DataError where it does not end with an answer."""
        identity = row.identity("id")
        location = location_of(row, identity)
        pictures = pictures_of(row.values.get("image"), f"{location}: 'image'")
        name = row.text("image_file")
        return _demonstration(row, identity, pictures or (Picture(with_suffix(name)),))


class LrvInstruct(Format):
    """`image_id`, `question`, `answer` and the `task` that the question is of."""

    title: ClassVar[str] = "LRV-Instruct"
    gives: ClassVar[Gives] = "demonstrations"
    columns: ClassVar[tuple[str, ...]] = ("image_id", "question", "answer")
    known: ClassVar[tuple[str, ...]] = ("id", "task", "question_id")

    def example(self, row: Row) -> Example:
        """One question with its answer; DataError where a text is missing."""
        identity = row.identity("id", "question_id")
        location = location_of(row, identity)
        return Example(
            identity,
            location,
            asked((Turn("user", with_leading_mark(row.text("question"))),), location),
            (Picture(with_suffix(row.identity("image_id"))),),
            (RowCompletion(row.text("answer")),),
            row.optional_text("task"),
        )


def _demonstration(row: Row, identity: str, pictures: tuple[Picture, ...]) -> Example:
    location = location_of(row, identity)
    turns = llava_turns(row.required("conversations"), f"{location}: 'conversations'")
    if turns[-1].role != "assistant":
        raise DataError(f"{location}: the last turn must be an answer, found one from the {turns[-1].role}", "no_turns")
    return Example(identity, location, asked(turns[:-1], location), pictures, (RowCompletion(turns[-1].text),))
