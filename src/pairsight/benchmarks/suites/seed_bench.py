"""SEED-Bench, image part: 14,233 four-way questions over nine abilities.

Source: B. Li et al. (2307.16125). Two different metrics have this name: `seed_bench_likelihood`, the official one (the
option with the lowest loss), and `seed_bench`, LLaVA-1.5's (the generated letter equals the answer).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from pairsight.benchmarks.files.official import FileRecord, unique_records
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words.reading import option_letter

LETTERS = ("A", "B", "C", "D")
IMAGE_TYPES = range(1, 10)


class SeedBench(Benchmark):
    """SEED-Bench from `SEED-Bench.json`, question types 1–9; the metric is LLaVA-1.5's letter accuracy.

    Images are `data_id` within the images folder. Categories are the nine abilities. Answers are records with
    `question_id` (`q_id` in the authors' results); those to video questions are skipped.
    """

    name = "seed_bench"
    title = "SEED-Bench"
    published = "its authors publish SEED-Bench.json and the images at huggingface.co/datasets/AILab-CVC/SEED-Bench"
    source = "seed_bench"
    metrics: ClassVar = {"letter_accuracy": mean("score", "items")}
    prompt_suffix = "\nAnswer with the option's letter from the given choices directly."

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per image question; the id is `question_id`.

        Raises:
            DataError: no such file, a question that lacks a field, or a duplicate id.
        """
        document = self.document(path)
        types = document.get("question_type") if isinstance(document, dict) else None
        abilities = {number: name for name, number in types.items()} if isinstance(types, dict) else {}
        for record in unique_records(self.records(path, document, "questions"), "question_id"):
            kind = record.number("question_type_id")
            if kind in IMAGE_TYPES:
                question = record.text("question")
                options = {letter: _choice(record, f"choice_{letter.lower()}") for letter in LETTERS}
                target = {
                    "question": question,
                    "options": options,
                    "answer": record.choice("answer", LETTERS),
                    "ability": str(abilities.get(kind, kind)),
                }
                asked, image = self.asked(question, options), record.image(images, "data_id")
                yield (self.sample(record.id, asked, [image], cluster=record.text("data_id"), target=target),)

    def asked(self, question: str, options: Mapping[str, str]) -> str:
        """Question and lettered options, one per line, as LLaVA-1.5 asks."""
        return "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 if the answer is exactly the correct letter (official), or gives it in any form (robust)."""
        understood = option_letter(answer, sample.target["options"])
        read = answer if official else understood
        correct = float(read == sample.target["answer"])
        return Reading(read, correct, understood is not None, categories=(f"ability: {sample.target['ability']}",))

    def other_ids(self, path: Path) -> Iterator[str]:
        """All questions of the file: LLaVA's and the authors' files also answer the video questions."""
        for record in self.records(path, self.document(path), "questions"):
            yield record.with_id("question_id").id

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{question_id, prediction}` for the leaderboard."""
        return {"question_id": sample.id, "prediction": answer or ""}


class SeedBenchLikelihood(SeedBench):
    """SEED-Bench's official metric: the option whose text is likeliest after the question. Needs a local model."""

    name = "seed_bench_likelihood"
    ranks_options = True
    metrics: ClassVar = {"likelihood_accuracy": mean("score", "items")}
    prompt_suffix = ""
    max_new_tokens = 1

    def asked(self, question: str, options: Mapping[str, str]) -> str:
        """The question alone."""
        return question


def _choice(record: FileRecord, field: str) -> str:
    value = record.values.get(field)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else record.text(field)
