"""What rows go through before use: a bad one stops the reading or is listed, ids are unique, images open."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue
from pairsight.formats.sampler import Drawn, without_short_answer
from pairsight.images.files import FileImages
from pairsight.records import Dropped, ImageRef, Message, Prompt

OnError = Literal["stop", "skip"]

_CHECKED_AT_ONCE = 512
"""Images checked before a bad one can stop the reading."""


@dataclass(slots=True)
class Checking:
    """The checks of one file. Under `skip` a bad row goes to `dropped`, under `stop` it raises."""

    path: Path
    on_error: OnError = "stop"
    dropped: list[Dropped] = field(default_factory=list)

    def dialogues(self, rows: Iterable[Dialogue | DataError]) -> Iterator[Dialogue]:
        """The rows that could be read."""
        for row in rows:
            if isinstance(row, Dialogue):
                yield row
            else:
                self.bad(row)

    def unique(self, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
        """The first dialogue of every id."""
        places: dict[str, str] = {}
        for one in dialogues:
            if one.id not in places:
                places[one.id] = one.place
                yield one
                continue
            message = f"{one.place} is used before, at {places[one.id]}: ids must be unique"
            self.bad(DataError(message, reason="duplicate_id"), one.id)

    def prompts(
        self, drawn: Sequence[Drawn], images: FileImages, strip_short_answer: bool = False
    ) -> Iterator[tuple[Drawn, Prompt]]:
        """The drawn questions whose images are all there and whole, as prompts."""
        for start in range(0, len(drawn), _CHECKED_AT_ONCE):
            part = drawn[start : start + _CHECKED_AT_ONCE]
            refs = images.refs(name for one in part for name in one.question.images)
            for one in part:
                try:
                    prompt = _prompt(one, refs, strip_short_answer)
                except DataError as error:
                    self.bad(error, one.id)
                else:
                    yield one, prompt

    def bad(self, error: DataError, item_id: str = "") -> None:
        """Raise the error with how to go on without the row, or list what is left out, by its place without an id."""
        if self.on_error == "stop":
            raise DataError(f"{error}; --on-error skip leaves such rows out", error.reason)
        self.dropped.append(Dropped(item_id or str(error).partition(":")[0], "read", error.reason, str(error)))

    def nothing_left(self, sources: Sequence[str] = ()) -> DataError:
        """Why no row can be used."""
        if self.dropped:
            first = self.dropped[0].detail
            return DataError(f"{self.path}: nothing is left, {len(self.dropped)} dropped; the first: {first}")
        if sources:
            return DataError(f"{self.path}: no image's name starts with {' or '.join(map(repr, sources))}")
        return DataError(f"{self.path} holds no prompts", reason="empty_file")


def _prompt(drawn: Drawn, refs: Mapping[str, ImageRef | DataError], strip_short_answer: bool) -> Prompt:
    dialogue, question = drawn.dialogue, drawn.question
    found = []
    for name in question.images:
        ref = refs[name]
        if isinstance(ref, DataError):
            raise DataError(f"{dialogue.place}: {ref}", reason=ref.reason)
        found.append(ref)
    text = without_short_answer(question.text) if strip_short_answer else question.text
    if not text:
        raise DataError(f"{dialogue.place}: nothing is left of the question {question.text!r}", reason="empty_question")
    system = (Message("system", dialogue.system),) if dialogue.system else ()
    return Prompt(drawn.id, (*system, Message("user", text, tuple(found))), dialogue.source)
