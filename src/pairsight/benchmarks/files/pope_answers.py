"""POPE's answers as its authors and LLaVA write them: by split and number, or with no id, proved by the question."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, permutations
from pathlib import Path

from pairsight.benchmarks.files.answers import ID_FIELDS, answer_text, join, json_rows, write_jsonl
from pairsight.benchmarks.files.official import Row, read_jsonl
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError

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


def write_pope_answers(folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> list[Path]:
    """One `coco_pope_<split>_answers.json` of `{question, answer}` rows per split, in the official order."""
    files = []
    for split, samples in by_split(groups).items():
        rows = [{"question": s.prompt.question, "answer": answers.get(s.id, "")} for s in samples]
        files.append(write_jsonl(folder / f"coco_pope_{split}_answers.json", rows))
    return files
