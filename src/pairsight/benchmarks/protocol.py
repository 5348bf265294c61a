"""The base class of benchmarks: groups of samples in, column sums out, metrics computed from (resampled) sums."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import ID_FIELDS, TEXT_FIELDS, answer_records, join, write_json, write_jsonl
from pairsight.benchmarks.files.official import FileRecord, SampleImages, listed_records, read_json
from pairsight.benchmarks.metrics import Better, Formula
from pairsight.bounded import as_object
from pairsight.config import BaseConfig
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import ImageRef, Message, Prompt

__all__ = ["Benchmark", "Better", "Parser", "Reading", "Sample", "SampleImages", "Scored"]

Parser = Literal["official", "robust"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a benchmark.

    Attributes:
        id: unique in the benchmark.
        prompt: the question with its images.
        cluster: what a bootstrap resamples (the image).
        target: what scoring needs.
        follows: the sample of the same group whose question and answer come before this question; "" for none.
        temperature: at which it is answered, where its benchmark's is not meant.
    """

    id: str
    prompt: Prompt
    cluster: str
    target: Mapping[str, Any] = field(default_factory=dict)
    follows: str = ""
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """What a judge said to one question, word for word; if it said nothing, `text` is None and `error` the reason.

    `asked` is the question, `run` the grading that it belongs to.
    """

    text: str | None
    finish_reason: str = ""
    error: str = ""
    asked: str = ""
    run: int = 0


Verdicts = Mapping[str, tuple[JudgeVerdict, ...]]
"""Sample id -> what the judge said to each of its questions, in the order in which they were asked."""


Role = Literal["system", "user"]


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """What a judge is asked about a sample's answer.

    Attributes:
        sample_id: the sample.
        prompt: what the judge sees.
        sampling: how it answers.
        run: which of several gradings of the same answer it belongs to.
    """

    sample_id: str
    prompt: Prompt
    sampling: Sampling
    run: int = 0


class Reading(NamedTuple):
    """How a parser reads one answer.

    Attributes:
        prediction: what was read, for display.
        correct: from 0 to 1; None if the true answer is not known.
        parsed: whether `robust` can read the answer's form.
        sums: what it adds to each column; None: (correct, 1), or zeros if the true answer is not known.
        categories: the categories it counts for in the per-category tables, e.g. ("ability: counting",).
    """

    prediction: object
    correct: float | None
    parsed: bool
    sums: tuple[float, ...] | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """A group's score: one number per column of the benchmark, and how each answer was read."""

    cluster: str
    sums: tuple[float, ...]
    readings: tuple[Reading, ...] = ()
    num_items: int = 1
    num_unparsed: int = 0
    categories: tuple[str, ...] = ()


class Benchmark(BaseConfig, ABC):
    """The base class of all benchmarks. A subclass is one file: its options as fields, the questions (`load`), how an
    answer is read (`read`) and the metrics (`metrics`).

    A group is scored together: one sample for most benchmarks, MME's pair of questions, MMBench's rotations. Override
    `group_sums` (the score of such a group) and `combine` (metrics of another kind) only if the rule needs it.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    """The name as its authors write it; for messages."""
    published: ClassVar[str] = ""
    """Who publishes the official files and where; ends messages about missing or unexpected files."""
    source: ClassVar[str] = ""
    """The `source` of its prompts, if other than the name."""
    columns: ClassVar[tuple[str, ...]] = ("score", "items")
    """The names of the sums that `score` returns."""
    metrics: ClassVar[Mapping[str, Formula]] = {}
    """Metric name -> its function of the columns."""
    better: ClassVar[Mapping[str, Better]] = {}
    """Metric name -> which values are better, for metrics computed in `combine`; "neither" if not listed."""
    max_new_tokens: ClassVar[int] = 128
    """The longest answer in tokens; decoding is greedy unless `sampling` is overridden."""
    prompt_suffix: ClassVar[str] = ""
    """Text added to the end of every question."""
    ranks_options: ClassVar[bool] = False
    """Whether the model chooses an option by likelihood: a sample's target then has `options` (letter -> text), and the
    answer is the letter of the likeliest option."""
    original_judge: ClassVar[str] = ""
    """The model that its authors use as judge; "" where no judge is needed. See `JudgedBenchmark`."""
    id_fields: ClassVar[tuple[str, ...]] = ID_FIELDS
    """Fields of an answer file that may hold the id; the first that exists is used."""
    text_fields: ClassVar[tuple[str, ...]] = TEXT_FIELDS
    """Fields of an answer file that may hold the answer."""
    allow_missing: ClassVar[bool] = False
    """Whether an answer file may omit questions."""
    answers_file: ClassVar[str] = ""
    """The official name of an answer file: `.json` for one list, `.jsonl` for lines; "" for NAME.jsonl."""

    @property
    def sampling(self) -> Sampling:
        """How answers are generated."""
        return Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces missing tools of the original scorer; figures that use fallbacks are not called official."""
        return ()

    @abstractmethod
    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """The groups of the official file; a bad record raises DataError with file, line and id."""

    @abstractmethod
    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Read and score one answer by the official rule or the robust one."""

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Score one group, given one answer text per sample."""
        official = parser == "official"
        readings = tuple([self.read(*pair, official=official) for pair in zip(group, answers, strict=True)])
        unparsed = [reading.parsed for reading in readings].count(False)
        sums, categories = self.group_sums(group, readings)
        return Scored(group[0].cluster, sums, readings, len(group), unparsed, categories)

    def group_sums(
        self, group: tuple[Sample, ...], readings: Sequence[Reading]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """The sums and categories of a group; by default those of its only sample."""
        (reading,) = readings
        if reading.sums is not None:
            return reading.sums, reading.categories
        return ((0.0, 0.0) if reading.correct is None else (reading.correct, 1.0)), reading.categories

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metric name -> R values, from R rows of (resampled) column sums."""
        sums = dict(zip(self.columns, sums_RC.T, strict=True))
        by_name = {name: formula.of(sums) for name, formula in self.metrics.items()}
        return {name: values for name, values in by_name.items() if values is not None}

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """The questions about a group's answers that a judge is to be asked next; none when all is known.

        Args:
            group: the samples.
            answers: one text per sample.
            verdicts: what the judge has said so far, also where it failed.
        """
        return iter(())

    def graded(self, verdicts: Verdicts, judge: str) -> Self:
        """This benchmark with a judge's verdicts on one model's answers, ready to `score` them.

        Args:
            verdicts: what the judge said.
            judge: its name.
        """
        return self

    def compared(self, other: Self, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> Self:
        """This benchmark with what is to be said of another judge's verdicts on the same answers.

        Args:
            other: the same benchmark with the other judge's verdicts.
            groups: the samples.
            answers: sample id -> answer text.
        """
        return self

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """The verdicts in a file of the official script, and the judge that it names ("" where it names none).

        Raises:
            DataError: a bad file, or a benchmark whose authors keep none.
        """
        raise self.file_error(f"its verdicts are not read from a file ({file})")

    def facts(self) -> Mapping[str, str | int | float | bool | None]:
        """What else was measured with, e.g. the judge; noted among the settings of the results."""
        return {}

    def failures(self, group: tuple[Sample, ...]) -> Mapping[str, str]:
        """Sample id -> why a sample that was answered cannot be scored; its group is then left out for all models."""
        return {}

    def verdicts(self) -> Verdicts:
        """What a judge said of the answers that this benchmark is scoring; nothing where none is asked."""
        return {}

    def directions(self) -> Mapping[str, Better]:
        """Metric name -> which values are better."""
        return {**{name: formula.better for name, formula in self.metrics.items()}, **self.better}

    def answer_records(self, answers: Path) -> Iterator[tuple[FileRecord, str]]:
        """The records of an answer file with their ids, and the answer text of each."""
        return answer_records(answers, self.id_fields, self.text_fields)

    def other_ids(self, path: Path) -> Iterable[str]:
        """Ids of an answer file to skip because they are not evaluated; read only once an unknown id is found."""
        return ()

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Sample id -> answer text, from a file or folder in the official format; by default from `answer_records`.

        Args:
            answers: the answers.
            path: the benchmark's own file or folder.
            groups: its samples.

        Raises:
            DataError: the file is missing or damaged, or an id is unknown, missing or duplicate.
        """
        return self.joined(self.answer_records(answers), answers, groups, self.other_ids(path))

    def joined(
        self,
        records: Iterable[tuple[FileRecord, str]],
        answers: Path,
        groups: Sequence[tuple[Sample, ...]],
        others: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Sample id -> text, from records with ids.

        Args:
            records: the records and their texts.
            answers: their file, for messages.
            groups: the samples.
            others: ids to skip.

        Raises:
            DataError: an id is unknown, missing or duplicate.
        """
        ids = {sample.id: sample.id for group in groups for sample in group}
        return join(records, ids, answers, ignored=others, allow_missing=self.allow_missing)

    def to_record(self, sample: Sample, answer: str | None) -> Mapping[str, object] | None:
        """An answer as a record for the official script or server; None to write no record.

        Args:
            sample: the question.
            answer: its answer; None if there is none.
        """
        return None if answer is None else {"question_id": sample.id, "text": answer}

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write files for the official script or server, by default from `to_record`; returns their paths.

        Args:
            folder: the folder to write to.
            path: the benchmark's own file or folder.
            groups: its samples.
            answers: sample id -> answer text.
        """
        optional = [self.to_record(sample, answers.get(sample.id)) for group in groups for sample in group]
        records = [record for record in optional if record is not None]
        file = folder / (self.answers_file or f"{self.name}.jsonl")
        return [write_json(file, records) if file.suffix == ".json" else write_jsonl(file, records)]

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write a judge's verdicts on these answers as the official script keeps them.

        Args:
            folder: the folder to write to.
            groups: the samples.
            answers: sample id -> answer text.
            model: the name of the model that answered.

        Returns:
            The files; none without a judge, or where its authors keep no verdicts.
        """
        return []

    def sample(
        self, sample_id: str, question: str, images: Sequence[ImageRef], *, cluster: str, target: Mapping[str, object]
    ) -> Sample:
        """A question as a sample.

        Args:
            sample_id: its id.
            question: the question's text, without suffix.
            images: its images; none for a text-only question.
            cluster: what a bootstrap resamples.
            target: what scoring needs.
        """
        prompt = Prompt(sample_id, (Message("user", question, tuple(images)),), source=self.source or self.name)
        return Sample(sample_id, prompt, cluster, target)

    def file_error(self, problem: str, reason: str = "bad_data") -> DataError:
        """The error for a missing or unexpected official file: the problem, and who publishes the file."""
        return DataError(f"{self.title or self.name}: {problem}; {self.published}", reason)

    def document(self, path: Path, object_hook: Callable[[dict[str, object]], object] | None = None) -> Any:
        """The value in an official JSON file; see `read_json`."""
        if not path.is_file():
            raise self.file_error(f"there is no file {path}", "missing_file")
        return read_json(path, object_hook)

    def mapping(self, path: Path) -> dict[str, object]:
        """The object in an official JSON file."""
        value = self.document(path)
        if not isinstance(value, dict):
            raise self.file_error(f"{path} must hold an object, found {type(value).__name__}")
        return value

    def named_records(self, path: Path, field: str = "") -> Iterator[FileRecord]:
        """The entries of an official JSON file `{id: {...}}`, each with its id and its number as line.

        Args:
            path: the file.
            field: for `{id: value}`: the field of the record that holds the value.
        """
        for number, (name, values) in enumerate(self.mapping(path).items(), start=1):
            if not field and not isinstance(values, dict):
                raise self.file_error(f"{path}: {name} must be an object, found {type(values).__name__}")
            yield FileRecord(path, number, {field: values} if field else as_object(values), name)

    def records(self, path: Path, document: Any, field: str = "") -> Iterator[FileRecord]:
        """The objects of the list in a field of an official JSON document, or of the document itself."""
        items = document.get(field) if field and isinstance(document, dict) else (None if field else document)
        if not isinstance(items, list):
            raise self.file_error(f"{path} must hold {f'{{{field!r}: [...]}}' if field else 'a list of objects'}")
        return listed_records(path, items, field)
