"""CHAIR: how often captions mention COCO objects that are in neither COCO's labels nor its reference captions.

Source: A. Rohrbach et al., Object Hallucination in Image Captioning (1809.02156); the rule is that of `utils/chair.py`
(github.com/LisaAnne/Hallucination). The prompt is the one commonly used; decoding is greedy with 512 tokens.
"""

import random
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

_CAPTION_METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr", "SPICE", "ROUGE_L")


class Chair(Benchmark):
    """CHAIR from a folder with COCO's `instances_*2014.json`, `captions_*2014.json` and CHAIR's `synonyms.txt`.

    The images are those of `questions.jsonl` in the folder (`{image_id, image, text}`), else a random draw of the val
    images. Words are split by NLTK if it and its punkt data are installed; otherwise the figures are marked as computed
    with a fallback.
    """

    annotations: str | None = Field(None, description="folder of COCO's annotations; default: the benchmark's path")
    synonyms: str | None = Field(None, description="CHAIR's synonyms.txt; default: in the benchmark's path")
    nltk_data: str | None = Field(None, description="folder of NLTK's data, instead of where NLTK looks")
    num_images: int = Field(500, ge=1, description="number of images to draw if there is no questions.jsonl")
    seed: int = Field(0, ge=0, description="seed of the draw")
    prompt: str = Field("Please describe this image in detail.", description="the prompt for each drawn image")

    name = "chair"
    columns = (
        "captions", "hallucinated_captions", "mentions", "hallucinated_mentions", "objects", "objects_found", "words",
    )  # fmt: skip
    metrics: ClassVar = {
        "chair_s": rate("hallucinated_captions", "captions", "lower"),
        "chair_i": rate("hallucinated_mentions", "mentions", "lower"),
        "recall": rate("objects_found", "objects", "higher"),
        "mean_words": rate("words", "captions", "neither"),
    }
    max_new_tokens = 512
    id_fields = ("image_id", "question_id")
    text_fields = ("caption", "text", "answer")

    @cached_property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces missing tools of the original."""
        return CocoObjects.fallbacks(self.nltk_data)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per image; the id is COCO's image id.

        Raises:
            DataError: a missing file, a bad record, a duplicate id, or an image that is not in COCO's files.
        """
        table = CocoObjects.read(self.synonyms or path / "synonyms.txt", self.nltk_data)
        records = list(self._questions(path))
        folder = Path(self.annotations) if self.annotations else path
        truth = table.truth(folder, {record.number("image_id") for record in records})
        for record in records:
            image_id = record.number("image_id")
            if image_id not in truth:
                raise record.error(f"COCO's files in {folder} have no image {image_id}", reason="foreign_id")
            question, image = record.text("text"), record.image(images, "image")
            target = {"truth": truth[image_id], "table": table}
            yield (self.sample(record.id, question, [image], cluster=record.id, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count mentions, mentions of absent objects, and how many of the present objects are mentioned."""
        parser = "official" if official else "robust"
        counted = sample.target["table"].compare(answer, sample.target["truth"], parser, once=False)
        counts = (
            1, bool(counted.wrong), len(counted.words), counted.wrong, counted.objects,
            counted.found, len(answer.split()),
        )  # fmt: skip
        return Reading(counted.words, float(not counted.wrong), True, tuple(map(float, counts)))

    def answer_records(self, answers: Path) -> Iterator[tuple[files.FileRecord, str]]:
        """The authors' `{imgToEval: {…: {image_id, caption}}}`, or records with `image_id` and `caption`."""
        document = files.read_json(answers) if answers.suffix == ".json" else None
        captions = document.get("imgToEval") if isinstance(document, dict) else None
        if not isinstance(captions, dict):
            yield from super().answer_records(answers)
            return
        for raw in files.listed_records(answers, list(captions.values()), "imgToEval"):
            record = raw.with_id(*self.id_fields)
            yield record, answer_files.answer_text(record, self.text_fields)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write the file that `chair.py` reads, with 0 for its caption metrics, which are not computed here."""
        zero = dict.fromkeys(_CAPTION_METRICS, 0.0)
        captions = {
            sample.id: {"image_id": int(sample.id), "caption": answers.get(sample.id, ""), **zero}
            for (sample,) in groups
        }
        return [answer_files.write_json(folder / "chair.json", {"overall": zero, "imgToEval": captions})]

    def _questions(self, path: Path) -> Iterator[files.FileRecord]:
        if (path / "questions.jsonl").is_file():
            for record in files.unique_records(files.read_jsonl(path / "questions.jsonl"), "image_id"):
                image = {} if "image" in record.values else {"image": _image_name(record)}
                yield replace(record, values={"text": self.prompt, **record.values, **image})
            return
        images = CocoObjects.images(Path(self.annotations) if self.annotations else path)
        drawn = random.Random(self.seed).sample(sorted(images), min(self.num_images, len(images)))
        for number, image_id in enumerate(sorted(drawn), start=1):
            values = {"image_id": image_id, "image": images[image_id], "text": self.prompt}
            yield files.FileRecord(path, number, values, str(image_id))


def _image_name(record: files.FileRecord) -> str:
    return f"COCO_val2014_{record.number('image_id'):012d}.jpg"
