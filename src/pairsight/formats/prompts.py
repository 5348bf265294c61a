"""Read prompts from a user's files: the format is found out, every row and every image is checked before use."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from pairsight.errors import ConfigError, DataError
from pairsight.formats.dialogue import Dialogue, PromptFormat
from pairsight.formats.rows import Row, read_rows
from pairsight.formats.sampler import Drawn, Named, below, draw, is_of, without_short_answer
from pairsight.images.by_source import ImagesBySource
from pairsight.images.source import FileImages, WithImages
from pairsight.records import Dropped, ImageRef, Message, Prompt, paused_collection
from pairsight.registry import formats, plugins

OnError = Literal["stop", "skip"]
ImageFolders = str | Path | Mapping[str, str]
"""The folder that image names are relative to, or source -> the folder of the names that begin with it."""
NamedImages = FileImages | ImagesBySource

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
            elif isinstance(row, DataError):
                self.bad(row)
            else:
                raise DataError(f"{self.path}: its format gives a {type(row).__name__} where a Dialogue is expected")

    def unique(self, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
        """The first dialogue of every id."""
        locations: dict[str, str] = {}
        for one in dialogues:
            if one.id not in locations:
                locations[one.id] = one.location
                yield one
                continue
            message = f"{one.location} is used before, at {locations[one.id]}: ids must be unique"
            self.bad(DataError(message, reason="duplicate_id"), one.id)

    def images(self, folder: ImageFolders | None) -> NamedImages:
        """Where image names lead: the folder that is named, or one a source, else the file's."""
        if isinstance(folder, Mapping):
            return ImagesBySource(folder)
        beside = self.path if self.path.is_dir() else self.path.parent
        return FileImages(beside if folder is None else folder)

    def prompts(
        self, drawn: Sequence[Drawn], images: NamedImages, strip_short_answer: bool | Sequence[str] = False
    ) -> Iterator[tuple[Drawn, Prompt]]:
        """The drawn questions whose images are all there and intact, as prompts."""
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
        """Raise the error with how to go on without the row, or list what is left out, by its line without an id."""
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


def _prompt(drawn: Drawn, refs: Mapping[str, ImageRef | DataError], strip_short_answer: bool | Sequence[str]) -> Prompt:
    dialogue, question = drawn.dialogue, drawn.question
    found = []
    for name in question.images:
        ref = refs[name]
        if isinstance(ref, DataError):
            raise DataError(f"{dialogue.location}: {ref}", reason=ref.reason)
        found.append(ref)
    strip = strip_short_answer if isinstance(strip_short_answer, bool) else is_of(dialogue, strip_short_answer)
    text = without_short_answer(question.text) if strip else question.text
    if not text:
        raise DataError(
            f"{dialogue.location}: nothing is left of the question {question.text!r}", reason="empty_question"
        )
    system = (Message("system", dialogue.system),) if dialogue.system else ()
    return Prompt(drawn.id, (*system, Message("user", text, tuple(found))), dialogue.source)


@dataclass(frozen=True, slots=True)
class PromptSet(WithImages[Prompt]):
    """Prompts with their images, what was left out, and the dataset's own answers by prompt id."""

    dropped: tuple[Dropped, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)


@paused_collection()
def read_prompts(
    path: str | Path | Mapping[str, str],
    images: ImageFolders | None = None,
    *,
    format: str | PromptFormat | None = None,
    question: str | None = None,
    on_error: OnError = "stop",
    sources: Sequence[str] = (),
    questions_per_dialogue: int | None = None,
    per_source: int | None = None,
    complete_dialogues: bool = False,
    strip_short_answer: bool | Sequence[str] = False,
    limit: int | None = None,
    seed: int = 0,
) -> PromptSet:
    """Read prompts from a LLaVA-style JSON, a JSON Lines file of questions, a folder of images, or an own format.

    Rows are drawn before images are opened, so that a few prompts of a huge set cost little.

    Args:
        path: the file, or the folder of images; or source -> file, whose ids and image names then begin with `SOURCE/`.
        images: the folder that image names are relative to; default: the file's folder, or the folder itself; or
            source -> the folder of the images whose names begin with `SOURCE/`.
        format: how the file is read: a format, its name, or `file.py:Class`; default: found out by `detect_format`.
        question: what is asked of every image of a folder; only there.
        on_error: `stop` at the first bad row or image, or `skip` and list it in `.dropped`.
        sources: keep rows with an image whose name starts with one of these.
        questions_per_dialogue: draw this many questions from each dialogue; default: its first.
        per_source: draw this many prompts from each source.
        complete_dialogues: let `per_source` draw dialogues with all their drawn questions; see `draw`.
        strip_short_answer: take away LLaVA's "using a single word or phrase" and the like; or in these sources only.
        limit: only this many of what was drawn, the first ones.
        seed: the draws follow from it.

    Returns:
        The prompts in the order of the file, with `.images`, `.dropped` and the dataset's own `.answers`.

    Raises:
        DataError: a bad file, row, image or duplicate id (with file, line and id), or nothing left to use.
        ConfigError: an unknown format, or a piece that is not one; several files without `images`.
    """
    files = _files(path, images)
    check = Checking(next(iter(files.values())), on_error)
    strip = strip_short_answer if isinstance(strip_short_answer, bool) else tuple(strip_short_answer)
    named = Named(sources, () if isinstance(strip, bool) else strip, images if isinstance(images, Mapping) else ())
    with plugins(format):
        read = chain.from_iterable(_read(file, source, format, question) for source, file in files.items())
        drawn = draw(
            check.unique(named.dialogues(check.dialogues(read))), questions_per_dialogue=questions_per_dialogue,
            per_source=per_source, complete_dialogues=complete_dialogues, limit=limit, seed=seed,
        )  # fmt: skip
    if not drawn:
        raise check.nothing_left(sources)
    named.refuse_unseen(check.path)
    source = check.images(images)
    found = list(check.prompts(drawn, source, strip))
    if not found:
        raise check.nothing_left(sources)
    answers = {prompt.id: one.question.answer for one, prompt in found if one.question.answer}
    return PromptSet(tuple(prompt for _, prompt in found), source, tuple(check.dropped), answers)


def _files(path: str | Path | Mapping[str, str], images: ImageFolders | None) -> dict[str, Path]:
    """Source -> file; "" where there is one file without a source."""
    if not isinstance(path, Mapping):
        return {"": Path(path)}
    if not path or (len(path) > 1 and images is None):
        raise ConfigError(f"{len(path)} files of prompts need --images, the folder that image names refer to")
    return {source: Path(one) for source, one in path.items()}


def _read(
    file: Path, source: str, format: str | PromptFormat | None, question: str | None
) -> Iterator[Dialogue | DataError]:
    """The dialogues of one of several files; with a source, their ids and image names begin with it."""
    chosen = format if isinstance(format, PromptFormat) else make_format(format or detect_format(file))
    for row in chosen.read(file, question):
        yield below(row, source) if source and isinstance(row, Dialogue) else row


def make_format(name: str) -> PromptFormat:
    """The format called `name`, or at `file.py:Class`.

    Raises:
        ConfigError: an unknown name, a piece that is not a format, or code that the user does not name.
    """
    made: PromptFormat = formats.get(name)()
    return made


def detect_format(path: Path) -> str:
    """The registered name of a file's or folder's format, by its first good row.

    Raises:
        DataError: there is no such file, or its rows have none of the fields that are known.
    """
    if path.is_dir():
        return "folder"
    error = DataError(f"{path} holds no rows", reason="empty_file")
    for number, first in enumerate(read_rows(path)):
        if isinstance(first, Row):
            break
        error = error if number else first
    else:
        raise error
    fields = []
    for name, found in formats.in_order():
        if found.field and found.field in first.values:
            return name
        fields += [f"'{found.field}'"] if found.field else []
    known = " or ".join(fields)
    there = ", ".join(f"'{name}'" for name in list(first.values)[:8]) or "no fields"
    raise DataError(f"{first.location}: rows need {known}, found {there}", reason="unknown_format")
