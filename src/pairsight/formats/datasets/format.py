"""What the format of a dataset is: it reads a row into an example, and says by which columns its files are known.

A format never opens a file or an image: containers (`formats/containers`) give rows, and `reading.py` finds the images
of the examples, checks them and makes records. So a format is short, and `write` is the exact inverse of `example`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.dialogue import Dialogue, Question, RowFormat, source_of
from pairsight.formats.rows import Row
from pairsight.records import IMAGE_MARK, Dropped
from pairsight.registry import NamedPiece

Gives = Literal["pairs", "candidates", "demonstrations"]
Plain = dict[str, object]
WEIGHT = "weight"
"""The column, in any format, of what a pair's or a demonstration's loss is multiplied by."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a row has it: its bytes, or the name (or web address) of its file."""

    name: str = ""
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a row. `role` is system, user or assistant; the text has a mark where each image goes, or none."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class RowCompletion:
    """A completion that a row holds.

    Attributes:
        text: what was said; may be empty, which is counted and left out later.
        model: who said it; "": the row does not say.
        preferred: True for the chosen one, False for a rejected one, None where nobody chose.
        scores: attribute -> score.
        critique: the annotator's reasons.
        images: other images than the prompt's that it is given on; None: the prompt's own.
        logps: its log-probabilities under the dataset's own reference model; None: the row has none.
    """

    text: str
    model: str = ""
    preferred: bool | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    critique: str = ""
    images: tuple[Picture, ...] | None = None
    logps: "GivenLogps | None" = None


@dataclass(frozen=True, slots=True)
class GivenLogps:
    """Log-probabilities of a completion under the dataset's own reference (nats): sum, mean and per token."""

    total: float | None = None
    average: float | None = None
    tokens: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenReference:
    """What a dataset's own reference says of a pair's chosen and rejected completion; None where it says nothing."""

    pair_id: str
    chosen: GivenLogps | None
    rejected: GivenLogps | None


@dataclass(frozen=True, slots=True)
class Example:
    """One row: what is asked and what was said.

    Attributes:
        id: the row's own, or `row-N`.
        location: file, row and id, for messages.
        turns: system and earlier turns, the last from the user.
        images: of the turns, in the order of the marks.
        completions: the chosen one first in a pair, the last assistant turn alone in a demonstration.
        source: which dataset the row came from, where it says so.
        weight: what its loss is multiplied by; every format has it in the column `weight`, outside of `example`.
    """

    id: str
    location: str
    turns: tuple[Turn, ...]
    images: tuple[Picture, ...]
    completions: tuple[RowCompletion, ...]
    source: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Head:
    """The start of a dataset: the names of all columns seen, and the first good rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """The first row; there is one."""
        return self.rows[0]


class Format(RowFormat):
    """The base of all formats of datasets. A subclass says `title`, `gives` and `columns`, and defines `example`."""

    title: ClassVar[str] = ""
    """What its files are called in messages, such as "RLAIF-V"."""
    gives: ClassVar[Gives] = "pairs"
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that every row has; of formats that fit a file the one whose columns include all others' is taken."""
    known: ClassVar[tuple[str, ...]] = ()
    """Further columns that are read, or that are known to say nothing to train on."""
    strategy: ClassVar[NamedPiece | None] = None
    """What chooses from candidates where the user names no strategy."""
    numbers_ids: ClassVar[bool] = True
    """Whether ids that the published files use more than once are numbered; else the second use is an error."""
    containers: ClassVar[tuple[Container, ...]] = ("jsonl", "json")
    """The kinds of files that it is written in; the first is what its own tools expect."""
    keeps_records: ClassVar[bool] = False
    """Whether its table is our own, with the records themselves."""
    embeds_in_text: ClassVar[bool] = False
    """Whether a text row can hold an image itself, as a data URI."""
    groups: ClassVar[bool] = False
    """Whether following rows with the same turns and images are one example."""

    def detect(self, head: Head) -> bool:
        """Whether a file that begins like this has this format; here, by its columns."""
        return bool(self.columns) and set(self.columns) <= set(head.columns)

    @abstractmethod
    def example(self, row: Row) -> Example | Dropped:
        """What one row holds, or why it is left out though it is in order; DataError where it is not in order."""

    def write(self, example: Example) -> tuple[Plain, ...]:
        """The rows that `example` reads back; DataError where this format has no room for something of it.

        Pictures are written as they are: `{"bytes", "path"}` or the name.
        """
        raise DataError(f"{self.title} cannot be written, because no writer for it exists; it is only read", "format")

    def beside(self, file: str) -> Mapping[str, str]:
        """Further files that its tools need beside the file of rows called `file`: name -> content; here, none."""
        return {}

    def next_step(self, target: Path, file: str) -> str:
        """What to type to use the rows in `target / file` with its own tool; "": there is nothing to say."""
        return ""

    def dialogue(self, row: Row) -> Dialogue:
        """What a row asks, for `build`: its first question; DataError where it is left out or its image has no name."""
        example = self.example(row)
        if isinstance(example, Dropped):
            raise DataError(f"{row.location}: {example.detail}", example.reason)
        if any(picture.data is not None for picture in example.images):
            raise DataError(
                f"{example.location}: the image's bytes are in the row, and prompts need files: save them beside it",
                "wrong_type",
            )
        system = next((turn.text for turn in example.turns if turn.role == "system"), "")
        text = next(turn.text for turn in example.turns if turn.role == "user").replace(IMAGE_MARK, "").strip()
        names = tuple(picture.name for picture in example.images)
        answer = next((one.text for one in example.completions if one.preferred is not False), "")
        question = Question(text, names, answer)
        return Dialogue(example.id, example.location, (question,), example.source or source_of(names), system)


def location_of(row: Row, identity: str) -> str:
    """A row's place in messages, with its id where it has one of its own."""
    return row.location if identity == f"row-{row.number}" else f"{row.location} id '{identity}'"


def all_pictures(example: Example) -> Iterator[Picture]:
    """The images of an example's prompt and of its completions."""
    yield from example.images
    for one in example.completions:
        yield from one.images or ()
