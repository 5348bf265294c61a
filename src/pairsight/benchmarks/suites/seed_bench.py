"""SEED-Bench, image part: 14,233 four-way questions over nine abilities.

Source: B. Li et al. (2307.16125). Two different metrics go by this name: `seed_bench_likelihood`, the official one
(the option with the lowest loss), and `seed_bench`, LLaVA-1.5's (the generated letter equals the answer).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import answer_rows, join, write_jsonl
from pairsight.benchmarks.files.official import Row, UniqueIds, read_json
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import COLUMNS, mean_score, option_letter
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt

LETTERS = ("A", "B", "C", "D")
IMAGE_TYPES = range(1, 10)
_PUBLISHED = "its authors publish SEED-Bench.json and the images at huggingface.co/datasets/AILab-CVC/SEED-Bench"


class SeedBench(Benchmark):
    """SEED-Bench from `SEED-Bench.json`, question types 1–9; the metric is LLaVA-1.5's `letter`.

    Images are `data_id` inside the images folder. Categories are the nine abilities.
    """

    name: ClassVar[str] = "seed_bench"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    better: ClassVar[Mapping[str, Better]] = {"letter_accuracy": "higher"}
    prompt_suffix: ClassVar[str] = "\nAnswer with the option's letter from the given choices directly."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; the id is `question_id`.

        Raises:
            DataError: no such file, a question that lacks a field, or an id twice.
        """
        for sample in load_questions(path, images):
            lines = [sample.target["question"], *(f"{a}. {t}" for a, t in sample.target["options"].items())]
            asked = Message("user", "\n".join(lines), sample.prompt.images)
            yield (Sample(sample.id, Prompt(sample.id, (asked,), "seed_bench"), sample.cluster, sample.target),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """1 when the answer is the letter; `robust` reads letters and option texts in any form."""
        return score_letter(group[0], answers[0], parser)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The share of right options."""
        (metric,) = self.better
        return mean_score(sums_RC, metric)

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Rows with `question_id` (`q_id` in the authors' results); answers to video questions pass."""
        return read_seed_answers(answers, path, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`{question_id, prediction}` rows for the leaderboard."""
        rows = [{"question_id": s.id, "prediction": answers.get(s.id, "")} for (s,) in groups]
        return [write_jsonl(folder / f"{self.name}.jsonl", rows)]


class SeedBenchLikelihood(SeedBench):
    """SEED-Bench's own metric: the option whose text is likeliest after the bare question. A local model is needed."""

    name: ClassVar[str] = "seed_bench_likelihood"
    ranks_options: ClassVar[bool] = True
    better: ClassVar[Mapping[str, Better]] = {"likelihood_accuracy": "higher"}
    prompt_suffix: ClassVar[str] = ""
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=1)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question, its options in the target; see `SeedBench.load`."""
        for sample in load_questions(path, images):
            yield (sample,)


def load_questions(path: Path, images: SampleImages) -> Iterator[Sample]:
    """The image questions of SEED-Bench.json, the prompt holding the bare question."""
    whole = _whole(path)
    types = whole.get("question_type")
    abilities = {number: name for name, number in types.items()} if isinstance(types, dict) else {}
    ids = UniqueIds()
    for row in _questions(path, whole):
        ids.add(row)
        kind = row.number("question_type_id")
        if kind in IMAGE_TYPES:
            yield _sample(row, str(abilities.get(kind, kind)), images)


def read_seed_answers(answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
    """Sample id -> answer; LLaVA's and the authors' files answer the video questions too, which are passed over."""
    every = (row.name for row in _questions(path, _whole(path)))
    return join(answer_rows(answers), {sample.id: sample.id for (sample,) in groups}, answers, ignored=every)


def score_letter(sample: Sample, answer: str, parser: Parser) -> Scored:
    """1 when the answer is exactly the right letter (official), or says it in any form (robust)."""
    understood = option_letter(answer, sample.target["options"])
    read = answer if parser == "official" else understood
    right = float(read == sample.target["answer"])
    decision = {
        "id": sample.id, "prediction": read, "target": sample.target["answer"], "correct": right,
        "parsed": understood is not None,
    }  # fmt: skip
    categories = (f"ability: {sample.target['ability']}",)
    return Scored(sample.cluster, (right, 1.0), (decision,), 1, int(understood is None), categories)


def _whole(path: Path) -> dict[str, Any]:
    whole = read_json(path) if path.is_file() else None
    if not isinstance(whole, dict) or not isinstance(whole.get("questions"), list):
        what = "is no file" if not path.is_file() else "must hold {'questions': [...]}"
        raise DataError(f"SEED-Bench: {path} {what}; {_PUBLISHED}", reason="missing_file")
    return whole


def _questions(path: Path, whole: Mapping[str, Any]) -> Iterator[Row]:
    for number, item in enumerate(whole["questions"], start=1):
        if not isinstance(item, dict):
            raise DataError(f"{path}: question {number} must be an object, found {type(item).__name__}")
        yield Row(path, number, item).named("question_id")


def _sample(row: Row, ability: str, images: SampleImages) -> Sample:
    question = row.text("question")
    options = {letter: _choice(row, f"choice_{letter.lower()}") for letter in LETTERS}
    prompt = Prompt(row.name, (Message("user", question, (row.image(images, "data_id"),)),), source="seed_bench")
    target = {"question": question, "options": options, "answer": row.choice("answer", LETTERS), "ability": ability}
    return Sample(row.name, prompt, cluster=row.text("data_id"), target=target)


def _choice(row: Row, field: str) -> str:
    value = row.values.get(field)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else row.text(field)
