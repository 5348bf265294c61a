"""VQAv2: open questions about COCO images, ten human answers each, soft accuracy.

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
    """VQAv2 from a folder with one questions and (except test) one annotations file, or from LLaVA's test JSONL.

    Without annotations nothing is scored: export the answers for the server. Categories are the types of
    answers and questions.
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
        """One group a question; the id is `question_id`.

        Raises:
            DataError: no questions file, a bad row, an id twice, or a question whose annotation is missing.
        """
        if path.is_file():  # LLaVA's
            for row in files.unique_rows(files.read_jsonl(path), "question_id"):
                yield (self._sample(row, row.text("text"), row.text("image"), images, {}),)
            return
        questions, annotations = self._files(path)
        truths = self._annotations(annotations) if annotations else {}
        for row in files.unique_rows(self._listed(questions, "questions"), "question_id"):
            name = _image_name(row, questions)
            truth = truths.get(row.name)
            if annotations and truth is None:
                raise row.error(f"{annotations} has no annotation of this question", reason="missing_id")
            yield (self._sample(row, row.text("question"), name, images, truth or {}),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """The soft accuracy of one answer; a question without annotation counts nothing."""
        truth = sample.target.get("answers")
        text = vqa.m4c_normal(answer) if self.normalise else answer
        if truth is None:
            return Reading(text, None, bool(text.strip()))
        read, agrees = official_match(text, truth) if official else _robust_match(text, truth)
        categories = tuple(f"{k.replace('_', ' ')}: {sample.target[k]}" for k in _KINDS if sample.target.get(k))
        return Reading(read, vqa.soft_score(tuple(agrees)), bool(text.strip()), categories=categories)

    def answer_row(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{question_id, answer}` for `vqaEval.py` or the server, which wants every question of the split."""
        text = answer or ""
        number = int(sample.id) if sample.id.isdigit() else sample.id
        return {"question_id": number, "answer": vqa.m4c_normal(text) if self.normalise else text}

    def _sample(
        self, row: files.Row, question: str, image_name: str, images: SampleImages, truth: Mapping[str, object]
    ) -> Sample:
        image = row.image_called(images, image_name)
        return self.sample(row.name, question, [image], cluster=image_name, target=truth)

    def _files(self, path: Path) -> tuple[Path, Path | None]:
        """The questions and annotations of a VQA folder."""
        if not path.is_dir():
            raise self.refusal(f"{path} does not exist", "missing_file")
        questions, annotations = sorted(path.glob("*questions*.json")), sorted(path.glob("*annotations*.json"))
        if len(questions) != 1 or len(annotations) > 1:
            found = ", ".join(p.name for p in (*questions, *annotations)) or "none"
            wanted = "one *questions*.json and at most one *annotations*.json"
            raise self.refusal(f"{path} must hold {wanted}, found {found}", "missing_file")
        return questions[0], annotations[0] if annotations else None

    def _annotations(self, path: Path) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for row in files.unique_rows(self._listed(path, "annotations"), "question_id"):
            given = row.values.get("answers")
            if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
                raise row.error("'answers' must be a list of {'answer': text}")
            found[row.name] = {
                "answers": tuple(sys.intern(text) for text in given),
                **{kind: sys.intern(str(row.values.get(kind, ""))) for kind in _KINDS},
            }
        return found

    def _listed(self, path: Path, field: str) -> Iterator[files.Row]:
        whole = self.document(path, _without_annotator)
        subset = whole.get("data_subtype", "") if isinstance(whole, dict) else ""
        for row in self.rows(path, whole, field):
            yield replace(row, values={"data_subtype": subset, **row.values})


def official_match(answer: str, truth: Sequence[str]) -> tuple[str, list[bool]]:
    """What the answer was read as, and which annotators gave it.

    Newlines and tabs become spaces and the ends are stripped; only if the annotators then differ are both sides
    normalised further.
    """
    read, given = _spaced(answer), [_spaced(text) for text in truth]
    if len(set(given)) > 1:
        read, given = vqa.vqa_normal(read), [vqa.vqa_normal(text) for text in given]
    return read, [text == read for text in given]


def _robust_match(answer: str, truth: Sequence[str]) -> tuple[str, list[bool]]:
    read = vqa.m4c_normal(answer)
    return read, [vqa.m4c_normal(text) == read for text in truth]


@functools.lru_cache(maxsize=65_536)
def _spaced(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_annotator(value: dict[str, object]) -> object:
    """An annotator's answer as its text alone: two million small objects would take a gigabyte."""
    return value["answer"] if "answer" in value and "question_id" not in value else value


def _image_name(row: files.Row, path: Path) -> str:
    subset = row.values["data_subtype"] or next(
        (part for part in ("train2014", "val2014", "test2015", "test-dev2015") if part in path.name), ""
    )
    folder = {"test-dev2015": "test2015"}.get(str(subset), str(subset))
    if not folder:
        raise row.error("neither the file's 'data_subtype' nor its name says which COCO images are meant")
    return f"COCO_{folder}_{row.number('image_id'):012d}.jpg"
