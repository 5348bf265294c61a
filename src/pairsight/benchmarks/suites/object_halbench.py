"""Object HalBench: hallucinated COCO objects in descriptions of 300 images, each object counted once an answer.

Source: T. Yu et al., RLHF-V (2312.00849); counting as in `eval/eval_gpt_obj_halbench.py` (github.com/RLHF-V/RLHF-V).
The original asks GPT-3.5 for the objects of an answer; here they are found by the word list, as the original does in
its mode without GPT, so that the figures are never called official.
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
from pairsight.benchmarks.words import coco_objects


class ObjectHalBench(Benchmark):
    """Object HalBench from its question JSONL (`{image_id, question, image}`, the image in base64 or by name).

    COCO's annotations and the refined synonyms (`synonyms_refine.txt`) lie beside it unless said otherwise.
    """

    annotations: str | None = Field(None, description="folder of COCO's annotations; default: where the questions lie")
    synonyms: str | None = Field(None, description="synonyms_refine.txt; default: where the questions lie")
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
        """What stands in for the original's tools."""
        extracted = "objects found by the word list, where the original asks GPT-3.5"
        return (extracted, *coco_objects.stand_ins(self.nltk_data, lemmas=True))

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; the id is `image_id`, with a number where an image is asked more than once.

        Raises:
            DataError: a missing file, a bad row, or an image that COCO's files do not have.
        """
        if not path.is_file():
            raise self.refusal(f"there is no file {path}", "missing_file")
        synonyms = coco_objects.synonyms_file(self.synonyms or path.parent / "synonyms_refine.txt")
        table = coco_objects.CocoObjects.read_refined(synonyms, self.nltk_data)
        folder = Path(self.annotations) if self.annotations else path.parent
        rows = [bare.named(*self.id_fields) for bare in files.read_jsonl(path)]
        ids = [_image_id(row) for row in rows]
        truth = coco_objects.coco_truth(folder, table, set(ids))
        for row, image_id, own in zip(rows, ids, answer_files.numbered(map(str, ids)), strict=True):
            if image_id not in truth:
                raise row.error(f"COCO's files in {folder} have no image {image_id}", reason="foreign_id")
            question, image = row.text("question"), row.image_or_base64(images, "image")
            target = {"truth": truth[image_id], "image_id": image_id, "table": table}
            yield (self.sample(own, question, [image], cluster=str(image_id), target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count the different object words of the answer, and those of objects that are not there."""
        parser = "official" if official else "robust"
        said = sample.target["table"].compare(answer, sample.target["truth"], parser, once=True)
        words, num_words = said.words, len(answer.strip().split(" "))
        counts = (1, bool(words), bool(said.wrong), len(words), said.wrong, said.objects, said.found, num_words)
        return Reading(words, float(not said.wrong), True, tuple(map(float, counts)))

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Rows with `image_id` and `answer` or `text`; "Assistant:" is removed, as in the original."""
        known = {sample.id: sample.id for (sample,) in groups}
        rows = list(self.answer_rows(answers))
        named = []
        for (row, text), own in zip(rows, answer_files.numbered(row.name for row, _ in rows), strict=True):
            if own not in known and row.name in known:
                raise row.error("the image was answered already, as often as it is asked", reason="duplicate_id")
            named.append((replace(row, name=own), text.replace("Assistant:", "").strip()))
        return answer_files.join(named, known, answers)

    def answer_row(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{image_id, question, answer}` as the original script reads it."""
        return {"image_id": sample.target["image_id"], "question": sample.prompt.question, "answer": answer or ""}


def _image_id(row: files.Row) -> int:
    if not row.name.isdigit():
        raise row.error("the id must be COCO's image id, a whole number")
    return int(row.name)
