"""VQAv2: open questions about COCO images, ten human answers each, soft accuracy.

Source: Y. Goyal et al. (1612.00837); the rule is that of the authors' `vqaEval.py` (github.com/GT-Vision-Lab/VQA).
Suffix and decoding are LLaVA-1.5's.
"""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.answers import write_json
from pairsight.benchmarks.files.official import Row, UniqueIds, read_json, read_jsonl
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import COLUMNS, mean_score
from pairsight.benchmarks.words.vqa import m4c_normal, soft_score, vqa_normal
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt

_PUBLISHED = (
    "the authors publish v2_OpenEnded_mscoco_<split>_questions.json and v2_mscoco_<split>_annotations.json at "
    "visualqa.org/download.html; give the folder that holds one of each (test splits have no annotations)"
)


class Vqav2(Benchmark):
    """VQAv2 from a folder with one questions and (except test) one annotations file, or from LLaVA's test JSONL.

    Without annotations nothing is scored: export the answers for the server. Categories are the types of
    answers and questions.
    """

    normalise: bool = Field(False, description="normalise answers before scoring and export, as LLaVA's exporter does")

    name: ClassVar[str] = "vqav2"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher"}
    prompt_suffix: ClassVar[str] = "\nAnswer the question using a single word or phrase."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; the id is `question_id`.

        Raises:
            DataError: no questions file, a bad row, an id twice, or a question whose annotation is missing.
        """
        if path.is_file():
            yield from _llava_questions(path, images)
            return
        questions, annotations = question_files(path)
        truths = _annotations(annotations) if annotations else {}
        ids = UniqueIds()
        for row in _questions(questions):
            ids.add(row)
            name = _image_name(row, questions)
            truth = truths.get(row.name)
            if annotations and truth is None:
                raise row.error(f"{annotations} has no annotation of this question", reason="missing_id")
            yield (_sample(row, row.text("question"), name, images, truth),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """The soft accuracy of one answer; a question without annotation counts nothing."""
        sample, truth = group[0], group[0].target.get("answers")
        answer = m4c_normal(answers[0]) if self.normalise else answers[0]
        parsed = bool(answer.strip())
        if truth is None:
            return Scored(sample.cluster, (0.0, 0.0), (_decision(sample, answer, None, parsed),), 1, int(not parsed))
        read, agrees = official_match(answer, truth) if parser == "official" else _robust_match(answer, truth)
        right = soft_score(tuple(agrees))
        kinds = ("answer_type", "question_type")
        categories = tuple(f"{k.replace('_', ' ')}: {sample.target[k]}" for k in kinds if sample.target.get(k))
        decision = _decision(sample, read, right, parsed)
        return Scored(sample.cluster, (right, 1.0), (decision,), 1, int(not parsed), categories)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy."""
        return mean_score(sums_RC)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`[{question_id, answer}]` for `vqaEval.py` or the server, which wants every question of the split."""
        rows = []
        for (sample,) in groups:
            text = answers.get(sample.id, "")
            number = int(sample.id) if sample.id.isdigit() else sample.id
            rows.append({"question_id": number, "answer": m4c_normal(text) if self.normalise else text})
        return [write_json(folder / "vqav2_results.json", rows)]


def official_match(answer: str, truth: Sequence[str]) -> tuple[str, list[bool]]:
    """What the answer was read as, and which annotators gave it.

    Newlines and tabs become spaces and the ends are stripped; only if the annotators then differ are both sides
    normalised further.
    """
    read, given = _spaced(answer), [_spaced(text) for text in truth]
    if len(set(given)) > 1:
        read, given = vqa_normal(read), [vqa_normal(text) for text in given]
    return read, [text == read for text in given]


def question_files(path: Path) -> tuple[Path, Path | None]:
    """The questions and annotations of a VQA folder."""
    if not path.is_dir():
        raise DataError(f"VQAv2: {path} does not exist; {_PUBLISHED}", reason="missing_file")
    questions, annotations = sorted(path.glob("*questions*.json")), sorted(path.glob("*annotations*.json"))
    if len(questions) != 1 or len(annotations) > 1:
        found = ", ".join(p.name for p in (*questions, *annotations)) or "none"
        raise DataError(
            f"VQAv2: {path} must hold one *questions*.json and at most one *annotations*.json, found {found}; "
            f"{_PUBLISHED}",
            reason="missing_file",
        )
    return questions[0], annotations[0] if annotations else None


def _robust_match(answer: str, truth: Sequence[str]) -> tuple[str, list[bool]]:
    read = m4c_normal(answer)
    return read, [m4c_normal(text) == read for text in truth]


@functools.lru_cache(maxsize=65_536)
def _spaced(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _decision(sample: Sample, read: str, right: float | None, parsed: bool) -> dict[str, Any]:
    target = sample.target.get("answers")
    return {"id": sample.id, "prediction": read, "target": target, "correct": right, "parsed": parsed}


def _sample(row: Row, question: str, image_name: str, images: SampleImages, truth: Mapping[str, Any] | None) -> Sample:
    try:
        image = images.ref(image_name)
    except DataError as error:
        raise row.error(str(error), reason=error.reason) from None
    prompt = Prompt(row.name, (Message("user", question, (image,)),), source="vqav2")
    return Sample(row.name, prompt, cluster=image_name, target=truth or {})


def _llava_questions(path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
    ids = UniqueIds()
    for bare in read_jsonl(path):
        row = bare.named("question_id")
        ids.add(row)
        yield (_sample(row, row.text("text"), row.text("image"), images, None),)


def _questions(path: Path) -> Iterator[Row]:
    for row in _listed(path, "questions"):
        yield row.named("question_id")


def _annotations(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    ids = UniqueIds()
    for bare in _listed(path, "annotations"):
        row = bare.named("question_id")
        ids.add(row)
        given = row.values.get("answers")
        if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
            raise row.error("'answers' must be a list of {'answer': text}")
        found[row.name] = {
            "answers": tuple(sys.intern(text) for text in given),
            **{kind: sys.intern(str(row.values.get(kind, ""))) for kind in ("answer_type", "question_type")},
        }  # fmt: skip
    return found


def _listed(path: Path, field: str) -> Iterator[Row]:
    whole = read_json(path, _without_annotator)
    items = whole.get(field) if isinstance(whole, dict) else None
    if not isinstance(items, list):
        raise DataError(f"VQAv2: {path} must hold {{'{field}': [...]}}; {_PUBLISHED}")
    subset = whole.get("data_subtype", "")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(f"{path}: item {number} of '{field}' must be an object, found {type(item).__name__}")
        yield Row(path, number, {"data_subtype": subset, **item})


def _without_annotator(value: dict[str, Any]) -> Any:
    """An annotator's answer as its text alone: two million small objects would take a gigabyte."""
    return value["answer"] if "answer" in value and "question_id" not in value else value


def _image_name(row: Row, path: Path) -> str:
    subset = row.values["data_subtype"] or next(
        (part for part in ("train2014", "val2014", "test2015", "test-dev2015") if part in path.name), ""
    )
    folder = {"test-dev2015": "test2015"}.get(str(subset), str(subset))
    if not folder:
        raise row.error("neither the file's 'data_subtype' nor its name says which COCO images are meant")
    return f"COCO_{folder}_{row.number('image_id'):012d}.jpg"
