"""LLaVA's POPE answers: one file over all three splits, in which a question's number is none of its split's own.

Source: `llava_pope_test.jsonl` of LLaVA-1.5's eval.zip and `llava/eval/eval_pope.py` (github.com/haotian-liu/LLaVA),
which finds a question's split by that file and its place in the split by the order of the rows.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

from pairsight.benchmarks.official_files import Row, read_jsonl
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
