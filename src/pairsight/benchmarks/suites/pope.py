"""POPE: is an object in the image? Yes or no, over randomly, popularly and adversarially chosen absent objects.

Source: Y. Li et al., Evaluating Object Hallucination in Large Vision-Language Models (2305.10355); the rule is that of
the authors' `evaluate.py` (github.com/RUCAIBox/POPE). Suffix and decoding are LLaVA-1.5's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, permutations
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import ID_FIELDS, answer_text, join, json_rows, write_jsonl
from pairsight.benchmarks.files.official import Row, UniqueIds, read_jsonl
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt
from pairsight.statistics import ratio

Splits = Mapping[str, Sequence[Sample]]
QUESTIONS = "llava_pope_test.jsonl"
_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
"""What LLaVA's file adds to a split's own numbers."""


def llava_ids(path: Path, rows: Sequence[Row], splits: Splits) -> dict[str, Sample]:
    """The id in LLaVA's answers -> the question it means.

    By `llava_pope_test.jsonl` where it lies in the benchmark's folder or the folder above; else by LLaVA's numbering
    (10,000,000 and 20,000,000 added); else the numbers are one range over the splits, in the one order of them in
    which every row's `prompt` is its question.

    Args:
        path: the benchmark's file or folder.
        rows: the answers, named by their ids.
        splits: split -> its questions in order.

    Raises:
        DataError: LLaVA's file has another image than the split, or no order of the splits fits, or several do.
    """
    folder = path if path.is_dir() else path.parent
    for file in (folder / QUESTIONS, folder.parent / QUESTIONS):
        if file.is_file():
            return _by_question_file(file, splits)
    own = {(split, sample.id.partition(":")[2]): sample for split, samples in splits.items() for sample in samples}
    if any(row.name.isdigit() and int(row.name) >= min(filter(None, _OFFSETS.values())) for row in rows):
        return {
            str(int(name) + _OFFSETS[split]): sample
            for (split, name), sample in own.items()
            if split in _OFFSETS and name.isdigit()
        }
    return _by_order(rows, splits)


def answers_question(row: Row, sample: Sample) -> bool:
    """Whether the `prompt` or `question` of a row, where it has one, holds the sample's question."""
    asked = row.values.get("prompt", row.values.get("question"))
    return not isinstance(asked, str) or not asked or sample.prompt.question.split("\n")[0] in asked


def _by_question_file(file: Path, splits: Splits) -> dict[str, Sample]:
    waiting = {split: iter(samples) for split, samples in splits.items()}
    found: dict[str, Sample] = {}
    for bare in read_jsonl(file):
        row = bare.named("question_id")
        split = row.text("category")
        if split not in waiting:
            continue
        sample = next(waiting[split], None)
        if sample is None or row.text("image") != sample.cluster:
            there = f"the image {sample.cluster}" if sample else f"only {len(splits[split])} questions"
            raise row.error(f"{row.values['image']!r} is asked here, but the split {split} has {there} at this place")
        found[row.name] = sample
    return found


def _by_order(rows: Sequence[Row], splits: Splits) -> dict[str, Sample]:
    if not all(row.name.isdigit() and "prompt" in row.values for row in rows):
        return {}
    ordered = sorted(rows, key=lambda row: int(row.name))
    fitting: list[dict[str, Sample]] = []
    for order in permutations(splits):
        samples = [sample for split in order for sample in splits[split]]
        if len(samples) == len(ordered) and all(map(answers_question, ordered, samples)):
            fitting.append({row.name: sample for row, sample in zip(ordered, samples, strict=True)})
    if len(fitting) > 1:
        raise DataError(
            f"{rows[0].file}: the numbers may mean the splits in {len(fitting)} orders; put LLaVA's {QUESTIONS} beside "
            f"the benchmark's files, or a 'category' into each row",
            reason="foreign_id",
        )
    return fitting[0] if fitting else {}


def by_split(groups: Sequence[tuple[Sample, ...]]) -> dict[str, list[Sample]]:
    """Split -> its samples, in order."""
    splits: dict[str, list[Sample]] = {}
    for (sample,) in groups:
        splits.setdefault(sample.target["split"], []).append(sample)
    return splits


def read_pope_answers(answers: Path, benchmark: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
    """Sample id -> answer, from one file or from a folder with a file per split.

    Args:
        answers: the file or folder.
        benchmark: POPE's own, beside which LLaVA's question file may lie.
        groups: the questions.

    Raises:
        DataError: a split without file, a row that is not its question's, or a wrong, missing or double id.
    """
    splits = by_split(groups)
    if not answers.is_dir():
        return _one_file(answers, splits, benchmark)
    found: dict[str, str] = {}
    for split, samples in splits.items():
        files = sorted(p for p in answers.iterdir() if p.suffix in (".json", ".jsonl") and split in p.stem)
        if len(files) != 1:
            names = ", ".join(p.name for p in files) or "none"
            raise DataError(f"{answers}: one .json file of the split '{split}' is expected, found {names}")
        found |= _one_file(files[0], {split: samples}, benchmark)
    return found


def _one_file(path: Path, splits: Mapping[str, Sequence[Sample]], benchmark: Path) -> dict[str, str]:
    rows = iter(json_rows(path))
    first = next(rows, None)
    rows = chain([first] if first else [], rows)
    if first and not any(name in first.values for name in ID_FIELDS):
        return _in_order(path, rows, [sample for samples in splits.values() for sample in samples])
    known = {sample.id: sample for samples in splits.values() for sample in samples}
    own_ids = Counter(own.partition(":")[2] for own in known)  # the official files number each split
    known |= {name: sample for own, sample in known.items() if own_ids[name := own.partition(":")[2]] == 1}
    named = [_with_split(row.named(*ID_FIELDS)) for row in rows]
    if len(splits) > 1 and any(row.name not in known for row in named):
        known |= llava_ids(benchmark, named, splits)
        for row in named:
            if row.name in known and not answers_question(row, known[row.name]):
                raise _foreign(row, known[row.name])
    ids = {name: sample.id for name, sample in known.items()}
    return join(((row, answer_text(row)) for row in named), ids, path)


def _foreign(row: Row, sample: Sample) -> DataError:
    asked = str(row.values.get("prompt", row.values.get("question")))[:80]
    expected = sample.prompt.question[:80]
    return row.error(f"answers the question {asked!r}, expected {expected!r} of id {sample.id}", "foreign_id")


def _with_split(row: Row) -> Row:
    category = row.values.get("category")
    if isinstance(category, str) and not row.name.startswith(f"{category}:"):
        return Row(row.file, row.line, row.values, f"{category}:{row.name}")
    return row


def _in_order(path: Path, rows: Iterator[Row], samples: Sequence[Sample]) -> dict[str, str]:
    """Rows without an id, each proved by its question to be the sample's."""
    found = {}
    for sample, row in zip(samples, rows, strict=False):
        asked = row.text("question")
        if not asked.strip().startswith(sample.prompt.question.split("\n")[0]):
            expected = sample.prompt.question[:80]
            raise row.error(
                f"answers the question {asked[:80]!r}, expected {expected!r} of id {sample.id}; rows without "
                f"'question_id' must keep the official order",
                reason="foreign_id",
            )
        found[sample.id] = answer_text(row, ("answer", "text"))
    if len(found) < len(samples):
        nearest = f"no answer for the id {samples[len(found)].id}"
        raise DataError(f"{path}: {len(found)} answers for {len(samples)} questions: {nearest}", reason="missing_id")
    for row in rows:
        raise row.error(f"an answer too many: there are {len(samples)} questions", reason="foreign_id")
    return found


SPLITS = ("random", "popular", "adversarial")
_PARTS = (*SPLITS, "all")  # "all": a file that names no split
_TARGETS = {(part, label): {"label": label, "split": part} for part in _PARTS for label in ("yes", "no")}
_COUNTS = ("tp", "fp", "tn", "fn", "yes")
_FIGURES: dict[str, Better] = {
    "f1": "higher", "accuracy": "higher", "precision": "higher", "recall": "higher", "yes_rate": "neither",
}  # fmt: skip
_PUBLISHED = "its authors publish coco_pope_{random,popular,adversarial}.json at github.com/RUCAIBox/POPE (output/coco)"


class Pope(Benchmark):
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
