"""Which questions of a large set are asked: by source, a number of each dialogue, a number of each source. All seeded.

Every draw ranks by a hash of the seed and the prompt's id, so that it depends on no order and rows added later change
only their own share. Source: SeVa (2404.10501, §4.1) draws 2 questions a dialogue, 8k of each source; the ranking is
ours.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pairsight.errors import DataError
from pairsight.formats.dialogue import Dialogue, Question
from pairsight.seeds import derived_seed

_SHORT_ANSWER = re.compile(
    r"\s*(?:Answer the question using a single word or phrase"
    r"|Answer with the option's letter from the given choices directly"
    r"|Provide a short description for this region"
    r"|Provide a one-sentence caption for the provided image)\.?",
    re.IGNORECASE,
)
"""The instructions that LLaVA-1.5's data adds to ask for short answers (2310.03744, Table 7)."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A question that was drawn: the id its prompt gets, and its dialogue."""

    id: str
    question: Question
    dialogue: Dialogue


def from_sources(dialogues: Iterable[Dialogue], sources: Sequence[str]) -> Iterator[Dialogue]:
    """The dialogues with an image whose name starts with one of `sources` (all without sources); it names them."""
    for dialogue in dialogues:
        names = {name for question in dialogue.questions for name in question.images}
        prefixes = [source for source in sources if any(name.startswith(source) for name in names)]
        if prefixes:
            yield replace(dialogue, source=max(prefixes, key=len))
        elif not sources:
            yield dialogue


def draw(
    dialogues: Iterable[Dialogue],
    *,
    questions_per_dialogue: int | None = None,
    per_source: int | None = None,
    complete_dialogues: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> list[Drawn]:
    """The questions to ask, in the order of the file.

    Args:
        dialogues: what was read.
        questions_per_dialogue: None takes the first question, its prompt's id the dialogue's; a number draws this many
            different ones, with ids `<dialogue>#<which, from 1>`.
        per_source: at most this many prompts of each source, drawn.
        complete_dialogues: `per_source` draws dialogues, each with all its drawn questions, until there are as many
            prompts, as SeVa's authors do (4,000 books with 2 questions each); else it draws single prompts.
        limit: then only this many, the first ones.
        seed: what is drawn follows from it and the ids.
    """
    drawn = [one for dialogue in dialogues for one in _of_dialogue(dialogue, questions_per_dialogue, seed)]
    if per_source is not None:

        def rank(one: Drawn) -> int:
            return derived_seed("per_source", seed, one.dialogue.id if complete_dialogues else one.id)

        ranked = sorted(drawn, key=rank)  # stable: the questions of one dialogue stay together and in order
        kept, counts = set[str](), Counter[str]()
        for one in ranked:
            if counts[one.dialogue.source] < per_source:
                counts[one.dialogue.source] += 1
                kept.add(one.id)
        drawn = [one for one in drawn if one.id in kept]
    return drawn[:limit]


def without_short_answer(text: str) -> str:
    """The question without LLaVA's instructions to answer shortly (SeVa strips them: it wants long completions)."""
    return _SHORT_ANSWER.sub("", text).strip()


def is_of(dialogue: Dialogue, sources: Sequence[str]) -> bool:
    """Whether a dialogue is of one of these sources: the source's own name, or how an image's name starts."""
    names = [name for question in dialogue.questions for name in question.images]
    return any(dialogue.source == source or any(name.startswith(source) for name in names) for source in sources)


def below(dialogue: Dialogue, source: str) -> Dialogue:
    """The dialogue with its id and its image names below a source: `SOURCE/…`."""
    questions = (replace(one, images=tuple(f"{source}/{name}" for name in one.images)) for one in dialogue.questions)
    return replace(dialogue, id=f"{source}/{dialogue.id}", questions=tuple(questions), source=source)


class Named:
    """The sources that the user names, each of which must be there: what is named and does nothing is an error.

    Args:
        sources: those that are kept; () for all.
        stripped: those whose instructions to answer shortly are removed.
        folders: those whose images have a folder.
    """

    def __init__(self, sources: Sequence[str], stripped: Sequence[str], folders: Iterable[str]) -> None:
        self._sources = sources
        self._given = {("--sources", source) for source in sources}
        self._used = {("strip_short_answer", source) for source in stripped}
        self._used |= {("--images", f"{source.strip('/')}/") for source in folders if source}
        self._seen = Counter[str]()

    def dialogues(self, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
        """The dialogues of the sources that are kept."""

        def counted() -> Iterator[Dialogue]:
            for dialogue in dialogues:
                self._seen[dialogue.source] += 1
                self._given = _not_of(dialogue, self._given)
                yield dialogue

        for dialogue in from_sources(counted(), self._sources):
            self._used = _not_of(dialogue, self._used)
            yield dialogue

    def refuse_unseen(self, path: Path) -> None:
        """DataError for a source that no row is of, with the sources that there are."""
        for option, source in sorted(self._given | self._used):
            known = ", ".join(f"'{name}' ({count} rows)" for name, count in self._seen.most_common(8))
            raise DataError(
                f"{path}: {option} names '{source}', and no row is of it; the rows are of {known or 'no source'}",
                reason="unknown_source",
            )


def _of_dialogue(dialogue: Dialogue, count: int | None, seed: int) -> Iterator[Drawn]:
    if count is None:
        yield Drawn(dialogue.id, dialogue.questions[0], dialogue)
        return
    all_drawn = [
        Drawn(f"{dialogue.id}#{number}", question, dialogue)
        for number, question in enumerate(dialogue.questions, start=1)
    ]
    ranked = sorted(all_drawn, key=lambda one: derived_seed("per_dialogue", seed, one.id))[:count]
    yield from (one for one in all_drawn if one in ranked)


def _not_of(dialogue: Dialogue, named: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The options and sources that a dialogue is not of."""
    return {(option, source) for option, source in named if not is_of(dialogue, [source])} if named else named
