"""ScienceQA-IMG: multiple-choice school science questions with an image.

Source: P. Lu et al. (2209.09513); the rule is that of LLaVA's `eval_science_qa.py`. Suffix and decoding are
LLaVA-1.5's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.official import FileRecord
from pairsight.benchmarks.metrics import rate
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words.reading import option_letter
from pairsight.records import IMAGE_MARK

LETTERS = ("A", "B", "C", "D", "E")
_NOT_ANSWERED = "[not answered]"
_IMAGE_UNKNOWN = "[asked without <image>] "


class ScienceQa(Benchmark):
    """ScienceQA from the folder with `problems.json` and `pid_splits.json`; images are `<split>/<id>/<image>`.

    `img_accuracy` is the published metric. By the `official` parser, a question counts for it only if it was answered
    with `<image>` in the prompt; by `robust`, every question with an image counts, unanswered ones as wrong. If LLaVA's
    `llava_test_CQM-A.json` is in the folder, its prompts are used. Answers are `{question_id, text, prompt}` records;
    questions may be unanswered, and answers to other questions of the split are skipped.
    """

    split: str = Field("test", description="which part of pid_splits.json")
    text_only: bool = Field(False, description="also ask questions that have no image, for `accuracy`")

    name = "scienceqa"
    title = "ScienceQA"
    published = (
        "its authors publish problems.json and pid_splits.json at github.com/lupantech/ScienceQA (data/scienceqa)"
    )
    columns = ("img_right", "img_items", "right", "items")
    metrics: ClassVar = {
        "img_accuracy": rate("img_right", "img_items", "higher"), "accuracy": rate("right", "items", "higher"),
    }  # fmt: skip
    prompt_suffix = "\nAnswer with the option's letter from the given choices directly."
    max_new_tokens = 1024
    allow_missing = True

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question of the split; the id is the problem's.

        Raises:
            DataError: a missing file, an id without problem, or a problem that lacks a field.
        """
        prompts = self._llava_prompts(path / "llava_test_CQM-A.json")
        for record in self._problems(path):
            image = record.values.get("image")
            if not image and not self.text_only:
                continue
            choices, answer = record.texts("choices"), record.number("answer")
            if not 2 <= len(choices) <= len(LETTERS) or not 0 <= answer < len(choices):
                problem = f"'answer' {answer} must be the index of one of 2 to 5 choices, found {len(choices)} choices"
                raise record.error(problem)
            name = f"{self.split}/{record.id}/{image}"
            refs = [record.image_called(images, name, f"{record.id}/{image}")] if image else []
            target = {"choices": choices, "answer": answer, "image": bool(refs)}
            target |= {kind: record.values.get(kind, "") for kind in ("subject", "grade")}
            question = prompts.get(record.id) or _question(record, choices)
            yield (self.sample(record.id, question, refs, cluster=name if refs else record.id, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 if the letter is correct; `robust` reads letters and option texts in any form."""
        answered, with_image, text = _unmarked(answer)
        options = dict(zip(LETTERS, sample.target["choices"], strict=False))
        understood = option_letter(text, options) if answered else None
        read = official_letter(text) if official else understood
        correct = float(read in options and LETTERS.index(str(read)) == sample.target["answer"])
        counts = sample.target["image"] and (not official or (answered and with_image))
        categories = tuple(f"{kind}: {sample.target[kind]}" for kind in ("subject", "grade") if sample.target[kind])
        sums = (correct * counts, float(counts), correct, 1.0)
        return Reading(read, correct, understood is not None, sums, categories)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy over questions with an image and, with `text_only`, over all questions."""
        found = super().combine(sums_RC)
        return found if self.text_only else {"img_accuracy": found["img_accuracy"]}

    def other_ids(self, path: Path) -> Iterator[str]:
        """All questions of the split."""
        return (record.id for record in self._problems(path))

    def answer_records(self, answers: Path) -> Iterator[tuple[FileRecord, str]]:
        """The records; the text is marked if the prompt shows that the question was asked without image."""
        for record, text in super().answer_records(answers):
            prompt = record.values.get("prompt")
            yield record, _IMAGE_UNKNOWN + text if isinstance(prompt, str) and IMAGE_MARK not in prompt else text

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """The answers, with a mark for each unanswered question.

        Raises:
            DataError: an id that is duplicate or not in the split.
        """
        found = super().read_answers(answers, path, groups)
        return {sample.id: found.get(sample.id, _NOT_ANSWERED) for (sample,) in groups}

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object] | None:
        """`{question_id, prompt, text}`, as LLaVA's script reads it."""
        prompt = (f"{IMAGE_MARK}\n" if sample.target["image"] else "") + sample.prompt.question
        answered, _, text = _unmarked(_NOT_ANSWERED if answer is None else answer)
        return {"question_id": sample.id, "prompt": prompt, "text": text} if answered else None

    def _problems(self, path: Path) -> Iterator[FileRecord]:
        problems, splits = self.mapping(path / "problems.json"), self.mapping(path / "pid_splits.json")
        ids = splits.get(self.split)
        if not isinstance(ids, list):
            known = ", ".join(splits)
            raise self.file_error(f"{path / 'pid_splits.json'} has no list '{self.split}'; it has {known or 'nothing'}")
        for number, name in enumerate(ids, start=1):
            values = problems.get(str(name))
            record = FileRecord(path / "problems.json", number, values if isinstance(values, dict) else {}, str(name))
            if not isinstance(values, dict):
                raise record.error(f"the split '{self.split}' names this id, but problems.json has no such object")
            yield record

    def _llava_prompts(self, path: Path) -> dict[str, str]:
        """Problem id -> LLaVA's prompt; empty if LLaVA's file is missing."""
        items = self.document(path) if path.is_file() else []
        prompts = {}
        for number, item in enumerate(items if isinstance(items, list) else [], start=1):
            record = FileRecord(path, number, item if isinstance(item, dict) else {}).with_id("id")
            turns = record.values.get("conversations")
            if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
                raise record.error("'conversations' must be a list of turns")
            turn = FileRecord(path, number, turns[0], record.id)
            prompts[record.id] = turn.text("value").replace(IMAGE_MARK, "").strip()
        return prompts


def official_letter(text: str) -> str | None:
    """The answer itself if it is a letter A–E; or its first letter A–E if followed by a period and a space; or X of the
    only match of "The answer is X" followed by any character but a newline, with X any capital letter; else None.
    """
    if text in LETTERS:
        return text
    if text[:1] in LETTERS and text[1:3] == ". ":
        return text[0]
    matches = re.findall(r"The answer is ([A-Z]).", text)
    return matches[0] if len(matches) == 1 else None


def _question(record: FileRecord, choices: Sequence[str]) -> str:
    """Context, question and lettered options, one per line, in LLaVA-1.5's form."""
    hint = record.values.get("hint")
    context = [f"Context: {hint}"] if isinstance(hint, str) and hint.strip() else []
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([*context, record.text("question"), *options])


def _unmarked(answer: str) -> tuple[bool, bool, str]:
    """(whether it was answered, whether the prompt had an image as far as known, the text)."""
    if answer == _NOT_ANSWERED:
        return False, False, "FAILED"
    return True, not answer.startswith(_IMAGE_UNKNOWN), answer.removeprefix(_IMAGE_UNKNOWN)
