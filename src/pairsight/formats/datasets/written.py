"""What writers of formats share: which examples fit into a simple row, and how an image is written."""

from collections.abc import Sequence

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Example, Picture, Plain, RowCompletion
from pairsight.records import IMAGE_MARK


def cannot(example: Example, title: str, why: str) -> DataError:
    """The error about an example that a format has no room for."""
    return DataError(f"{example.location}: {title} cannot be written, because {why}", "format")


def pair_of(example: Example, title: str) -> tuple[RowCompletion, Sequence[RowCompletion]]:
    """The chosen completion and the rejected ones; DataError for an example that is not a pair."""
    chosen = [one for one in example.completions if one.preferred is True]
    rejected = [one for one in example.completions if one.preferred is False]
    if len(chosen) != 1 or not rejected or len(chosen) + len(rejected) != len(example.completions):
        raise cannot(example, title, "its rows are pairs, and this has no chosen and rejected completion")
    if any(one.images is not None for one in example.completions):
        raise cannot(example, title, "it has no room for images of a rejected completion")
    return chosen[0], rejected


def plain_question(example: Example, title: str) -> str:
    """The text of an example on one question; DataError for earlier turns or a system message."""
    if len(example.turns) != 1:
        raise cannot(example, title, f"its rows have one question and this has {len(example.turns)} messages")
    return marked(example)[0]


def one_question(example: Example, title: str) -> tuple[str, Picture, Sequence[RowCompletion]]:
    """The question, the image and the rejected completions of a pair on one question about one image.

    Raises:
        DataError: earlier turns, a system message, another number of images, or rejected completions on other images.
    """
    _, rejected = pair_of(example, title)
    text = plain_question(example, title)
    if len(example.images) != 1:
        raise cannot(example, title, f"its rows have one image and this has {len(example.images)}")
    return text.replace(IMAGE_MARK, "").strip(), example.images[0], rejected


def plain_picture(picture: Picture) -> Plain:
    """An image as `datasets` keeps it."""
    return {"bytes": picture.data, "path": picture.name or None}


def name_or_bytes(picture: Picture) -> object:
    """The name of an image's file; where it has none, its bytes as `datasets` keeps them."""
    return picture.name if picture.data is None else plain_picture(picture)


def named(example: Example, picture: Picture, title: str) -> str:
    """The name of an image's file; DataError where its bytes are in the row."""
    if picture.data is not None:
        raise cannot(example, title, "its rows name files, and this image's bytes are in the row")
    return picture.name


def one_image(example: Example, title: str) -> Plain:
    """LLaVA's field for the images: none, one name, or a list."""
    names = [named(example, picture, title) for picture in example.images]
    return {} if not names else {"image": names[0] if len(names) == 1 else names}


def marked(example: Example) -> list[str]:
    """The texts of the turns with a mark for each image: where there is none all go before the first question."""
    texts = [turn.text for turn in example.turns]
    if example.images and not any(IMAGE_MARK in text for text in texts):
        first = next(index for index, turn in enumerate(example.turns) if turn.role == "user")
        texts[first] = f"{IMAGE_MARK}\n" * len(example.images) + texts[first]
    return texts


def conversation(example: Example, last: RowCompletion | None) -> list[Plain]:
    """LLaVA's list of turns, with marks, and with a completion at its end where one is given."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    turns: list[Plain] = [
        {"from": names[turn.role], "value": text} for turn, text in zip(example.turns, marked(example), strict=True)
    ]
    return turns if last is None else [*turns, {"from": "gpt", "value": last.text}]
