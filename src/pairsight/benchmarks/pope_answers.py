"""POPE's official answer files: `{question, answer}` rows without an id, one file a split; or rows with an id.

Ids are `split:question_id`, a split's own number where only one split has it, the number beside a `category`, or
LLaVA's numbers over all splits.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pairsight.benchmarks.answer_files import ID_FIELDS, answer_text, join, json_rows
from pairsight.benchmarks.official_files import Row
from pairsight.benchmarks.pope_llava import answers_question, llava_ids
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError


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
