"""POPE: is an object in the image? Yes or no, over randomly, popularly and adversarially chosen absent objects.

Source: Y. Li et al., Evaluating Object Hallucination in Large Vision-Language Models (2305.10355); the rule is that of
the authors' `evaluate.py` (github.com/RUCAIBox/POPE). Suffix and decoding are LLaVA-1.5's.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.answer_files import write_jsonl
from pairsight.benchmarks.official_files import UniqueIds, read_jsonl
from pairsight.benchmarks.pope_answers import by_split, read_pope_answers
from pairsight.benchmarks.protocol import Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.yes_no import robust_yes_no
from pairsight.config import BaseConfig
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt
from pairsight.statistics import ratio

SPLITS = ("random", "popular", "adversarial")
_PARTS = (*SPLITS, "all")  # "all": a file that names no split
_TARGETS = {(part, label): {"label": label, "split": part} for part in _PARTS for label in ("yes", "no")}
_COUNTS = ("tp", "fp", "tn", "fn", "yes")
_FIGURES: dict[str, Better] = {
    "f1": "higher", "accuracy": "higher", "precision": "higher", "recall": "higher", "yes_rate": "neither",
}  # fmt: skip
_PUBLISHED = "its authors publish coco_pope_{random,popular,adversarial}.json at github.com/RUCAIBox/POPE (output/coco)"


class Pope(BaseConfig):
    """POPE from its three split files in one folder, or from one file.

    A row is `{question_id, image, text, label}`. Its split is its `category`, else what the file's name says. Several
    splits give each figure per split and, without a split's name, their mean (the usual headline is the mean F1).
    """

    name: ClassVar[str] = "pope"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = tuple(f"{part}_{count}" for part in _PARTS for count in _COUNTS)
    better: ClassVar[Mapping[str, Better]] = {
        f"{figure}{end}": better for figure, better in _FIGURES.items() for end in ("", *(f"_{s}" for s in SPLITS))
    }
    prompt_suffix: ClassVar[str] = "\nAnswer the question using a single word or phrase."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; ids are `split:question_id`.

        Raises:
            DataError: a missing file, a bad row, an unknown split or label, an id that a split has twice.
        """
        for file in split_files(path):
            ids: dict[str, UniqueIds] = {part: UniqueIds() for part in _PARTS}
            of_file = next((split for split in SPLITS if split in file.stem), "all")
            for bare in read_jsonl(file):
                row = bare.named("question_id")
                split = row.choice("category", SPLITS) if "category" in row.values else of_file
                ids[split].add(row)
                image = row.image(images, "image")
                prompt_id = f"{split}:{row.name}"
                prompt = Prompt(prompt_id, (Message("user", row.text("text"), (image,)),), source="pope")
                target = _TARGETS[split, row.choice("label", ("yes", "no"))]
                yield (Sample(prompt_id, prompt, cluster=row.text("image"), target=target),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Count the answer among its split's true and false positives and negatives (positive is yes).

        What `robust` cannot read is wrong and is no yes.
        """
        sample, answer = group[0], answers[0]
        understood = robust_yes_no(answer)
        read = official_answer(answer) if parser == "official" else understood
        label = sample.target["label"]
        count = {"yes": "tp" if read == "yes" else "fn", "no": "tn" if read == "no" else "fp"}[label]
        sums = [0.0] * len(self.columns)
        start = _PARTS.index(sample.target["split"]) * len(_COUNTS)
        sums[start + _COUNTS.index(count)] = 1.0
        sums[start + _COUNTS.index("yes")] = float(read == "yes")
        decision = {
            "id": sample.id, "prediction": read, "target": label, "correct": float(read == label),
            "parsed": understood is not None,
        }  # fmt: skip
        return Scored(sample.cluster, tuple(sums), (decision,), num_unparsed=int(understood is None))

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """`{question, answer}` rows as the authors have them, a file per split; or rows with a `question_id`.

        The authors' rows have no id: their number and each one's question must be those of the split. LLaVA's one
        file for all splits is read too; see `llava_ids`.
        """
        return read_pope_answers(answers, path, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """One `coco_pope_<split>_answers.json` of `{question, answer}` rows per split, in the official order."""
        files = []
        for split, samples in by_split(groups).items():
            rows = [{"question": s.prompt.question, "answer": answers.get(s.id, "")} for s in samples]
            files.append(write_jsonl(folder / f"coco_pope_{split}_answers.json", rows))
        return files

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each figure per split that has rows, and its mean over splits: accuracy, precision, recall, F1, yes-rate."""
        counts_RPK = sums_RC.reshape(len(sums_RC), len(_PARTS), len(_COUNTS))
        parts = {
            part: _figures(counts_RPK[:, index]) for index, part in enumerate(_PARTS) if counts_RPK[:, index, :4].any()
        }
        if not parts:
            return {}
        metrics = {figure: np.mean([values[figure] for values in parts.values()], axis=0) for figure in _FIGURES}
        if len(parts) > 1:
            metrics |= {f"{figure}_{part}": values[figure] for part, values in parts.items() for figure in _FIGURES}
        return metrics


def official_answer(text: str) -> Literal["yes", "no"]:
    """No when `No`, `not` or `no` is among the words before the first point, commas removed; everything else is yes.

    Only a space ends a word, so that `NO`, `No!` and the empty answer are yes.
    """
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if any(word in ("No", "not", "no") for word in words) else "yes"


def split_files(path: Path) -> list[Path]:
    """The files of a POPE folder, one per split that is there, or the one file."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"POPE: {path} does not exist; {_PUBLISHED}", reason="missing_file")
    found = []
    for split in SPLITS:
        files = sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl") and split in p.stem)
        if len(files) > 1:
            names = ", ".join(p.name for p in files)
            raise DataError(f"POPE: {path} has {len(files)} files of the split {split} ({names}); keep one")
        found += files
    if not found:
        message = f"POPE: {path} holds no *random*, *popular* or *adversarial* .json file; {_PUBLISHED}"
        raise DataError(message, reason="missing_file")
    return found


def _figures(counts_RK: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    tp, fp, tn, fn, yes = counts_RK.T
    total = tp + fp + tn + fn
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    return {
        "f1": ratio(2 * precision * recall, precision + recall),
        "accuracy": ratio(tp + tn, total),
        "precision": precision,
        "recall": recall,
        "yes_rate": ratio(yes, total),
    }
