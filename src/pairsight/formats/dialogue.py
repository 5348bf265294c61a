"""What a prompt format is: it reads a user's file into dialogues, before sampling and before any image is opened."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.image_columns import HOW, holds_image, is_no_file
from pairsight.formats.rows import Row, checked_text, read_rows
from pairsight.records import IMAGE_MARK

_LOG = logging.getLogger("pairsight.formats")


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask: its text and the names of its images. The text has marks for all images or for none.

    `answer` is what the dataset itself answers, empty where it does not.
    """

    text: str
    images: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The questions of one row. `location` is what messages call it, `source` where it comes from."""

    id: str
    location: str
    questions: tuple[Question, ...]
    source: str = ""
    system: str = ""


class PromptFormat(ABC):
    """The base of all formats of prompts."""

    field: ClassVar[str] = ""
    """The field that the first row of such a file has; "": the format is used only where it is named."""

    @abstractmethod
    def read(self, path: Path, question: str | None) -> Iterator[Dialogue | DataError]:
        """Every prompt of a file or folder, or the error that a bad one makes, in order.

        Args:
            path: what the user named.
            question: what is asked of every image of a folder; None where it is not given.

        Raises:
            DataError: the file cannot be read, or a `question` is needed, or given to rows that have their own.
        """


class RowFormat(PromptFormat):
    """The base of formats whose file is rows, each a dialogue. A subclass is one file: `dialogue`, and `rows`."""

    def rows(self, path: Path) -> Iterator[Row | DataError]:
        """The rows of a file, with an error instead of a bad one; here, of a JSON list or of JSON Lines."""
        return read_rows(path)

    @abstractmethod
    def dialogue(self, row: Row) -> Dialogue:
        """What one row asks; DataError, with the row's `location`, where it is not in order."""

    def read(self, path: Path, question: str | None = None) -> Iterator[Dialogue | DataError]:
        """Every row through `dialogue`, with an error instead of a bad one."""
        if question is not None:
            raise DataError(f"{path} has its own questions: leave out the one for a folder of images")
        for row in self.rows(path):
            try:
                yield row if isinstance(row, DataError) else self.dialogue(row)
            except DataError as error:
                yield error


NO_IMAGES = ("id", "question_id", "question", "text", "answer", "source", "system", "topic", "prompt", "conversations",
             "completions", "chosen", "rejected")  # fmt: skip
"""Fields that formats read as something else than images."""


def images_of(row: Row, location: str) -> tuple[str, ...]:
    """The names in `image` or `images`: none, one or several; DataError for both, or images under another name."""
    given = [row.values[name] for name in ("image", "images") if row.values.get(name) is not None]
    if len(given) == 2:
        raise DataError(f"{location} has both 'image' and 'images': keep one", reason="image_marks")
    read = given not in ([], [[]])
    for name, value in row.values.items():
        if name in ("image", "images", *NO_IMAGES) or (read and name in row.said) or not holds_image(name, value):
            continue
        if not read:
            message = f"{location}: '{name}' names an image ({value!r:.60}) and is not read: call it 'image'; {HOW}"
            raise DataError(message, reason="unread_image")
        row.said.add(name)
        _LOG.warning("%s: '%s' names an image too and is not read", location, name)
    if not read:
        return ()
    (value,) = given
    names = tuple(
        checked_text(name, f"{location}: 'image'") for name in (value if isinstance(value, list) else [value])
    )
    if "" in names:
        raise DataError(
            f"{location}: 'image' is an empty name; leave it out for a text-only row", reason="missing_image"
        )
    if others := [name for name in names if is_no_file(name)]:
        raise DataError(
            f"{location}: 'image' is {others[0]!r:.60} instead of a file's name; {HOW}", reason="wrong_type"
        )
    return names


def questions_about(
    images: Sequence[str], turns: Sequence[tuple[str, str]], location: str, *, marks_needed: bool
) -> list[Question]:
    """Divide a dialogue's images among its questions and check the `<image>` marks.

    Args:
        turns: (question with its marks, the dataset's answer) in order.
        marks_needed: whether images without any mark are an error.

    The marks of all turns together must be as many as the images; where no turn has any and `marks_needed` is False,
    the images come before the first. A question asked alone keeps the images seen until then, and its own marks only
    when there is one for each of these; a single image's mark is always taken away.

    Raises:
        DataError: an empty question, marks without images, or another number of marks than images.
    """
    marks = [turn.count(IMAGE_MARK) for turn, _ in turns]
    num_marks = sum(marks)
    if num_marks != len(images) and (num_marks > 0 or marks_needed):
        raise DataError(f"{location}: {_mark_problem(num_marks, len(images))}", reason="image_marks")
    questions, seen = [], 0
    for number, ((turn, answer), own) in enumerate(zip(turns, marks, strict=True), start=1):
        seen = seen + own if num_marks > 0 else len(images)
        keeps_marks = own == seen and own > 1
        text = turn.strip() if keeps_marks else turn.replace(IMAGE_MARK, "").strip()
        if not text.replace(IMAGE_MARK, "").strip():
            which = f" (human turn {number})" if len(turns) > 1 else ""
            raise DataError(f"{location}: the question is empty{which}", reason="empty_question")
        questions.append(Question(text, tuple(images[:seen]), answer))
    return questions


def source_of(images: Sequence[str]) -> str:
    """Where a row comes from when it does not say so: the first folder of its first image's name, else nothing."""
    folder, slash, _ = images[0].lstrip("/").partition("/") if images else ("", "", "")
    return folder if slash else ""


def _mark_problem(num_marks: int, num_images: int) -> str:
    marks = f"{num_marks} {IMAGE_MARK} mark{'s' if num_marks != 1 else ''}"
    images = f"{num_images} image{'s' if num_images != 1 else ''}"
    if num_images == 0:
        return f"{marks} but no image: name it in 'image' or take the mark away"
    if num_marks == 0:
        return f"{images} but no {IMAGE_MARK} mark: put '{IMAGE_MARK}\\n' before the first question"
    return f"{marks} for {images}: each image needs exactly one"
