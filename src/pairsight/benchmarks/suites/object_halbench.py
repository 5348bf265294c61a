"""Object HalBench: hallucinated COCO objects in descriptions of 300 images, each object counted once an answer.

Source: T. Yu et al., RLHF-V (2312.00849); counting as in `eval/eval_gpt_obj_halbench.py` (github.com/RLHF-V/RLHF-V).
The original asks GPT-3.5 for the objects of an answer; here they are found by the word list, as the original does in
its mode without GPT, so that the figures are never called official.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.answers import answer_text, join, json_rows, write_jsonl
from pairsight.benchmarks.files.official import Row, read_jsonl
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.suites.chair import synonyms_file
from pairsight.benchmarks.suites.coco_objects import CocoObjects, coco_truth
from pairsight.benchmarks.words.tokens import noun_lemma, tokenizer
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import ImageRef, Message, Prompt
from pairsight.statistics import ratio

_PUBLISHED = (
    "its authors publish obj_halbench_300_with_image.jsonl at huggingface.co/datasets/HaoyeZhang/RLHF-V-Object_HalBench"
)
_LONGEST_NAME = 260


class ObjectHalBench(Benchmark):
    """Object HalBench from its question JSONL (`{image_id, question, image}`, the image in base64 or by name).

    COCO's annotations and the refined synonyms (`synonyms_refine.txt`) lie beside it unless said otherwise.
    """

    annotations: str | None = Field(None, description="folder of COCO's annotations; default: where the questions lie")
    synonyms: str | None = Field(None, description="synonyms_refine.txt; default: where the questions lie")
    nltk_data: str | None = Field(None, description="folder of NLTK's data, instead of where NLTK looks")

    name: ClassVar[str] = "object_halbench"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = (
        "answers", "answers_with_objects", "hallucinated_answers", "mentions", "hallucinated_mentions", "objects",
        "objects_found", "words",
    )  # fmt: skip
    better: ClassVar[Mapping[str, Better]] = {
        "chair_s": "lower", "chair_i": "lower", "recall": "higher", "mean_words": "neither",
    }  # fmt: skip
    prompt_suffix: ClassVar[str] = ""
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=1024)

    @cached_property
    def fallbacks(self) -> tuple[str, ...]:
        """What stands in for the original's tools."""
        tools = tokenizer(self.nltk_data)[1], noun_lemma(self.nltk_data)[1]
        labels = ("objects found by the word list, where the original asks GPT-3.5", *tools)
        return tuple(label for label in labels if label)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; the id is `image_id`, with a number where an image is asked more than once.

        Raises:
            DataError: a missing file, a bad row, or an image that COCO's files do not have.
        """
        if not path.is_file():
            raise DataError(f"Object HalBench: {path} is no file; {_PUBLISHED}", reason="missing_file")
        file = synonyms_file(self.synonyms or path.parent / "synonyms_refine.txt")
        table = CocoObjects.read_refined(file, self.nltk_data)
        folder = Path(self.annotations) if self.annotations else path.parent
        rows = [bare.named("image_id", "id", "question_id") for bare in read_jsonl(path)]
        ids = [_image_id(row) for row in rows]
        truth = coco_truth(folder, table, set(ids))
        times: dict[int, int] = {}
        for row, image_id in zip(rows, ids, strict=True):
            if image_id not in truth:
                raise row.error(f"COCO's files in {folder} have no image {image_id}", reason="foreign_id")
            times[image_id] = times.get(image_id, 0) + 1
            own = str(image_id) if times[image_id] == 1 else f"{image_id}#{times[image_id]}"
            message = Message("user", row.text("question"), (_image(row, images),))
            target = {"truth": truth[image_id], "image_id": image_id, "table": table}
            yield (Sample(own, Prompt(own, (message,), "object_halbench"), str(image_id), target),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Count the different object words of the answer, and those of objects that are not there."""
        sample = group[0]
        table: CocoObjects = sample.target["table"]
        mentions = list(dict.fromkeys(table.mentions(answers[0], parser)))
        truth = sample.target["truth"][parser]
        wrong = [mention for mention in mentions if mention[1] not in truth]
        found = {node for _, node in mentions} & truth
        decision = {
            "id": sample.id, "prediction": [word for word, _ in mentions], "target": sorted(truth),
            "correct": float(not wrong), "parsed": True,
        }  # fmt: skip
        words = len(answers[0].strip().split(" "))
        counts = (1, bool(mentions), bool(wrong), len(mentions), len(wrong), len(truth), len(found), words)
        return Scored(sample.cluster, tuple(map(float, counts)), (decision,))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """CHAIRs over answers that mention an object, CHAIRi over different mentions, recall, words per answer."""
        answers, with_objects, wrong_answers, mentions, wrong, objects, found, words = sums_RC.T
        return {
            "chair_s": ratio(wrong_answers, with_objects), "chair_i": ratio(wrong, mentions),
            "recall": ratio(found, objects), "mean_words": ratio(words, answers),
        }  # fmt: skip

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Rows with `image_id` and `answer` or `text`; "Assistant:" is removed, as in the original."""
        known = {sample.id: sample.id for (sample,) in groups}
        times: dict[str, int] = {}
        named = []
        for row in (bare.named("image_id", "id", "question_id") for bare in json_rows(answers)):
            times[row.name] = times.get(row.name, 0) + 1
            own = row.name if times[row.name] == 1 else f"{row.name}#{times[row.name]}"
            if own not in known and row.name in known:
                raise row.error("the image was answered already, as often as it is asked", reason="duplicate_id")
            text = answer_text(row, ("text", "answer", "caption")).replace("Assistant:", "").strip()
            named.append((Row(row.file, row.line, row.values, own), text))
        return join(named, known, answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`{image_id, question, answer}` rows as the original script reads them."""
        rows = [
            {"image_id": s.target["image_id"], "question": s.prompt.question, "answer": answers.get(s.id, "")}
            for (s,) in groups
        ]
        return [write_jsonl(folder / "obj_halbench_answer.jsonl", rows)]


def _image_id(row: Row) -> int:
    if not row.name.isdigit():
        raise row.error("the id must be COCO's image id, a whole number")
    return int(row.name)


def _image(row: Row, images: SampleImages) -> ImageRef:
    text = row.text("image")
    try:
        if len(text) <= _LONGEST_NAME:
            return images.ref(text)
        return images.add(base64.b64decode(text, validate=True), f"{row.file.name}, image {row.name}")
    except DataError as error:
        raise row.error(str(error), reason=error.reason) from None
    except ValueError:
        raise row.error("'image' is neither a file's name nor base64", reason="not_an_image") from None
