"""GQA: questions composed from scene graphs, one short answer each, right or wrong.

Source: D. Hudson and C. Manning (1902.09506); the rule is exact match as in the authors' `eval.py`, after LLaVA-1.5's
conversion of the answer (lower case, trailing periods removed). Suffix and decoding are LLaVA-1.5's.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pairsight.benchmarks.files.official import FileRecord
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages


class Gqa(Benchmark):
    """GQA from its questions file (`{id: {imageId, question, answer, isBalanced, types}}`); only balanced ones count.

    Images are `<imageId>.jpg`. Categories are the structural and semantic types, and binary or open. Answers are
    `{questionId, prediction}` or `{question_id, text}` records; those to unbalanced questions are skipped.
    """

    name = "gqa"
    title = "GQA"
    published = (
        "its authors publish testdev_balanced_questions.json at cs.stanford.edu/people/dorarad/gqa/download.html"
    )
    metrics: ClassVar = {"accuracy": mean("score", "items")}
    prompt_suffix = "\nAnswer the question using a single word or phrase."
    answers_file = "gqa_predictions.json"

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per balanced question; the id is the question's.

        Raises:
            DataError: no such file, not `{id: question}`, or a question that lacks a field.
        """
        targets: dict[object, dict[str, object]] = {}  # shared by questions with equal answer and categories
        for record in self.named_records(path):
            if record.values.get("isBalanced", True) is not True:
                continue
            name = record.text("imageId")
            image = record.image_called(images, f"{name}.jpg", f"{name}.png")
            question, answer, categories = record.text("question"), record.text("answer"), _categories(record)
            target = targets.setdefault((answer, categories), {"answer": answer, "categories": categories})
            yield (self.sample(record.id, question, [image], cluster=name, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 if the normalised answer equals the true one."""
        target, robust = sample.target["answer"], robust_answer(answer)
        read, truth = (official_answer(answer), target) if official else (robust, robust_answer(target))
        return Reading(read, float(read == truth), bool(robust), categories=sample.target["categories"])

    def other_ids(self, path: Path) -> Iterator[str]:
        """All questions of the file."""
        return (record.id for record in self.named_records(path))

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{questionId, prediction}`, converted as by LLaVA-1.5."""
        return {"questionId": sample.id, "prediction": official_answer(answer or "")}


def official_answer(text: str) -> str:
    """Lower case, trailing periods removed."""
    return text.rstrip(".").lower()


@functools.lru_cache(maxsize=65_536)
def robust_answer(text: str) -> str:
    """The first line in lower case without articles and punctuation, words separated by single spaces (ours)."""
    line = text.strip().split("\n", maxsplit=1)[0].lower()
    words = [word for word in re.sub(r"[^\w\s'-]", " ", line).split() if word not in ("a", "an", "the")]
    return " ".join(words)


def _categories(record: FileRecord) -> tuple[str, ...]:
    types = record.values.get("types")
    if not isinstance(types, dict):
        return ()
    structural = types.get("structural")
    found = [f"{kind}: {types[kind]}" for kind in ("structural", "semantic") if isinstance(types.get(kind), str)]
    if isinstance(structural, str):
        found.append("open" if structural == "query" else "binary")
    return tuple(found)
