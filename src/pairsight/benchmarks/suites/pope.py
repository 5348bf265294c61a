"""POPE: is an object in the image? Yes or no, over randomly, popularly and adversarially chosen absent objects.

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
_PARTS = (*SPLITS, "all")  # "all": a file that names no split
_TARGETS = {(part, label): {"label": label, "split": part} for part in _PARTS for label in ("yes", "no")}
_COUNTS = ("tp", "fp", "tn", "fn", "yes")


class Pope(Benchmark):
    """POPE from its three split files in one folder, or from one file.

    A row is `{question_id, image, text, label}`. Its split is its `category`, else what the file's name says. Several
    splits give each figure per split and, without a split's name, their mean (the usual headline is the mean F1).
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
        """One group a question; ids are `split:question_id`.

        Raises:
            DataError: a missing file, a bad row, an unknown split or label, an id that a split has twice.
        """
        for file in self._files(path):
            ids = {part: files.UniqueIds() for part in _PARTS}
            of_file = next((split for split in SPLITS if split in file.stem), "all")
            for bare in files.read_jsonl(file):
                row = bare.named("question_id")
                split = row.choice("category", SPLITS) if "category" in row.values else of_file
                ids[split].add(row)
                image, question = row.image(images, "image"), row.text("text")
                target = _TARGETS[split, row.choice("label", ("yes", "no"))]
                own = f"{split}:{row.name}"
                yield (self.sample(own, question, [image], cluster=row.text("image"), target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count the answer among its split's true and false positives and negatives (positive is yes).

        What `robust` cannot read is wrong and is no yes.
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
        """Each figure per split that has rows, and its mean over splits: accuracy, precision, recall, F1, yes-rate."""
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
        """`{question, answer}` rows as the authors have them, a file per split; or rows with a `question_id`.

        The authors' rows have no id: their number and each one's question must be those of the split. LLaVA's one
        file for all splits is read too; see `pope_answers.llava_ids`.
        """
        return pope_answers.read_pope_answers(answers, path, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """One `coco_pope_<split>_answers.json` of `{question, answer}` rows per split, in the official order."""
        return pope_answers.write_pope_answers(folder, groups, answers)

    def _files(self, path: Path) -> list[Path]:
        """The files of a POPE folder, one per split that is there, or the one file."""
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise self.refusal(f"{path} does not exist", "missing_file")
        found = []
        for split in SPLITS:
            of_split = sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl") and split in p.stem)
            if len(of_split) > 1:
                names = ", ".join(p.name for p in of_split)
                raise self.refusal(f"{path} has {len(of_split)} files of the split {split} ({names}); keep one")
            found += of_split
        if not found:
            named = "*random*, *popular* or *adversarial*"
            raise self.refusal(f"{path} holds no {named} .json file", "missing_file")
        return found


def official_answer(text: str) -> Literal["yes", "no"]:
    """No when `No`, `not` or `no` is among the words before the first point, commas removed; everything else is yes.

    Only a space ends a word, so that `NO`, `No!` and the empty answer are yes.
    """
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if any(word in ("No", "not", "no") for word in words) else "yes"
