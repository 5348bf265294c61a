"""CHAIR: which objects of COCO a caption mentions that neither COCO's labels nor its reference captions have.

Source: A. Rohrbach et al., Object Hallucination in Image Captioning (1809.02156); the rule is that of `utils/chair.py`
(github.com/LisaAnne/Hallucination). The prompt is the field's usual one, the decoding greedy with 512 tokens.
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
from pairsight.benchmarks.words import coco_objects

_CAPTION_METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr", "SPICE", "ROUGE_L")


class Chair(Benchmark):
    """CHAIR from a folder with COCO's `instances_*2014.json`, `captions_*2014.json` and CHAIR's `synonyms.txt`.

    The images are those of `questions.jsonl` in the folder (`{image_id, image, text}`), else drawn by seed from the
    val images. Words are split by NLTK where it and its punkt data are installed; otherwise the figures are marked
    as made with a fallback.
    """

    annotations: str | None = Field(None, description="folder of COCO's annotations; default: the benchmark's path")
    synonyms: str | None = Field(None, description="CHAIR's synonyms.txt; default: in the benchmark's path")
    nltk_data: str | None = Field(None, description="folder of NLTK's data, instead of where NLTK looks")
    num_images: int = Field(500, ge=1, description="how many images are drawn where no questions.jsonl names them")
    seed: int = Field(0, ge=0, description="of that draw")
    prompt: str = Field("Please describe this image in detail.", description="what is asked of each drawn image")

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
        """What stands in for a tool of the original."""
        return coco_objects.stand_ins(self.nltk_data)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group an image; the id is COCO's image id.

        Raises:
            DataError: a missing file, a bad row, an id twice, or an image that COCO's files do not have.
        """
        synonyms = coco_objects.synonyms_file(self.synonyms or path / "synonyms.txt")
        table = coco_objects.CocoObjects.read(synonyms, self.nltk_data)
        rows = list(self._questions(path))
        folder = Path(self.annotations) if self.annotations else path
        truth = coco_objects.coco_truth(folder, table, {row.number("image_id") for row in rows})
        for row in rows:
            image_id = row.number("image_id")
            if image_id not in truth:
                raise row.error(f"COCO's files in {folder} have no image {image_id}", reason="foreign_id")
            question, image = row.text("text"), row.image(images, "image")
            target = {"truth": truth[image_id], "table": table}
            yield (self.sample(row.name, question, [image], cluster=row.name, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count the mentions, those of objects that are not there, and how many that are there were found."""
        parser = "official" if official else "robust"
        said = sample.target["table"].compare(answer, sample.target["truth"], parser, once=False)
        counts = (1, bool(said.wrong), len(said.words), said.wrong, said.objects, said.found, len(answer.split()))
        return Reading(said.words, float(not said.wrong), True, tuple(map(float, counts)))

    def answer_rows(self, answers: Path) -> Iterator[tuple[files.Row, str]]:
        """The authors' `{imgToEval: {…: {image_id, caption}}}`, or rows with `image_id` and `caption`."""
        whole = files.read_json(answers) if answers.suffix == ".json" else None
        captions = whole.get("imgToEval") if isinstance(whole, dict) else None
        if not isinstance(captions, dict):
            yield from super().answer_rows(answers)
            return
        for bare in files.listed_rows(answers, list(captions.values()), "imgToEval"):
            row = bare.named(*self.id_fields)
            yield row, answer_files.answer_text(row, self.text_fields)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """What `chair.py` reads, its caption metrics as 0: they are none of ours."""
        zero = dict.fromkeys(_CAPTION_METRICS, 0.0)
        captions = {
            sample.id: {"image_id": int(sample.id), "caption": answers.get(sample.id, ""), **zero}
            for (sample,) in groups
        }
        return [answer_files.write_json(folder / "chair.json", {"overall": zero, "imgToEval": captions})]

    def _questions(self, path: Path) -> Iterator[files.Row]:
        if (path / "questions.jsonl").is_file():
            for row in files.unique_rows(files.read_jsonl(path / "questions.jsonl"), "image_id"):
                named = {} if "image" in row.values else {"image": _image_name(row)}
                yield replace(row, values={"text": self.prompt, **row.values, **named})
            return
        every = coco_objects.coco_images(Path(self.annotations) if self.annotations else path)
        drawn = random.Random(self.seed).sample(sorted(every), min(self.num_images, len(every)))
        for number, image_id in enumerate(sorted(drawn), start=1):
            values = {"image_id": image_id, "image": every[image_id], "text": self.prompt}
            yield files.Row(path, number, values, str(image_id))


def _image_name(row: files.Row) -> str:
    return f"COCO_val2014_{row.number('image_id'):012d}.jpg"
