"""Completions that exist already, to be rated: rows of several completions, or a preference set with its choice.

A row is a prompt as in `jsonl` or `llava` (the first question counts), with either `completions`, a list of texts or of
`{"text", "model"}`, or `chosen` and `rejected` (one text or several). A Parquet file or folder of pairs works too. What
people preferred is kept as an annotation by "given" with the score `preference`, 1 or 0, so that it can be compared
with what an annotator says (Li et al. 2402.10884, §5.1).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, PromptFormat, RowFormat
from pairsight.formats.jsonl import Jsonl
from pairsight.formats.llava import Llava
from pairsight.formats.pairs import GIVEN, read_pairs
from pairsight.formats.prompts import Checking, ImageFolders, OnError
from pairsight.formats.rows import Row, checked_text
from pairsight.formats.sampler import draw
from pairsight.images.source import WithImages
from pairsight.records import Annotation, Candidates, Completion, Dropped, PreferencePair, Prompt


@dataclass(frozen=True, slots=True)
class CompletionSet(WithImages[Candidates]):
    """Prompts with given completions, their images, and what was left out."""

    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenCompletion:
    """A text, who wrote it, and whether it was preferred (None: nobody said)."""

    text: str
    model: str = ""
    preferred: bool | None = None


@dataclass(frozen=True, slots=True)
class AnsweredDialogue(Dialogue):
    """A dialogue whose first question has completions."""

    completions: tuple[GivenCompletion, ...] = ()


def read_completions(
    path: str | Path,
    images: ImageFolders | None = None,
    *,
    format: PromptFormat | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
) -> CompletionSet:
    """Read prompts with two or more completions each.

    Args:
        path: a JSON list, a JSON Lines file, a Parquet file of pairs, or a folder of those.
        images: the folder that image names are relative to; default: the file's. Parquet holds its images itself.
        format: how the file is read, where it is another one; its dialogues are `AnsweredDialogue`s.
        on_error: `stop` at the first bad row or image, or `skip` and list it in `.dropped`.
        limit: only this many, the first ones.

    Raises:
        DataError: a bad file, row, image or duplicate id (with file, line and id), or nothing left to use.
    """
    file = Path(path)
    if format is None and (file.is_dir() or file.suffix == ".parquet"):
        pairs = read_pairs(file)
        return CompletionSet(tuple(_of_pair(pair) for pair in pairs.items[:limit]), pairs.images)
    return candidates_of(Checking(file, on_error), (format or CompletionRows()).read(file, None), images, limit)


def candidates_of(
    check: Checking, rows: Iterable[Dialogue | DataError], images: ImageFolders | None, limit: int | None
) -> CompletionSet:
    """The candidates that rows with completions make, as `read_completions` says."""
    drawn = draw(check.unique(check.dialogues(_with_completions(rows))), limit=limit)
    source = check.images(images)
    found = tuple(
        _candidates(prompt, one.dialogue.completions)
        for one, prompt in check.prompts(drawn, source)
        if isinstance(one.dialogue, AnsweredDialogue)
    )
    if not found:
        raise check.nothing_left()
    return CompletionSet(found, source, tuple(check.dropped))


class CompletionRows(RowFormat):
    """Rows with a prompt and its completions."""

    def dialogue(self, row: Row) -> AnsweredDialogue:
        """One row's prompt and completions; DataError when one is empty."""
        prompt = (Llava() if "conversations" in row.values else Jsonl()).dialogue(row)
        completions = tuple(_completions(row, prompt.location))
        return AnsweredDialogue(
            prompt.id, prompt.location, prompt.questions[:1], prompt.source, prompt.system, completions
        )


def read_given_pairs(path: str | Path, format: PromptFormat) -> WithImages[PreferencePair]:
    """The preference pairs that a format reads: the completion that was preferred, and those that were not.

    Args:
        path: the file, in whose folder the images are.
        format: how it is read; its dialogues are `AnsweredDialogue`s.

    Raises:
        DataError: as `read_completions`, or a prompt without one preferred completion and one that was not.
    """
    found = read_completions(path, format=format)
    return WithImages(tuple(_given_pair(one, path) for one in found), found.images)


def _given_pair(candidates: Candidates, path: str | Path) -> PreferencePair:
    given = {one.completion_id: one.scores["preference"] for one in candidates.annotations if one.annotator == GIVEN}
    chosen, rejected = (
        tuple(one for one in candidates.completions if given.get(one.id) == preference) for preference in (1.0, 0.0)
    )
    name = candidates.prompt.id
    if len(chosen) != 1 or not rejected:
        raise DataError(
            f"{path} id '{name}': a pair needs one preferred completion and at least one that was not, found "
            f"{len(chosen)} and {len(rejected)}",
            reason="no_preference",
        )
    return PreferencePair(name, candidates.prompt, chosen[0], rejected, GIVEN)


def _with_completions(rows: Iterable[Dialogue | DataError]) -> Iterator[Dialogue | DataError]:
    """The rows, with an error instead of one without two completions."""
    for row in rows:
        given = row.completions if isinstance(row, AnsweredDialogue) else ()
        if isinstance(row, Dialogue) and len(given) < 2:
            message = f"{row.location}: two completions are needed, found {len(given)}"
            yield DataError(message, reason="too_few_completions")
        else:
            yield row


def _completions(row: Row, location: str) -> Iterator[GivenCompletion]:
    if "completions" in row.values:
        found = row.values["completions"]
        if not isinstance(found, list):
            raise DataError(f"{location}: 'completions' must be a list, found {found!r:.60}", reason="wrong_type")
        for number, one in enumerate(found, start=1):
            parts: Mapping[str, object] = one if isinstance(one, dict) else {"text": one}
            where = f"{location}: completion {number}"
            yield GivenCompletion(_said(parts.get("text"), where), checked_text(parts.get("model", ""), where))
    elif "chosen" in row.values and "rejected" in row.values:
        worse = row.values["rejected"]
        yield GivenCompletion(_said(row.values["chosen"], f"{location}: 'chosen'"), preferred=True)
        for one in worse if isinstance(worse, list) else [worse]:
            yield GivenCompletion(_said(one, f"{location}: 'rejected'"), preferred=False)
    else:
        raise DataError(f"{location}: 'completions', or 'chosen' and 'rejected', are needed", reason="missing_field")


def _said(value: object, location: str) -> str:
    text = checked_text(value, location)
    if not text:
        raise DataError(f"{location} is empty", reason="empty_completion")
    return text


def _candidates(prompt: Prompt, given: tuple[GivenCompletion, ...]) -> Candidates:
    completions = tuple(
        Completion(f"{prompt.id}:{index}", prompt.id, one.text, "", one.model, 0, index)
        for index, one in enumerate(given)
    )
    preferences = tuple(
        _preference(completion, one.preferred)
        for completion, one in zip(completions, given, strict=True)
        if one.preferred is not None
    )
    return Candidates(prompt, completions, preferences)


def _of_pair(pair: PreferencePair) -> Candidates:
    preferences = (_preference(pair.chosen, True), *(_preference(one, False) for one in pair.rejected))
    return Candidates(pair.prompt, (pair.chosen, *pair.rejected), (*pair.annotations, *preferences))


def _preference(completion: Completion, preferred: bool) -> Annotation:
    return Annotation(completion.id, GIVEN, {"preference": float(preferred)})
