"""The world as a benchmark: existence, captions, attributes and text-only tasks, from a `truth.jsonl` with images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.protocol import Benchmark, Better, Reading, Sample, SampleImages
from pairsight.benchmarks.suites.pope import official_answer
from pairsight.benchmarks.tasks import unverified_name
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.errors import DataError
from pairsight.records import ImageRef
from pairsight.tiny.train.scoring import COLUMNS, metrics, normalise, question_sums
from pairsight.tiny.truth.annotator import TruthQuestion, read_truth

_LOWER = ("chair_i", "chair_s", "chair_i_cut")
_NEITHER = ("yes_rate", "caption_length")


class TinyWorld(Benchmark):
    """All questions of a world's benchmark scenes; a group is one question, a cluster one scene (or one text task)."""

    name = "tiny"
    columns = COLUMNS
    better: ClassVar[Mapping[str, Better]] = {
        name: "lower" if name in _LOWER else "neither" if name in _NEITHER else "higher"
        for name in metrics(np.zeros((1, len(COLUMNS))))
    }
    max_new_tokens = 48

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question whose use is "benchmark".

        Args:
            path: a `truth.jsonl`, or the world's folder that holds it.
            images: the world's images.

        Raises:
            DataError: a bad row, or an image that is missing or not the one the row was written for.
        """
        for row in read_truth(path / "truth.jsonl" if path.is_dir() else path):
            if row.use == "benchmark":
                target = {"kind": row.kind, "category": row.category, "answer": row.answer, "present": row.present}
                shown = [] if row.image is None else [_image(row, row.image, images)]
                yield (self.sample(row.id, row.question, shown, cluster=row.image or row.id, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """The sums of one question; the parser decides only how a yes or no is read."""
        target = sample.target
        understood = robust_yes_no(answer) if target["kind"] == "existence" else ""
        read = official_answer(answer) if official else understood or _opposite(target["answer"])
        sums = question_sums(target["kind"], target["category"], target["answer"], target["present"], answer, read=read)
        shown = read if target["kind"] == "existence" else normalise(answer)
        category = f"{target['kind']}: {target['category']}"
        return Reading(shown, _correct(target["kind"], sums), understood is not None, sums, (category,))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The world's metrics from R rows of column sums; see `scoring.metrics`."""
        return {name: values for name, values in metrics(sums_RC).items() if not np.isnan(values).all()}


def _image(row: TruthQuestion, name: str, images: SampleImages) -> ImageRef:
    ref = images.ref(name)
    if unverified_name(ref) is None and ref.sha256 != row.image_sha256:
        raise DataError(f"image {name} is not the picture that {row.id} asks about: the file has changed")
    return ref


def _opposite(answer: str) -> str:
    return "no" if answer == "Yes" else "yes"


def _correct(kind: str, sums: tuple[float, ...]) -> float | None:
    named = dict(zip(COLUMNS, sums, strict=True))
    if kind == "caption":
        return float(named["mentions_hallucinated"] == 0 and named["found"] == named["present"])
    if kind == "existence":
        return named["yes_true"] + named["no_true"]
    return named[f"{kind}_right"]
