"""Answers to clean and to distorted images, in files of SeVa's authors' form: `{"question", "answer", "image_id"}`.

The files have the same questions in the same order, one a line. `image_id` is the image's name, without `.jpg`; the end
token that their code leaves in the answers is taken away.
Source: the public code of Zhu et al. (2404.10501).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from pairsight.errors import ConfigError, DataError
from pairsight.formats.completions import AnsweredDialogue, CompletionSet, GivenCompletion, candidates_of
from pairsight.formats.dialogue import Dialogue, questions_about
from pairsight.formats.prompts import Checking, ImageFolders, OnError
from pairsight.formats.rows import Row, read_rows
from pairsight.formats.sampler import below
from pairsight.images.source import SUFFIXES

_END = "</s>"
"""What ends a turn in Vicuna's template."""


def read_answer_files(
    clean: str | Mapping[str, str],
    distorted: Sequence[str],
    images: ImageFolders | None = None,
    *,
    on_error: OnError = "stop",
    limit: int | None = None,
) -> CompletionSet:
    """Prompts with the answer to the clean image and those to distorted ones, in this order.

    Args:
        clean: the file of answers to clean images; or source -> file, whose ids and image names begin with `SOURCE/`.
        distorted: the files of answers to distorted images, `FILE` or `SOURCE=FILE`; several of a source are views.
        images: the folder that image names are relative to, or one a source; default: the first file's.
        on_error: `stop` at the first bad row or image, or `skip` and list it in `.dropped`.
        limit: only this many, the first ones.

    Returns:
        Candidates whose completions name, as their model, the file that they come from.

    Raises:
        DataError: a bad file, row or image, or files that do not have the same questions in the same order.
        ConfigError: a source without a file of both kinds.
    """
    files = {source: Path(file) for source, file in clean.items()} if isinstance(clean, Mapping) else {"": Path(clean)}
    views: dict[str, list[Path]] = {source: [] for source in files}
    for entry in distorted:
        source, equals, file = entry.partition("=")
        if not equals or source not in views:
            source, file = "", entry
        if source not in views:
            raise ConfigError(f"--distorted {entry}: name its source, one of {', '.join(views)}: SOURCE={entry}")
        views[source].append(Path(file))
    for source, those in views.items():
        if not those:
            raise ConfigError(f"--completions {source}={files[source]}: its --distorted {source}=FILE is missing")
    check = Checking(next(iter(files.values())), on_error)
    rows = (row for source, file in files.items() for row in _answered(file, views[source], source))
    return candidates_of(check, rows, images, limit)


def _answered(clean: Path, distorted: Sequence[Path], source: str) -> Iterator[Dialogue | DataError]:
    """The dialogues of one source, line by line of all its files."""
    names = [clean.name, *(file.name for file in distorted)]
    for rows in zip_longest(*map(read_rows, (clean, *distorted))):
        try:
            dialogue = _dialogue(rows, names)
        except DataError as error:
            yield error
        else:
            yield below(dialogue, source) if source else dialogue


def _dialogue(rows: Iterable[Row | DataError | None], names: Sequence[str]) -> AnsweredDialogue:
    found: list[Row] = []
    for row, name in zip(rows, names, strict=True):
        if isinstance(row, DataError):
            raise row
        if row is None:
            raise DataError(f"{name} ends before the others: the files must have the same questions", "missing_row")
        found.append(row)
    first = found[0]
    question, image = first.text("question"), first.text("image_id")
    for row in found[1:]:
        for field, wanted in (("question", question), ("image_id", image)):
            if row.text(field) != wanted:
                raise DataError(
                    f"{row.location}: '{field}' is {row.text(field)!r:.60}, and in {first.location} {wanted!r:.60}: "
                    "the files must have the same questions in the same order",
                    reason="other_question",
                )
    answers = tuple(
        GivenCompletion(row.text("answer").removesuffix(_END).strip(), name)
        for row, name in zip(found, names, strict=True)
    )
    name = image if image.lower().endswith(SUFFIXES) else f"{image}.jpg"
    questions = questions_about([name], [(question, "")], first.location, marks_needed=False)
    return AnsweredDialogue(f"row-{first.number}", first.location, tuple(questions), completions=answers)
