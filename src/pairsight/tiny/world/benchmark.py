"""The world as a benchmark: existence, captions, attributes and text-only tasks, from a `truth.jsonl` with images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.suites.pope import official_answer
from pairsight.benchmarks.tasks import unseen_name
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import ImageRef, Message, Prompt
from pairsight.tiny.train.scoring import COLUMNS, metrics, normalise, question_sums
from pairsight.tiny.truth.annotator import TruthRow, read_truth

_LOWER = ("chair_i", "chair_s", "chair_i_cut")
_NEITHER = ("yes_rate", "caption_length")


class TinyWorld(Benchmark):
    """All questions of a world's benchmark scenes; a group is one question, a cluster one scene (or one text task)."""

    name: ClassVar[str] = "tiny"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    better: ClassVar[Mapping[str, Better]] = {
        name: "lower" if name in _LOWER else "neither" if name in _NEITHER else "higher"
        for name in metrics(np.zeros((1, len(COLUMNS))))
    }
    prompt_suffix: ClassVar[str] = ""
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=48)

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
                yield (_sample(row, images),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """The sums of one question; the parser decides only how a yes or no is read."""
        sample, text = group[0], answers[0]
        target = sample.target
        understood = robust_yes_no(text) if target["kind"] == "existence" else ""
        read = official_answer(text) if parser == "official" else understood or _opposite(target["answer"])
        sums = question_sums(target["kind"], target["category"], target["answer"], target["present"], text, read=read)
        decision = {
            "id": sample.id,
            "prediction": read if target["kind"] == "existence" else normalise(text),
            "target": target["answer"],
            "correct": _correct(target["kind"], sums),
            "parsed": understood is not None,
        }
        category = f"{target['kind']}: {target['category']}"
        return Scored(sample.cluster, sums, (decision,), num_unparsed=int(understood is None), categories=(category,))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The world's metrics from R rows of column sums; see `scoring.metrics`."""
        return {name: values for name, values in metrics(sums_RC).items() if not np.isnan(values).all()}


def _sample(row: TruthRow, images: SampleImages) -> Sample:
    shown: tuple[ImageRef, ...] = ()
    if row.image is not None:
        ref = images.ref(row.image)
        if unseen_name(ref) is None and ref.sha256 != row.image_sha256:
            raise DataError(f"image {row.image} is not the picture that {row.id} asks about: the file has changed")
        shown = (ref,)
    target = {"kind": row.kind, "category": row.category, "answer": row.answer, "present": row.present}
    prompt = Prompt(row.id, (Message("user", row.question, shown),), source="tiny")
    return Sample(row.id, prompt, cluster=row.image or row.id, target=target)


def _opposite(answer: str) -> str:
    return "no" if answer == "Yes" else "yes"


def _correct(kind: str, sums: tuple[float, ...]) -> float | None:
    named = dict(zip(COLUMNS, sums, strict=True))
    if kind == "caption":
        return float(named["mentions_hallucinated"] == 0 and named["found"] == named["present"])
    if kind == "existence":
        return named["yes_true"] + named["no_true"]
    return named[f"{kind}_right"]
