"""What a benchmark is: groups of samples in, sums out, figures combined from sums so that they can be resampled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pairsight.models.protocols import Sampling
from pairsight.records import ImageRef, Prompt

Parser = Literal["official", "robust"]
Better = Literal["higher", "lower", "neither"]


class SampleImages(Protocol):
    """How `load` names its images: by the file's name in the user's folder, or by the bytes the official file holds."""

    def ref(self, name: str, *others: str) -> ImageRef:
        """The image called `name`, else the first of `others` that is there; DataError when all are missing or bad."""
        ...

    def add(self, data: bytes, name: str) -> ImageRef:
        """The image in `data`, kept for the model to see; `name` is for messages; DataError when it is bad."""
        ...


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


class Benchmark(Protocol):
    """A benchmark with its official rule. A group is what is scored together (MME's pair, MMBench's rotations).

    It may also have `fallbacks`, naming what stands in for a tool of the original that is not installed (its figures
    are then not called official), `read_answers` and `write_answers` (see `answer_files`), and `ranks_options` = True:
    then a sample's target has `options` (letter -> text) and its answer is the letter of the likeliest.
    """

    name: ClassVar[str]
    judged: ClassVar[bool]
    columns: ClassVar[tuple[str, ...]]
    better: ClassVar[Mapping[str, Better]]
    prompt_suffix: ClassVar[str]
    sampling: ClassVar[Sampling]

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """The groups of the official file; bad rows raise DataError with file, line and id."""
        ...

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """The sums of one group, given one answer text per sample."""
        ...

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metric name -> R values, from R (resampled) rows of column sums."""
        ...
