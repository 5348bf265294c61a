"""What a benchmark is: groups of samples in, sums out, figures combined from sums so that they can be resampled."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import answer_rows, join, write_jsonl
from pairsight.benchmarks.files.official import SampleImages
from pairsight.config import BaseConfig
from pairsight.models.protocols import Sampling
from pairsight.records import Prompt

__all__ = ["Benchmark", "Better", "Parser", "Sample", "SampleImages", "Scored"]

Parser = Literal["official", "robust"]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a benchmark. `cluster` is what a bootstrap resamples (the image); `target` what scoring needs."""

    id: str
    prompt: Prompt
    cluster: str
    target: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a group earned: one number per column of the benchmark, and each answer's decision for people to read.

    A decision has the keys id, prediction (what was read), target, correct (0–1 or None) and parsed.
    `categories` names the rows of the per-category tables that the group belongs to, e.g. ("ability: counting",).
    """

    cluster: str
    sums: tuple[float, ...]
    decisions: tuple[Mapping[str, Any], ...] = ()
    num_items: int = 1
    num_unparsed: int = 0
    categories: tuple[str, ...] = ()


class Benchmark(BaseConfig, ABC):
    """The base of all benchmarks, with its official rule. A subclass is one file: its options as fields, and
    `load`, `score` and `combine`.

    A group is what is scored together (MME's pair, MMBench's rotations).
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """The names of the sums that `score` returns."""
    better: ClassVar[Mapping[str, Better]]
    """Metric name -> which values are better; "neither" for a metric that is not listed."""
    sampling: ClassVar[Sampling]
    prompt_suffix: ClassVar[str] = ""
    """What ends every question."""
    judged: ClassVar[bool] = False
    ranks_options: ClassVar[bool] = False
    """Whether a model chooses among options by likelihood: then a sample's target has `options` (letter -> text), and
    its answer is the letter of the likeliest."""

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces tools of the original that are not installed; figures made with it are not called official."""
        return ()

    @abstractmethod
    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """The groups of the official file; bad rows raise DataError with file, line and id."""

    @abstractmethod
    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """The sums of one group, given one answer text per sample."""

    @abstractmethod
    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metric name -> R values, from R (resampled) rows of column sums."""

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Sample id -> answer text, from a file or folder in the official format; here `{question_id, text}` rows.

        Args:
            answers: the answers.
            path: the benchmark's own file or folder.
            groups: its samples.

        Raises:
            DataError: the file is missing or damaged, or an id is wrong, missing or there twice.
        """
        return join(answer_rows(answers), {sample.id: sample.id for group in groups for sample in group}, answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write what the official script or server accepts, here `{question_id, text}` rows; returns the files.

        Args:
            folder: where to.
            path: the benchmark's own file or folder.
            groups: its samples.
            answers: sample id -> answer text.
        """
        rows = [{"question_id": s.id, "text": answers[s.id]} for group in groups for s in group if s.id in answers]
        return [write_jsonl(folder / f"{self.name}.jsonl", rows)]
