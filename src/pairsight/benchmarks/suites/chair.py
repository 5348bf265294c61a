"""CHAIR: which objects of COCO a caption mentions that neither COCO's labels nor its reference captions have.

Source: A. Rohrbach et al., Object Hallucination in Image Captioning (1809.02156); the rule is that of `utils/chair.py`
(github.com/LisaAnne/Hallucination). The prompt is the field's usual one, the decoding greedy with 512 tokens.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.answers import answer_text, join, json_rows, write_json
from pairsight.benchmarks.files.official import Row, UniqueIds, read_json, read_jsonl
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.suites.coco_objects import CocoObjects, coco_images, coco_truth
from pairsight.benchmarks.words.tokens import tokenizer
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt
from pairsight.statistics import ratio

_PUBLISHED = "its authors publish synonyms.txt at github.com/LisaAnne/Hallucination (data/)"
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

    name: ClassVar[str] = "chair"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = (
        "captions", "hallucinated_captions", "mentions", "hallucinated_mentions", "objects", "objects_found", "words",
    )  # fmt: skip
    better: ClassVar[Mapping[str, Better]] = {
        "chair_s": "lower", "chair_i": "lower", "recall": "higher", "mean_words": "neither",
    }  # fmt: skip
    prompt_suffix: ClassVar[str] = ""
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=512)

    @cached_property
    def fallbacks(self) -> tuple[str, ...]:
        """What stands in for a tool of the original."""
        label = tokenizer(self.nltk_data)[1]
        return (label,) if label else ()

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group an image; the id is COCO's image id.

        Raises:
            DataError: a missing file, a bad row, an id twice, or an image that COCO's files do not have.
        """
        table = CocoObjects.read(synonyms_file(self.synonyms or path / "synonyms.txt"), self.nltk_data)
        rows = list(self._rows(path))
        folder = Path(self.annotations) if self.annotations else path
        truth = coco_truth(folder, table, {row.number("image_id") for row in rows})
        for row in rows:
            image_id = row.number("image_id")
            if image_id not in truth:
                raise row.error(f"COCO's files in {folder} have no image {image_id}", reason="foreign_id")
            prompt = Prompt(
                row.name, (Message("user", row.text("text"), (row.image(images, "image"),)),), source="chair"
            )
            yield (Sample(row.name, prompt, row.name, {"truth": truth[image_id], "table": table}),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Count the mentions, those of objects that are not there, and how many that are there were found."""
        sample = group[0]
        mentions = sample.target["table"].mentions(answers[0], parser)
        truth = sample.target["truth"][parser]
        wrong = [mention for mention in mentions if mention[1] not in truth]
        found = {node for _, node in mentions} & truth
        decision = {
            "id": sample.id, "prediction": [word for word, _ in mentions], "target": sorted(truth),
            "correct": float(not wrong), "parsed": True,
        }  # fmt: skip
        counts = (1, bool(wrong), len(mentions), len(wrong), len(truth), len(found), len(answers[0].split()))
        return Scored(sample.cluster, tuple(map(float, counts)), (decision,))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """CHAIRs, CHAIRi, recall of the objects that are there, and words per caption."""
        captions, wrong_captions, mentions, wrong, objects, found, words = sums_RC.T
        return {
            "chair_s": ratio(wrong_captions, captions), "chair_i": ratio(wrong, mentions),
            "recall": ratio(found, objects), "mean_words": ratio(words, captions),
        }  # fmt: skip

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """The authors' `{imgToEval: {…: {image_id, caption}}}`, or rows with `image_id` and `caption`."""
        known = {sample.id: sample.id for (sample,) in groups}
        named = ((row.named("image_id", "question_id"), row) for row in caption_rows(answers))
        return join(((name, answer_text(row, ("caption", "text", "answer"))) for name, row in named), known, answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """What `chair.py` reads, its caption metrics as 0: they are none of ours."""
        zero = dict.fromkeys(_CAPTION_METRICS, 0.0)
        captions = {
            sample.id: {"image_id": int(sample.id), "caption": answers.get(sample.id, ""), **zero}
            for (sample,) in groups
        }
        return [write_json(folder / "chair.json", {"overall": zero, "imgToEval": captions})]

    def _rows(self, path: Path) -> Iterator[Row]:
        questions = path / "questions.jsonl"
        ids = UniqueIds()
        if questions.is_file():
            for bare in read_jsonl(questions):
                row = bare.named("image_id")
                ids.add(row)
                yield Row(row.file, row.line, {"text": self.prompt, **_with_image(row)}, row.name)
            return
        every = coco_images(Path(self.annotations) if self.annotations else path)
        drawn = random.Random(self.seed).sample(sorted(every), min(self.num_images, len(every)))
        for number, image_id in enumerate(sorted(drawn), start=1):
            values: dict[str, Any] = {"image_id": image_id, "image": every[image_id], "text": self.prompt}
            yield Row(path, number, values, str(image_id))


def synonyms_file(path: str | Path) -> Path:
    """A synonym table that is there; DataError with where to get it."""
    if not Path(path).is_file():
        raise DataError(f"CHAIR: there is no {path}; {_PUBLISHED}", reason="missing_file")
    return Path(path)


def caption_rows(path: Path) -> Iterator[Row]:
    """The captions of an answers file, whatever it wraps them in."""
    if path.suffix == ".json":
        whole = read_json(path)
        captions = whole.get("imgToEval") if isinstance(whole, dict) else None
        if isinstance(captions, dict):
            for number, value in enumerate(captions.values(), start=1):
                if not isinstance(value, dict):
                    raise DataError(f"{path}: caption {number} must be an object, found {type(value).__name__}")
                yield Row(path, number, value)
            return
    yield from json_rows(path)


def _with_image(row: Row) -> dict[str, Any]:
    if "image" in row.values:
        return dict(row.values)
    return {**row.values, "image": f"COCO_val2014_{row.number('image_id'):012d}.jpg"}
