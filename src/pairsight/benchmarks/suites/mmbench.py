"""MMBench in English and Chinese: multiple choice in which every rotation of the options must be answered right.

Source: Y. Liu et al. (2307.06281); grouping and final figures as in VLMEvalKit's circular evaluation, letters as in
`mmbench_choice`. Prompt, suffixes and decoding are LLaVA-1.5's.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import answer_rows, join
from pairsight.benchmarks.files.official import Row
from pairsight.benchmarks.files.xlsx import read_xlsx, write_xlsx
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.suites.mmbench_table import LETTERS, Question, read_table
from pairsight.benchmarks.words.reading import option_letter
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import ImageRef, Message, Prompt
from pairsight.statistics import ratio

REVISION = "VLMEvalKit d21c5e9"
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
_NO_TEXT = ("nan", "none")


class MMBench(Benchmark):
    """MMBench from its TSV, images inside. A group is all rows whose index is equal modulo a million.

    `accuracy` is circular: a group is right only if all its rows are. `row_accuracy` counts every row. The test split
    has no answers: export them for the server. Categories are the abilities of both levels.
    """

    name: ClassVar[str] = "mmbench"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("groups_right", "groups", "rows_right", "rows")
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher", "row_accuracy": "higher"}
    prompt_suffix: ClassVar[str] = "\nAnswer with the option's letter from the given choices directly."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=1024)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question with its rotations, in the order of their first rows; ids are the rows' indices.

        Raises:
            DataError: see `read_table`; or a rotation whose first row (index below a million) is not there.
        """
        groups: dict[int, list[Question]] = {}
        for question in read_table(path):
            groups.setdefault(question.index % _ROTATION, []).append(question)
        for own, questions in groups.items():
            if all(question.index != own for question in questions):
                raise questions[0].row.error(f"a rotation of the index {own}, which is not in the file")
            yield tuple(_sample(question, images) for question in questions)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Right when every rotation's letter is; rows without a known answer count nothing."""
        decisions = []
        for sample, answer in zip(group, answers, strict=True):
            options, target = sample.target["options"], sample.target["answer"]
            understood = option_letter(answer, options)
            read = official_choice(answer, options) if parser == "official" else understood
            decisions.append(
                {"id": sample.id, "prediction": read, "target": target or None,
                 "correct": float(read == target) if target else None, "parsed": understood is not None}
            )  # fmt: skip
        unparsed = sum(not decision["parsed"] for decision in decisions)
        target = group[0].target
        named = (("ability", target["category"]), ("l2", target["l2"]), ("split", target["split"]))
        categories = tuple(f"{kind}: {value}" for kind, value in named if value)
        if any(not sample.target["answer"] for sample in group):
            return Scored(group[0].cluster, (0.0,) * 4, tuple(decisions), len(group), unparsed)
        right = [float(read["prediction"] == read["target"]) for read in decisions]
        sums = (float(all(right)), 1.0, sum(right), float(len(right)))
        return Scored(group[0].cluster, sums, tuple(decisions), len(group), unparsed, categories)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Circular accuracy and accuracy of rows; nothing for a split without answers."""
        groups_right, groups, rows_right, rows = sums_RC.T
        if not (groups > 0).any():
            return {}
        return {"accuracy": ratio(groups_right, groups), "row_accuracy": ratio(rows_right, rows)}

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Answers by index: VLMEvalKit's table (.xlsx, .tsv, .csv) with `index` and `prediction`, or LLaVA's JSONL."""
        known = {sample.id: sample.id for group in groups for sample in group}
        if answers.suffix in (".xlsx", ".tsv", ".csv"):
            return join(_table_rows(answers), known, answers)
        return join(answer_rows(answers, ("index", "question_id", "id")), known, answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`mmbench.xlsx` as LLaVA uploads it: index, question, A–D, prediction, and answer and split where known."""
        samples = sorted((sample for group in groups for sample in group), key=lambda sample: sample.target["line"])
        rows: list[list[str | int | None]] = [["index", "question", *LETTERS, "prediction", "answer", "split"]]
        for sample in samples:
            target = sample.target
            options = [target["options"].get(letter) for letter in LETTERS]
            known = [target["answer"] or None, target["split"] or None]
            rows.append([int(sample.id), target["question"], *options, answers.get(sample.id, ""), *known])
        return [write_xlsx(folder / f"{self.name}.xlsx", rows)]


class MMBenchCn(MMBench):
    """MMBench in Chinese: the same rule, asked in Chinese for the letter."""

    name: ClassVar[str] = "mmbench_cn"
    prompt_suffix: ClassVar[str] = "\n请直接回答选项字母。"


def _sample(question: Question, images: SampleImages) -> Sample:
    name = f"{question.row.file.name}, image of index {question.image_index}"
    try:
        image: ImageRef = images.add(question.image, name)
    except DataError as error:
        raise question.row.error(str(error), reason=error.reason) from None
    hint = [] if question.hint.lower() in ("", *_NO_TEXT) else [question.hint]
    lines = [*hint, question.question, *_shown_options(question)]
    own = str(question.index)
    target = {
        "options": question.options, "answer": question.answer, "category": question.category,
        "l2": question.l2_category, "split": question.split, "question": question.question, "line": question.row.line,
    }  # fmt: skip
    prompt = Prompt(own, (Message("user", "\n".join(lines), (image,)),), source="mmbench")
    return Sample(own, prompt, cluster=f"image of {question.image_index % _ROTATION}", target=target)


def _shown_options(question: Question) -> list[str]:
    """The options up to the first that is empty, as LLaVA shows them."""
    lines = []
    for letter in LETTERS:
        text = question.options.get(letter, "")
        if text.lower() in ("", *_NO_TEXT):
            break
        lines.append(f"{letter}. {text}")
    return lines


def _table_rows(path: Path) -> Iterator[tuple[Row, str]]:
    rows = [[cell or "" for cell in cells] for cells in read_xlsx(path)] if path.suffix == ".xlsx" else _fields(path)
    if not rows or not {"index", "prediction"} <= set(rows[0]):
        found = ", ".join(rows[0][:10]) if rows else "nothing"
        raise DataError(f"{path}:1: columns 'index' and 'prediction' are expected, found {found}")
    index, prediction = rows[0].index("index"), rows[0].index("prediction")
    for number, fields in enumerate(rows[1:], start=2):
        row = Row(path, number, {}, fields[index].removesuffix(".0") if index < len(fields) else "")
        if not row.name:
            raise row.error("'index' is empty")
        yield row, fields[prediction] if prediction < len(fields) else ""


def _fields(path: Path) -> list[list[str]]:
    """The rows of a .tsv or .csv file; a row is counted as one line however many its quoted texts take."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = "\t" if path.suffix == ".tsv" else ","
        return [fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None
