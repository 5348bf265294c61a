"""A folder of images, all asked one question; an image's name is its id."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, PromptFormat, questions_about, source_of
from pairsight.formats.rows import checked_text
from pairsight.images.source import SUFFIXES, image_names


class Folder(PromptFormat):
    """All images of a folder."""

    def read(self, path: Path, question: str | None = None) -> Iterator[Dialogue | DataError]:
        """One dialogue per image, sorted by name.

        Raises:
            DataError: no question, or no image in the folder.
        """
        if question is None or not question.strip():
            raise DataError(
                f"{path} is a folder of images: a question is needed, e.g. --question 'Describe the image.'"
            )
        text = checked_text(question, "the question")
        names = image_names(path)
        if not names:
            raise DataError(f"{path} holds no images; names may end in {', '.join(SUFFIXES)}", reason="missing_image")
        for name in names:
            location = str(path / name)
            if any(
                unicodedata.category(character) in ("Cc", "Cs") for character in name
            ):  # Cs: a byte that is not UTF-8
                yield DataError(
                    f"{location!r:.200}: the name must be UTF-8 without control characters: rename the file",
                    reason="bad_text",
                )
                continue
            yield Dialogue(
                name,
                location,
                tuple(questions_about([name], [(text, "")], location, marks_needed=False)),
                source_of([name]),
            )
