"""What a benchmark is: groups of samples in, sums out, figures combined from sums so that they can be resampled."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import ID_FIELDS, TEXT_FIELDS, answer_rows, join, write_json, write_jsonl
from pairsight.benchmarks.files.official import Row, SampleImages, listed_rows, read_json
from pairsight.benchmarks.metrics import Better, Figure
from pairsight.config import BaseConfig
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import ImageRef, Message, Prompt

__all__ = ["Benchmark", "Better", "Parser", "Reading", "Sample", "SampleImages", "Scored"]

Parser = Literal["official", "robust"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a benchmark. `cluster` is what a bootstrap resamples (the image); `target` what scoring needs."""

    id: str
    prompt: Prompt
    cluster: str
    target: Mapping[str, Any] = field(default_factory=dict)


class Reading(NamedTuple):
    """What a parser made of one answer.

    Attributes:
        prediction: what was read, for people.
        correct: from 0 to 1; None where there is no truth.
        parsed: whether the answer has a form that `robust` can read.
        sums: what it adds to each column; None: (correct, 1), or nothing where there is no truth.
        categories: rows of the per-category tables that it belongs to, e.g. ("ability: counting",).
    """

    prediction: object
    correct: float | None
    parsed: bool
    sums: tuple[float, ...] | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """What a group earned: one number per column of the benchmark, and how each answer was read."""

    cluster: str
    sums: tuple[float, ...]
    readings: tuple[Reading, ...] = ()
    num_items: int = 1
    num_unparsed: int = 0
    categories: tuple[str, ...] = ()


class Benchmark(BaseConfig, ABC):
    """The base of all benchmarks, with its official rule. A subclass is one file: its options as fields, and what is
    asked (`load`), how an answer is read (`read`) and which figures that makes (`metrics`).

    A group is what is scored together: one sample for most benchmarks, MME's pair, MMBench's rotations. What such a
    group earns (`earned`) and figures of another kind (`combine`) are written only where a rule is the benchmark's own.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    """How its authors write the name; for messages."""
    published: ClassVar[str] = ""
    """Who publishes the official files where; ends the messages about files that are missing or hold something else."""
    source: ClassVar[str] = ""
    """The `source` of its prompts, where it is not the name."""
    columns: ClassVar[tuple[str, ...]] = ("score", "items")
    """The names of the sums that `score` returns."""
    metrics: ClassVar[Mapping[str, Figure]] = {}
    """Metric name -> the function of columns that it is."""
    better: ClassVar[Mapping[str, Better]] = {}
    """Metric name -> which values are better, for metrics of an own `combine`; "neither" where it is not listed."""
    max_new_tokens: ClassVar[int] = 128
    """How long an answer may be; it is greedy where `sampling` does not say otherwise."""
    prompt_suffix: ClassVar[str] = ""
    """What ends every question."""
    ranks_options: ClassVar[bool] = False
    """Whether a model chooses among options by likelihood: then a sample's target has `options` (letter -> text), and
    its answer is the letter of the likeliest."""
    id_fields: ClassVar[tuple[str, ...]] = ID_FIELDS
    """Fields of an answers file that may hold the id, the first that is there."""
    text_fields: ClassVar[tuple[str, ...]] = TEXT_FIELDS
    """Fields of an answers file that may hold the answer."""
    may_miss: ClassVar[bool] = False
    """Whether an answers file may leave questions out."""
    answers_file: ClassVar[str] = ""
    """The official name of an answers file: `.json` for one list, `.jsonl` for lines; "" for NAME.jsonl."""

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        return Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces tools of the original that are not installed; figures made with it are not called official."""
        return ()

    @abstractmethod
    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """The groups of the official file; bad rows raise DataError with file, line and id."""

    @abstractmethod
    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """What an answer says and earns, by the official rule or the robust one."""

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """The sums of one group, given one answer text per sample."""
        official = parser == "official"
        readings = tuple([self.read(*pair, official=official) for pair in zip(group, answers, strict=True)])
        unparsed = [reading.parsed for reading in readings].count(False)
        sums, categories = self.earned(group, readings)
        return Scored(group[0].cluster, sums, readings, len(group), unparsed, categories)

    def earned(
        self, group: tuple[Sample, ...], readings: Sequence[Reading]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """The sums and categories of a group, here those of its one sample."""
        (reading,) = readings
        if reading.sums is not None:
            return reading.sums, reading.categories
        return ((0.0, 0.0) if reading.correct is None else (reading.correct, 1.0)), reading.categories

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metric name -> R values, from R (resampled) rows of column sums."""
        sums = dict(zip(self.columns, sums_RC.T, strict=True))
        values = {name: figure.of(sums) for name, figure in self.metrics.items()}
        return {name: found for name, found in values.items() if found is not None}

    def directions(self) -> Mapping[str, Better]:
        """Metric name -> which values are better."""
        return {**{name: figure.better for name, figure in self.metrics.items()}, **self.better}

    def answer_rows(self, answers: Path) -> Iterator[tuple[Row, str]]:
        """The rows of an answers file, each named by its id, with its text."""
        return answer_rows(answers, self.id_fields, self.text_fields)

    def other_ids(self, path: Path) -> Iterable[str]:
        """Ids that an answers file may hold and that are not asked about; looked at only when an id is unknown."""
        return ()

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Sample id -> answer text, from a file or folder in the official format; here the rows of `answer_rows`.

        Args:
            answers: the answers.
            path: the benchmark's own file or folder.
            groups: its samples.

        Raises:
            DataError: the file is missing or damaged, or an id is wrong, missing or there twice.
        """
        own = {sample.id: sample.id for group in groups for sample in group}
        return join(self.answer_rows(answers), own, answers, ignored=self.other_ids(path), may_miss=self.may_miss)

    def answer_row(self, sample: Sample, answer: str | None) -> Mapping[str, object] | None:
        """An answer's row as the official script or server wants it; None for no row.

        Args:
            sample: the question.
            answer: its answer; None where there is none.
        """
        return None if answer is None else {"question_id": sample.id, "text": answer}

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write what the official script or server accepts, here the rows of `answer_row`; returns the files.

        Args:
            folder: where to.
            path: the benchmark's own file or folder.
            groups: its samples.
            answers: sample id -> answer text.
        """
        made = [self.answer_row(sample, answers.get(sample.id)) for group in groups for sample in group]
        rows = [row for row in made if row is not None]
        file = folder / (self.answers_file or f"{self.name}.jsonl")
        return [write_json(file, rows) if file.suffix == ".json" else write_jsonl(file, rows)]

    def sample(
        self, own: str, question: str, images: Sequence[ImageRef], *, cluster: str, target: Mapping[str, object]
    ) -> Sample:
        """A question as a sample.

        Args:
            own: its id.
            question: the text that is asked, without suffix.
            images: what is shown; none for a text-only question.
            cluster: what a bootstrap resamples.
            target: what scoring needs.
        """
        prompt = Prompt(own, (Message("user", question, tuple(images)),), source=self.source or self.name)
        return Sample(own, prompt, cluster, target)

    def refusal(self, problem: str, reason: str = "bad_data") -> DataError:
        """The error for an official file that is missing or holds something else: the problem, and who publishes it."""
        return DataError(f"{self.title or self.name}: {problem}; {self.published}", reason)

    def document(self, path: Path, object_hook: Callable[[dict[str, object]], object] | None = None) -> Any:
        """What an official JSON file holds; see `read_json`."""
        if not path.is_file():
            raise self.refusal(f"there is no file {path}", "missing_file")
        return read_json(path, object_hook)

    def mapping(self, path: Path) -> dict[str, object]:
        """The object that an official JSON file holds."""
        value = self.document(path)
        if not isinstance(value, dict):
            raise self.refusal(f"{path} must hold an object, found {type(value).__name__}")
        return value

    def rows(self, path: Path, document: Any, field: str = "") -> Iterator[Row]:
        """The objects of a list that an official JSON file holds: in `field`, or the document itself."""
        items = document.get(field) if field and isinstance(document, dict) else (None if field else document)
        if not isinstance(items, list):
            raise self.refusal(f"{path} must hold {f'{{{field!r}: [...]}}' if field else 'a list of objects'}")
        return listed_rows(path, items, field)
