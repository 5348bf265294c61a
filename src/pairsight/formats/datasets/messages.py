"""Rows of `messages`: ms-swift's preference data, and conversations to imitate, as OpenAI and ms-swift keep them.

Source: ms-swift's "Custom dataset" (`rejected_response`, `rejected_messages`, `rejected_images`), OpenAI's chat format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets import layouts
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
from pairsight.formats.datasets.turns import asked, llava_pictures, pictures_of, turns_of
from pairsight.formats.rows import Row

_REJECTED = ("rejected_response", "rejected_messages", "rejected_images")


class MsSwift(Format):
    """`messages` that end with the chosen completion, and what is rejected: another text, other images, or both."""

    title: ClassVar[str] = "ms-swift"
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    known: ClassVar[tuple[str, ...]] = (
        "id",
        "images",
        "image",
        *_REJECTED,
        "margin",
        "videos",
        "audios",
        "tools",
        "objects",
    )
    containers: ClassVar[tuple[Container, ...]] = ("jsonl", "json", "parquet")

    def detect(self, head: Head) -> bool:
        """Whether something is rejected."""
        return super().detect(head) and any(name in head.columns for name in _REJECTED)

    def example(self, row: Row) -> Example:
        """One pair; DataError where nothing is rejected, or a prompt that differs from the chosen one's."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns, pictures = _conversation(row, "messages", location)
        chosen = _last(turns, location)
        text = _rejected_text(row, turns, location)
        images = pictures_of(row.values.get("rejected_images"), f"{location}: 'rejected_images'") or None
        if text is None and images is None:
            raise DataError(f"{location}: none of {', '.join(_REJECTED)} is given", "missing_field")
        if images is not None and len(images) != len(pictures):
            raise DataError(
                f"{location}: {len(images)} rejected images for a prompt with {len(pictures)}: as many are needed",
                "image_marks",
            )
        return Example(
            identity,
            location,
            asked(turns[:-1], location),
            pictures,
            (
                RowCompletion(chosen, preferred=True),
                RowCompletion(chosen if text is None else text, preferred=False, images=images),
            ),
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        return layouts.ms_swift(example, self.title)

    def next_step(self, target: Path, file: str) -> str:
        """How ms-swift takes it: it looks for relative names of images in `ROOT_IMAGE_DIR`."""
        folder = target.resolve()
        return f"ROOT_IMAGE_DIR={folder} swift rlhf --rlhf_type dpo --dataset {folder / file} --model MODEL"


class Messages(Format):
    """Conversations to imitate: each assistant message is a demonstration on what was said before it."""

    title: ClassVar[str] = "OpenAI messages"
    gives: ClassVar[Gives] = "demonstrations"
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    known: ClassVar[tuple[str, ...]] = ("id", "images", "image", "videos", "audios", "tools")
    embeds_in_text: ClassVar[bool] = True

    def detect(self, head: Head) -> bool:
        """Whether nothing is rejected."""
        others = (*_REJECTED, "chosen", "rejected")
        return super().detect(head) and not any(name in head.columns for name in others)

    def example(self, row: Row) -> Example:
        """One conversation; DataError where it does not end with the assistant's message."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns, pictures = _conversation(row, "messages", location)
        last = _last(turns, location)
        return Example(identity, location, asked(turns[:-1], location), pictures, (RowCompletion(last),))

    def write(self, example: Example) -> tuple[Plain, ...]:
        """One conversation."""
        return layouts.openai_messages(example, self.title)


def _conversation(row: Row, name: str, location: str) -> tuple[tuple[Turn, ...], tuple[Picture, ...]]:
    turns, inside = turns_of(row.required(name), f"{location}: '{name}'")
    beside = llava_pictures(row, location)
    if beside and inside:
        raise DataError(f"{location} has images both in its messages and beside them", "image_marks")
    return turns, beside or inside


def _last(turns: Sequence[Turn], location: str) -> str:
    if turns[-1].role != "assistant":
        raise DataError(f"{location}: the last message must be the assistant's, found {turns[-1].role}'s", "no_turns")
    return turns[-1].text


def _rejected_text(row: Row, turns: Sequence[Turn], location: str) -> str | None:
    """What is rejected, in either field; None where only images are."""
    given = [name for name in _REJECTED[:2] if row.values.get(name) is not None]
    if len(given) == 2:
        raise DataError(f"{location} has both {' and '.join(map(repr, given))}: keep one", "wrong_type")
    if not given:
        return None
    if given[0] == "rejected_response":
        return row.text("rejected_response")
    rejected, _ = turns_of(row.required("rejected_messages"), f"{location}: 'rejected_messages'")
    text = _last(rejected, f"{location}: 'rejected_messages'")
    if len(rejected) > 1 and tuple(rejected[:-1]) != tuple(turns[:-1]):
        raise DataError(f"{location}: 'rejected_messages' has another prompt than 'messages'", "different_prompts")
    return text
