"""GQA: questions composed from scene graphs, one short answer each, right or wrong.

Source: D. Hudson and C. Manning (1902.09506); the rule is exact match as in the authors' `eval.py`, after LLaVA-1.5's
conversion of the answer (lower case, points at the end removed). Suffix and decoding are LLaVA-1.5's.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import answer_rows, join, write_json
from pairsight.benchmarks.files.official import Row, read_json
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import COLUMNS, mean_score
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt

_PUBLISHED = "its authors publish testdev_balanced_questions.json at cs.stanford.edu/people/dorarad/gqa/download.html"


class Gqa(Benchmark):
    """GQA from its questions file (`{id: {imageId, question, answer, isBalanced, types}}`); only balanced ones count.

    Images are `<imageId>.jpg`. Categories are the structural and semantic types, and binary against open questions.
    """

    name: ClassVar[str] = "gqa"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher"}
    prompt_suffix: ClassVar[str] = "\nAnswer the question using a single word or phrase."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a balanced question; the id is the question's.

        Raises:
            DataError: no such file, not `{id: question}`, or a question that lacks a field.
        """
        targets: dict[Any, dict[str, Any]] = {}  # one for all questions of an answer and kind: they are many
        for row in _rows(path):
            if row.values.get("isBalanced", True) is not True:
                continue
            name = row.text("imageId")
            try:
                image = images.ref(f"{name}.jpg", f"{name}.png")
            except DataError as error:
                raise row.error(str(error), reason=error.reason) from None
            prompt = Prompt(row.name, (Message("user", row.text("question"), (image,)),), source="gqa")
            key = row.text("answer"), _categories(row)
            target = targets.setdefault(key, {"answer": key[0], "categories": key[1]})
            yield (Sample(row.name, prompt, cluster=name, target=target),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """1 when the answer equals the truth after normalising."""
        sample, normal = group[0], official_answer if parser == "official" else robust_answer
        target = sample.target["answer"]
        read = normal(answers[0])
        right = float(read == (target if parser == "official" else robust_answer(target)))
        parsed = bool(robust_answer(answers[0]))
        decision = {"id": sample.id, "prediction": read, "target": target, "correct": right, "parsed": parsed}
        categories = sample.target["categories"]
        return Scored(sample.cluster, (right, 1.0), (decision,), 1, int(not parsed), categories)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy."""
        return mean_score(sums_RC)

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """`{questionId, prediction}` or `{question_id, text}` rows; answers to unbalanced questions pass."""
        every = (row.name for row in _rows(path))
        return join(answer_rows(answers), {sample.id: sample.id for (sample,) in groups}, answers, ignored=every)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`[{questionId, prediction}]`, converted as LLaVA-1.5 does."""
        rows = [{"questionId": s.id, "prediction": official_answer(answers.get(s.id, ""))} for (s,) in groups]
        return [write_json(folder / "gqa_predictions.json", rows)]


def official_answer(text: str) -> str:
    """Lower case, all points at the end removed."""
    return text.rstrip(".").lower()


@functools.lru_cache(maxsize=65_536)
def robust_answer(text: str) -> str:
    """The first line in lower case, without articles, punctuation at the ends, or more than one space (ours)."""
    line = text.strip().split("\n", maxsplit=1)[0].lower()
    words = [word for word in re.sub(r"[^\w\s'-]", " ", line).split() if word not in ("a", "an", "the")]
    return " ".join(words)


def _rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"GQA: {path} is no file; {_PUBLISHED}", reason="missing_file")
    questions: Any = read_json(path)
    if not isinstance(questions, dict):
        raise DataError(f"GQA: {path} must hold {{id: question}}, found {type(questions).__name__}; {_PUBLISHED}")
    for number, (name, values) in enumerate(questions.items(), start=1):
        if not isinstance(values, dict):
            raise DataError(f"{path}: question {name} must be an object, found {type(values).__name__}")
        yield Row(path, number, values, name)


def _categories(row: Row) -> tuple[str, ...]:
    types = row.values.get("types")
    if not isinstance(types, dict):
        return ()
    structural = types.get("structural")
    found = [f"{kind}: {types[kind]}" for kind in ("structural", "semantic") if isinstance(types.get(kind), str)]
    if isinstance(structural, str):
        found.append("open" if structural == "query" else "binary")
    return tuple(found)
