"""Object HalBench: hallucinated COCO objects in descriptions of 300 images; an object counts once per answer.

Source: T. Yu et al., RLHF-V (2312.00849); counting as in `eval/eval_gpt_obj_halbench.py` (github.com/RLHF-V/RLHF-V).
The original asks GPT-3.5 for the objects of an answer; here they are found by the word list, as in the original's mode
without GPT. The figures are therefore never called official.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.metrics import rate
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words.coco_objects import CocoObjects


class ObjectHalBench(Benchmark):
    """Object HalBench from its question JSONL (`{image_id, question, image}`, the image in base64 or by name).

    COCO's annotations and the refined synonyms (`synonyms_refine.txt`) are in the same folder unless options say
    otherwise.
    """

    annotations: str | None = Field(None, description="folder of COCO's annotations; default: that of the questions")
    synonyms: str | None = Field(None, description="synonyms_refine.txt; default: in the questions' folder")
    nltk_data: str | None = Field(None, description="folder of NLTK's data, instead of where NLTK looks")

    name = "object_halbench"
    title = "Object HalBench"
    published = (
        "its authors publish obj_halbench_300_with_image.jsonl at "
        "huggingface.co/datasets/HaoyeZhang/RLHF-V-Object_HalBench"
    )
    columns = (
        "answers", "answers_with_objects", "hallucinated_answers", "mentions", "hallucinated_mentions", "objects",
        "objects_found", "words",
    )  # fmt: skip
    metrics: ClassVar = {
        "chair_s": rate("hallucinated_answers", "answers_with_objects", "lower"),
        "chair_i": rate("hallucinated_mentions", "mentions", "lower"),
        "recall": rate("objects_found", "objects", "higher"),
        "mean_words": rate("words", "answers", "neither"),
    }
    max_new_tokens = 1024
    id_fields = ("image_id", "id", "question_id")
    text_fields = ("text", "answer", "caption")
    answers_file = "obj_halbench_answer.jsonl"

    @cached_property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces the original's tools."""
        extracted = "objects found by the word list, where the original asks GPT-3.5"
        return (extracted, *CocoObjects.fallbacks(self.nltk_data, lemmas=True))

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question; the id is `image_id`, numbered if there are several questions about an image.

        Raises:
            DataError: a missing file, a bad record, or an image that is not in COCO's files.
        """
        if not path.is_file():
            raise self.file_error(f"there is no file {path}", "missing_file")
        table = CocoObjects.read_refined(self.synonyms or path.parent / "synonyms_refine.txt", self.nltk_data)
        folder = Path(self.annotations) if self.annotations else path.parent
        records = [raw.with_id(*self.id_fields) for raw in files.read_jsonl(path)]
        image_ids = [_image_id(record) for record in records]
        truth = table.truth(folder, set(image_ids))
        sample_ids = answer_files.numbered(map(str, image_ids))
        for record, image_id, sample_id in zip(records, image_ids, sample_ids, strict=True):
            if image_id not in truth:
                raise record.error(f"COCO's files in {folder} have no image {image_id}", reason="foreign_id")
            question, image = record.text("question"), record.image_or_base64(images, "image")
            target = {"truth": truth[image_id], "image_id": image_id, "table": table}
            yield (self.sample(sample_id, question, [image], cluster=str(image_id), target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count the distinct object words of the answer, and those of absent objects."""
        parser = "official" if official else "robust"
        counted = sample.target["table"].compare(answer, sample.target["truth"], parser, once=True)
        words, num_words = counted.words, len(answer.strip().split(" "))
        counts = (
            1, bool(words), bool(counted.wrong), len(words), counted.wrong,
            counted.objects, counted.found, num_words,
        )  # fmt: skip
        return Reading(words, float(not counted.wrong), True, tuple(map(float, counts)))

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read records with `image_id` and `answer` or `text`; "Assistant:" is removed, as in the original."""
        ids = {sample.id: sample.id for (sample,) in groups}
        records = list(self.answer_records(answers))
        sample_ids = answer_files.numbered(record.id for record, _ in records)
        answered = []
        for (record, text), sample_id in zip(records, sample_ids, strict=True):
            if sample_id not in ids and record.id in ids:
                raise record.error("the image has more answers than questions", reason="duplicate_id")
            answered.append((replace(record, id=sample_id), text.replace("Assistant:", "").strip()))
        return answer_files.join(answered, ids, answers)

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{image_id, question, answer}`, as the original script reads it."""
        return {"image_id": sample.target["image_id"], "question": sample.prompt.question, "answer": answer or ""}


def _image_id(record: files.FileRecord) -> int:
    if not record.id.isdigit():
        raise record.error("the id must be a COCO image id, a whole number")
    return int(record.id)
