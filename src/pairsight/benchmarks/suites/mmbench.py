"""MMBench in English and Chinese: multiple choice; every rotation of the options must be answered correctly.

Source: Y. Liu et al. (2307.06281); grouping and metrics as in VLMEvalKit's circular evaluation (d21c5e9), letters
as in its exact matching. Prompt, suffixes and decoding are LLaVA-1.5's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pairsight.benchmarks.files import mmbench_table
from pairsight.benchmarks.files.official import FileRecord
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words.reading import option_letter

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.", "I can't process this file.",
    "I'm sorry, but without the image provided", "Cannot determine the answer",
)  # fmt: skip
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_LAST_TOKENS = 4


def official_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The chosen letter, "Z" for a refusal, None if the answer matches nothing.

    In this order: exactly one option letter is a token, and it first occurs among the last four tokens; "answer is X"
    with an option's letter X, whatever follows; the only option whose text the answer contains, in lower case, unless
    the answer is longer than twice all options together.

    Args:
        text: the answer.
        options: letter -> the option's text.
    """
    return _by_letter(text, options) or _by_text(text.lower(), options)


def _by_letter(text: str, options: Mapping[str, str]) -> str | None:
    if _FAILED in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return "Z"
    tokens = text.translate(_SEPARATORS).split()
    named = [letter for letter in options if letter in tokens]
    if len(named) == 1 and tokens.index(named[0]) >= len(tokens) - _LAST_TOKENS:
        return named[0]
    if not named and "Z" in tokens:
        return "Z"
    match = _ANSWER_IS.search(text)
    return match[1].upper() if match and match[1].upper() in options else None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    contained = [letter for letter, option in options.items() if option.lower() in text]
    return contained[0] if len(contained) == 1 else None


_ROTATION = 1_000_000


class MMBench(Benchmark):
    """MMBench from its TSV with embedded images. A group is all rows whose index is equal modulo a million.

    `accuracy` is circular: a group is correct only if all its rows are. `row_accuracy` counts every row. The test split
    has no true answers: export the model's answers for the server. Categories are the abilities of both levels. Answers
    are VLMEvalKit's table (.xlsx, .tsv, .csv) with `index` and `prediction`, or LLaVA's JSONL.
    """

    name = "mmbench"
    source = "mmbench"
    columns = ("groups_right", "groups", "rows_right", "rows")
    metrics: ClassVar = {"accuracy": mean("groups_right", "groups"), "row_accuracy": mean("rows_right", "rows")}
    prompt_suffix = "\nAnswer with the option's letter from the given choices directly."
    max_new_tokens = 1024
    id_fields = ("index", "question_id", "id")

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question with its rotations, in the order of their first rows; ids are the rows' indices.

        Raises:
            DataError: see `read_table`; or a rotation without the original row (index below a million).
        """
        groups: dict[int, list[mmbench_table.Question]] = {}
        for question in mmbench_table.read_table(path):
            groups.setdefault(question.index % _ROTATION, []).append(question)
        for index, questions in groups.items():
            if all(question.index != index for question in questions):
                raise questions[0].record.error(f"a rotation of the index {index}, which is not in the file")
            yield tuple(self._sample(question, images) for question in questions)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 if the letter is correct; a row without a true answer does not count."""
        options, target = sample.target["options"], sample.target["answer"]
        understood = option_letter(answer, options)
        read = official_choice(answer, options) if official else understood
        named = (("ability", sample.target["category"]), ("l2", sample.target["l2"]), ("split", sample.target["split"]))
        categories = tuple(f"{kind}: {value}" for kind, value in named if value)
        correct = float(read == target) if target else None
        return Reading(read, correct, understood is not None, categories=categories)

    def group_sums(
        self, group: tuple[Sample, ...], readings: Sequence[Reading]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Correct if every rotation is; a group without true answers does not count."""
        correct = [reading.correct for reading in readings if reading.correct is not None]
        if len(correct) < len(group):
            return (0.0,) * 4, ()
        return (float(all(correct)), 1.0, sum(correct), float(len(correct))), readings[0].categories

    def answer_records(self, answers: Path) -> Iterator[tuple[FileRecord, str]]:
        """The records of a table or a JSON Lines file."""
        in_table = answers.suffix in (".xlsx", ".tsv", ".csv")
        return mmbench_table.prediction_records(answers) if in_table else super().answer_records(answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write the `.xlsx` file that LLaVA uploads; see `mmbench_table.write_predictions`."""
        return [mmbench_table.write_predictions(folder / f"{self.name}.xlsx", groups, answers)]

    def _sample(self, question: mmbench_table.Question, images: SampleImages) -> Sample:
        record = question.record
        name = f"{record.file.name}, image of index {question.image_index}"
        target = {
            "options": question.options, "answer": question.answer, "category": question.category,
            "l2": question.l2_category, "split": question.split, "question": question.question, "line": record.line,
        }  # fmt: skip
        return self.sample(
            str(question.index),
            question.text,
            [record.image_of(images, question.image, name)],
            cluster=f"image of {question.image_index % _ROTATION}",
            target=target,
        )


class MMBenchCn(MMBench):
    """MMBench in Chinese: the same rule, with a Chinese prompt suffix."""

    name = "mmbench_cn"
    prompt_suffix = "\n请直接回答选项字母。"
