"""POPE's answers as its authors and LLaVA write them: by split and number, or without id, checked by the question."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, permutations
from pathlib import Path

from pairsight.benchmarks.files.answers import ID_FIELDS, answer_text, join, json_records, write_jsonl
from pairsight.benchmarks.files.official import FileRecord, read_jsonl
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError

Splits = Mapping[str, Sequence[Sample]]
QUESTIONS = "llava_pope_test.jsonl"
_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
"""The offset that LLaVA's file adds to the question ids of each split."""


def llava_ids(path: Path, records: Sequence[FileRecord], splits: Splits) -> dict[str, Sample]:
    """The id in LLaVA's answers -> its question.

    If `llava_pope_test.jsonl` is in the benchmark's folder or its parent, it decides. Otherwise ids follow LLaVA's
    numbering (10,000,000 or 20,000,000 added), or else number the questions of all splits consecutively, in the only
    order of splits for which every record's `prompt` matches its question.

    Args:
        path: the benchmark's file or folder.
        records: the answers, with their ids.
        splits: split -> its questions in order.

    Raises:
        DataError: LLaVA's file names another image than the split, or several orders of the splits match.
    """
    folder = path if path.is_dir() else path.parent
    for file in (folder / QUESTIONS, folder.parent / QUESTIONS):
        if file.is_file():
            return _by_question_file(file, splits)
    by_number = {
        (split, sample.id.partition(":")[2]): sample for split, samples in splits.items() for sample in samples
    }
    if any(record.id.isdigit() and int(record.id) >= min(filter(None, _OFFSETS.values())) for record in records):
        return {
            str(int(number) + _OFFSETS[split]): sample
            for (split, number), sample in by_number.items()
            if split in _OFFSETS and number.isdigit()
        }
    return _by_order(records, splits)


def answers_question(record: FileRecord, sample: Sample) -> bool:
    """Whether the `prompt` or `question` of a record, if it has one, contains the sample's question."""
    asked = record.values.get("prompt", record.values.get("question"))
    return not isinstance(asked, str) or not asked or sample.prompt.question.split("\n")[0] in asked


def _by_question_file(file: Path, splits: Splits) -> dict[str, Sample]:
    remaining = {split: iter(samples) for split, samples in splits.items()}
    found: dict[str, Sample] = {}
    for raw in read_jsonl(file):
        record = raw.with_id("question_id")
        split = record.text("category")
        if split not in remaining:
            continue
        sample = next(remaining[split], None)
        if sample is None or record.text("image") != sample.cluster:
            expected = f"asks about {sample.cluster!r} next" if sample else f"has only {len(splits[split])} questions"
            raise record.error(f"the image is {record.values['image']!r}, but the split {split} {expected}")
        found[record.id] = sample
    return found


def _by_order(records: Sequence[FileRecord], splits: Splits) -> dict[str, Sample]:
    if not all(record.id.isdigit() and "prompt" in record.values for record in records):
        return {}
    ordered = sorted(records, key=lambda record: int(record.id))
    matches: list[dict[str, Sample]] = []
    for order in permutations(splits):
        samples = [sample for split in order for sample in splits[split]]
        if len(samples) == len(ordered) and all(map(answers_question, ordered, samples)):
            matches.append({record.id: sample for record, sample in zip(ordered, samples, strict=True)})
    if len(matches) > 1:
        raise DataError(
            f"{records[0].file}: the ids match the splits in {len(matches)} orders; put LLaVA's {QUESTIONS} beside the "
            f"benchmark's files, or add a 'category' to each record",
            reason="foreign_id",
        )
    return matches[0] if matches else {}


def by_split(groups: Sequence[tuple[Sample, ...]]) -> dict[str, list[Sample]]:
    """Split -> its samples, in order."""
    splits: dict[str, list[Sample]] = {}
    for (sample,) in groups:
        splits.setdefault(sample.target["split"], []).append(sample)
    return splits


def read_pope_answers(answers: Path, benchmark: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
    """Sample id -> answer, from one file or from a folder with one file per split.

    Args:
        answers: the file or folder.
        benchmark: POPE's own file or folder; LLaVA's question file may be beside it.
        groups: the questions.

    Raises:
        DataError: a split without file, an answer to another question, or an unknown, missing or duplicate id.
    """
    splits = by_split(groups)
    if not answers.is_dir():
        return _one_file(answers, splits, benchmark)
    found: dict[str, str] = {}
    for split, samples in splits.items():
        files = sorted(p for p in answers.iterdir() if p.suffix in (".json", ".jsonl") and split in p.stem)
        if len(files) != 1:
            names = ", ".join(p.name for p in files) or "none"
            raise DataError(f"{answers}: one .json file for the split '{split}' is expected, found {names}")
        found |= _one_file(files[0], {split: samples}, benchmark)
    return found


def _one_file(path: Path, splits: Mapping[str, Sequence[Sample]], benchmark: Path) -> dict[str, str]:
    records = iter(json_records(path))
    first = next(records, None)
    records = chain([first] if first else [], records)
    if first and not any(name in first.values for name in ID_FIELDS):
        return _in_order(path, records, [sample for samples in splits.values() for sample in samples])
    known = {sample.id: sample for samples in splits.values() for sample in samples}
    counts = Counter(sample_id.partition(":")[2] for sample_id in known)  # the official files number each split
    known |= {number: sample for own, sample in known.items() if counts[number := own.partition(":")[2]] == 1}
    answered = [_with_split(record.with_id(*ID_FIELDS)) for record in records]
    if len(splits) > 1 and any(record.id not in known for record in answered):
        known |= llava_ids(benchmark, answered, splits)
        for record in answered:
            if record.id in known and not answers_question(record, known[record.id]):
                raise _wrong_question(record, known[record.id])
    ids = {record_id: sample.id for record_id, sample in known.items()}
    return join(((record, answer_text(record)) for record in answered), ids, path)


def _wrong_question(record: FileRecord, sample: Sample) -> DataError:
    asked = str(record.values.get("prompt", record.values.get("question")))[:80]
    expected = sample.prompt.question[:80]
    return record.error(f"answers the question {asked!r}, expected {expected!r} of id {sample.id}", "foreign_id")


def _with_split(record: FileRecord) -> FileRecord:
    category = record.values.get("category")
    if isinstance(category, str) and not record.id.startswith(f"{category}:"):
        return FileRecord(record.file, record.line, record.values, f"{category}:{record.id}")
    return record


def _in_order(path: Path, records: Iterator[FileRecord], samples: Sequence[Sample]) -> dict[str, str]:
    """The answers of records without id, each matched with its sample by order and checked by its question."""
    found = {}
    for sample, record in zip(samples, records, strict=False):
        asked = record.text("question")
        if not asked.strip().startswith(sample.prompt.question.split("\n")[0]):
            expected = sample.prompt.question[:80]
            raise record.error(
                f"answers the question {asked[:80]!r}, expected {expected!r} of id {sample.id}; records without "
                f"'question_id' must be in the official order",
                reason="foreign_id",
            )
        found[sample.id] = answer_text(record, ("answer", "text"))
    if len(found) < len(samples):
        first = f"no answer for the id {samples[len(found)].id}"
        raise DataError(f"{path}: {len(found)} answers for {len(samples)} questions: {first}", reason="missing_id")
    for record in records:
        raise record.error(f"too many answers: there are {len(samples)} questions", reason="foreign_id")
    return found


def write_pope_answers(folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> list[Path]:
    """Write `coco_pope_<split>_answers.json` for each split: `{question, answer}` records in the official order."""
    files = []
    for split, samples in by_split(groups).items():
        records = [{"question": s.prompt.question, "answer": answers.get(s.id, "")} for s in samples]
        files.append(write_jsonl(folder / f"coco_pope_{split}_answers.json", records))
    return files
