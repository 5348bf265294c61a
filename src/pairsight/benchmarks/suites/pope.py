"""POPE: is an object in the image? Yes or no, with random, popular and adversarial choices of absent objects.

Source: Y. Li et al., Evaluating Object Hallucination in Large Vision-Language Models (2305.10355); the rule is that of
the authors' `evaluate.py` (github.com/RUCAIBox/POPE). Suffix and decoding are LLaVA-1.5's.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks import metrics as figures
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.files import pope_answers
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words.reading import robust_yes_no

SPLITS = ("random", "popular", "adversarial")
_PARTS = (*SPLITS, "all")  # "all": a file without split
_TARGETS = {(part, label): {"label": label, "split": part} for part in _PARTS for label in ("yes", "no")}
_COUNTS = ("tp", "fp", "tn", "fn", "yes")


class Pope(Benchmark):
    """POPE from its three split files in one folder, or from one file.

    A record is `{question_id, image, text, label}`; its split is its `category`, else the one in the file name. With
    several splits, each metric is computed per split and, under its plain name, as the mean over splits (papers usually
    report the mean F1).
    """

    name = "pope"
    title = "POPE"
    published = (
        "its authors publish coco_pope_{random,popular,adversarial}.json at github.com/RUCAIBox/POPE (output/coco)"
    )
    columns = tuple(f"{part}_{count}" for part in _PARTS for count in _COUNTS)
    better: ClassVar = {
        f"{figure}{end}": better
        for figure, better in figures.YES_NO.items()
        for end in ("", *(f"_{split}" for split in SPLITS))
    }
    prompt_suffix = "\nAnswer the question using a single word or phrase."

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question; ids are `split:question_id`.

        Raises:
            DataError: a missing file, a bad record, an unknown split or label, or a duplicate id within a split.
        """
        for file in self._files(path):
            ids = {part: files.UniqueIds() for part in _PARTS}
            file_split = next((split for split in SPLITS if split in file.stem), "all")
            for raw in files.read_jsonl(file):
                record = raw.with_id("question_id")
                split = record.choice("category", SPLITS) if "category" in record.values else file_split
                ids[split].add(record)
                image, question = record.image(images, "image"), record.text("text")
                target = _TARGETS[split, record.choice("label", ("yes", "no"))]
                sample_id = f"{split}:{record.id}"
                yield (self.sample(sample_id, question, [image], cluster=record.text("image"), target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count the answer among its split's true and false positives and negatives (positive is yes).

        An answer that `robust` cannot read is wrong and does not count as yes.
        """
        understood = robust_yes_no(answer)
        read = official_answer(answer) if official else understood
        label = sample.target["label"]
        count = {"yes": "tp" if read == "yes" else "fn", "no": "tn" if read == "no" else "fp"}[label]
        sums = [0.0] * len(self.columns)
        start = _PARTS.index(sample.target["split"]) * len(_COUNTS)
        sums[start + _COUNTS.index(count)] = 1.0
        sums[start + _COUNTS.index("yes")] = float(read == "yes")
        return Reading(read, float(read == label), understood is not None, tuple(sums))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy, precision, recall, F1 and yes-rate of each split with questions, and their means over splits."""
        counts_RPK = sums_RC.reshape(len(sums_RC), len(_PARTS), len(_COUNTS))
        parts = {
            part: figures.yes_no(*counts_RPK[:, index].T)
            for index, part in enumerate(_PARTS)
            if counts_RPK[:, index, :4].any()
        }
        if not parts:
            return {}
        found = {name: np.mean([values[name] for values in parts.values()], axis=0) for name in figures.YES_NO}
        if len(parts) > 1:
            found |= {f"{name}_{part}": values[name] for part, values in parts.items() for name in figures.YES_NO}
        return found

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read the authors' `{question, answer}` records, a file per split, or records with a `question_id`.

        The authors' records have no id: their number and questions must match the split's. LLaVA's single file for all
        splits can be read too; see `pope_answers.llava_ids`.
        """
        return pope_answers.read_pope_answers(answers, path, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write `coco_pope_<split>_answers.json` for each split: `{question, answer}` records in the official order."""
        return pope_answers.write_pope_answers(folder, groups, answers)

    def _files(self, path: Path) -> list[Path]:
        """The files in the folder, one per split, or the single file."""
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise self.file_error(f"{path} does not exist", "missing_file")
        found = []
        for split in SPLITS:
            of_split = sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl") and split in p.stem)
            if len(of_split) > 1:
                names = ", ".join(p.name for p in of_split)
                raise self.file_error(f"{path} has {len(of_split)} files for the split {split} ({names}); keep one")
            found += of_split
        if not found:
            patterns = "*random*, *popular* or *adversarial*"
            raise self.file_error(f"{path} holds no {patterns} .json file", "missing_file")
        return found


def official_answer(text: str) -> Literal["yes", "no"]:
    """`no` if `No`, `not` or `no` is a word before the first period, with commas removed; otherwise `yes`.

    Only spaces separate words, so `NO`, `No!` and the empty answer are yes.
    """
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if any(word in ("No", "not", "no") for word in words) else "yes"
