"""VQAv2: open questions about COCO images with ten human answers each; soft accuracy.

Source: Y. Goyal et al. (1612.00837); the rule is that of the authors' `vqaEval.py` (github.com/GT-Vision-Lab/VQA).
Suffix and decoding are LLaVA-1.5's.
"""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words import vqa

_KINDS = ("answer_type", "question_type")


class Vqav2(Benchmark):
    """VQAv2 from a folder with one questions file and, except for test, one annotations file; or LLaVA's test JSONL.

    Without annotations nothing is scored: export the answers for the server. Categories are the answer and question
    types.
    """

    normalise: bool = Field(False, description="normalise answers before scoring and export, as LLaVA's exporter does")

    name = "vqav2"
    title = "VQAv2"
    published = (
        "the authors publish v2_OpenEnded_mscoco_<split>_questions.json and v2_mscoco_<split>_annotations.json at "
        "visualqa.org/download.html; give the folder that holds one of each (test splits have no annotations)"
    )
    metrics: ClassVar = {"accuracy": mean("score", "items")}
    prompt_suffix = "\nAnswer the question using a single word or phrase."
    answers_file = "vqav2_results.json"

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question; the id is `question_id`.

        Raises:
            DataError: no questions file, a bad record, a duplicate id, or a question without annotation.
        """
        if path.is_file():  # LLaVA's
            for record in files.unique_records(files.read_jsonl(path), "question_id"):
                yield (self._sample(record, record.text("text"), record.text("image"), images, {}),)
            return
        questions, annotations = self._files(path)
        truths = self._annotations(annotations) if annotations else {}
        for record in files.unique_records(self._listed(questions, "questions"), "question_id"):
            name = _image_name(record, questions)
            truth = truths.get(record.id)
            if annotations and truth is None:
                raise record.error(f"{annotations} has no annotation of this question", reason="missing_id")
            yield (self._sample(record, record.text("question"), name, images, truth or {}),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """The soft accuracy of one answer; a question without annotation does not count."""
        truth = sample.target.get("answers")
        text = vqa.m4c_normal(answer) if self.normalise else answer
        if truth is None:
            return Reading(text, None, bool(text.strip()))
        read, agrees = official_match(text, truth) if official else _robust_match(text, truth)
        categories = tuple(f"{k.replace('_', ' ')}: {sample.target[k]}" for k in _KINDS if sample.target.get(k))
        return Reading(read, vqa.soft_score(tuple(agrees)), bool(text.strip()), categories=categories)

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{question_id, answer}` for `vqaEval.py` or the server, which requires all questions of the split."""
        text = answer or ""
        number = int(sample.id) if sample.id.isdigit() else sample.id
        return {"question_id": number, "answer": vqa.m4c_normal(text) if self.normalise else text}

    def _sample(
        self,
        record: files.FileRecord,
        question: str,
        image_name: str,
        images: SampleImages,
        target: Mapping[str, object],
    ) -> Sample:
        image = record.image_called(images, image_name)
        return self.sample(record.id, question, [image], cluster=image_name, target=target)

    def _files(self, path: Path) -> tuple[Path, Path | None]:
        """The questions file and the annotations file, if any, of a VQA folder."""
        if not path.is_dir():
            raise self.file_error(f"{path} does not exist", "missing_file")
        questions, annotations = sorted(path.glob("*questions*.json")), sorted(path.glob("*annotations*.json"))
        if len(questions) != 1 or len(annotations) > 1:
            found = ", ".join(p.name for p in (*questions, *annotations)) or "none"
            wanted = "one *questions*.json and at most one *annotations*.json"
            raise self.file_error(f"{path} must hold {wanted}, found {found}", "missing_file")
        return questions[0], annotations[0] if annotations else None

    def _annotations(self, path: Path) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for record in files.unique_records(self._listed(path, "annotations"), "question_id"):
            answers = record.values.get("answers")
            if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
                raise record.error("'answers' must be a list of {'answer': text}")
            found[record.id] = {
                "answers": tuple(sys.intern(text) for text in answers),
                **{kind: sys.intern(str(record.values.get(kind, ""))) for kind in _KINDS},
            }
        return found

    def _listed(self, path: Path, field: str) -> Iterator[files.FileRecord]:
        document = self.document(path, _without_annotator)
        subset = document.get("data_subtype", "") if isinstance(document, dict) else ""
        for record in self.records(path, document, field):
            yield replace(record, values={"data_subtype": subset, **record.values})


def official_match(answer: str, truth: Sequence[str]) -> tuple[str, list[bool]]:
    """The answer as read, and which annotators gave it.

    Newlines and tabs become spaces and the ends are stripped; only if the annotators then disagree, both sides are
    normalised further.
    """
    read, expected = _spaced(answer), [_spaced(text) for text in truth]
    if len(set(expected)) > 1:
        read, expected = vqa.vqa_normal(read), [vqa.vqa_normal(text) for text in expected]
    return read, [text == read for text in expected]


def _robust_match(answer: str, truth: Sequence[str]) -> tuple[str, list[bool]]:
    read = vqa.m4c_normal(answer)
    return read, [vqa.m4c_normal(text) == read for text in truth]


@functools.lru_cache(maxsize=65_536)
def _spaced(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_annotator(value: dict[str, object]) -> object:
    """An annotator's answer reduced to its text: two million small objects would take a gigabyte."""
    return value["answer"] if "answer" in value and "question_id" not in value else value


def _image_name(record: files.FileRecord, path: Path) -> str:
    subset = record.values["data_subtype"] or next(
        (part for part in ("train2014", "val2014", "test2015", "test-dev2015") if part in path.name), ""
    )
    folder = {"test-dev2015": "test2015"}.get(str(subset), str(subset))
    if not folder:
        raise record.error("neither 'data_subtype' nor the file name gives the COCO image folder")
    return f"COCO_{folder}_{record.number('image_id'):012d}.jpg"
