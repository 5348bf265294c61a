"""MMBench in English and Chinese: multiple choice in which every rotation of the options must be answered right.

Source: Y. Liu et al. (2307.06281); grouping and final figures as in VLMEvalKit's circular evaluation (d21c5e9), letters
as in its exact matching. Prompt, suffixes and decoding are LLaVA-1.5's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pairsight.benchmarks.files import mmbench_table
from pairsight.benchmarks.files.official import Row
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
    """The letter chosen, "Z" for a refusal, None when the answer matches nothing.

    In this order: exactly one option letter is a token and first stands among the last four; "answer is X" with X an
    option's letter and nothing said of what follows it; the one option whose text the answer contains, in lower case,
    unless the answer is longer than twice all options together.

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
    said = _ANSWER_IS.search(text)
    return said[1].upper() if said and said[1].upper() in options else None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    inside = [letter for letter, option in options.items() if option.lower() in text]
    return inside[0] if len(inside) == 1 else None


_ROTATION = 1_000_000


class MMBench(Benchmark):
    """MMBench from its TSV, images inside. A group is all rows whose index is equal modulo a million.

    `accuracy` is circular: a group is right only if all its rows are. `row_accuracy` counts every row. The test split
    has no answers: export them for the server. Categories are the abilities of both levels. Answers are VLMEvalKit's
    table (.xlsx, .tsv, .csv) with `index` and `prediction`, or LLaVA's JSONL.
    """

    name = "mmbench"
    source = "mmbench"
    columns = ("groups_right", "groups", "rows_right", "rows")
    metrics: ClassVar = {"accuracy": mean("groups_right", "groups"), "row_accuracy": mean("rows_right", "rows")}
    prompt_suffix = "\nAnswer with the option's letter from the given choices directly."
    max_new_tokens = 1024
    id_fields = ("index", "question_id", "id")

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question with its rotations, in the order of their first rows; ids are the rows' indices.

        Raises:
            DataError: see `read_table`; or a rotation whose first row (index below a million) is not there.
        """
        groups: dict[int, list[mmbench_table.Question]] = {}
        for question in mmbench_table.read_table(path):
            groups.setdefault(question.index % _ROTATION, []).append(question)
        for own, questions in groups.items():
            if all(question.index != own for question in questions):
                raise questions[0].row.error(f"a rotation of the index {own}, which is not in the file")
            yield tuple(self._sample(question, images) for question in questions)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 when the letter is the right one; a row without a known answer counts nothing."""
        options, target = sample.target["options"], sample.target["answer"]
        understood = option_letter(answer, options)
        read = official_choice(answer, options) if official else understood
        named = (("ability", sample.target["category"]), ("l2", sample.target["l2"]), ("split", sample.target["split"]))
        categories = tuple(f"{kind}: {value}" for kind, value in named if value)
        right = float(read == target) if target else None
        return Reading(read, right, understood is not None, categories=categories)

    def earned(
        self, group: tuple[Sample, ...], readings: Sequence[Reading]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Right when every rotation's letter is; a group with an unknown answer counts nothing."""
        right = [reading.correct for reading in readings if reading.correct is not None]
        if len(right) < len(group):
            return (0.0,) * 4, ()
        return (float(all(right)), 1.0, sum(right), float(len(right))), readings[0].categories

    def answer_rows(self, answers: Path) -> Iterator[tuple[Row, str]]:
        """The rows of a table or of JSON Lines."""
        in_table = answers.suffix in (".xlsx", ".tsv", ".csv")
        return mmbench_table.prediction_rows(answers) if in_table else super().answer_rows(answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`mmbench.xlsx` as LLaVA uploads it: index, question, A–D, prediction, and answer and split where known."""
        return [mmbench_table.write_predictions(folder / f"{self.name}.xlsx", groups, answers)]

    def _sample(self, question: mmbench_table.Question, images: SampleImages) -> Sample:
        row = question.row
        name = f"{row.file.name}, image of index {question.image_index}"
        target = {
            "options": question.options, "answer": question.answer, "category": question.category,
            "l2": question.l2_category, "split": question.split, "question": question.question, "line": row.line,
        }  # fmt: skip
        return self.sample(
            str(question.index),
            question.text,
            [row.image_of(images, question.image, name)],
            cluster=f"image of {question.image_index % _ROTATION}",
            target=target,
        )


class MMBenchCn(MMBench):
    """MMBench in Chinese: the same rule, asked in Chinese for the letter."""

    name = "mmbench_cn"
    prompt_suffix = "\n请直接回答选项字母。"
