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

from pairsight.benchmarks.files.official import Row
from pairsight.benchmarks.metrics import rate
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words.reading import option_letter
from pairsight.records import IMAGE_MARK

LETTERS = ("A", "B", "C", "D", "E")
_NOT_ANSWERED = "[not answered]"
_IMAGE_UNKNOWN = "[asked without <image>] "


class ScienceQa(Benchmark):
    """ScienceQA from the folder with `problems.json` and `pid_splits.json`; images are `<split>/<id>/<image>`.

    `img_accuracy` is the published figure. In `official` a question counts for it only if its answer is there and was
    asked with `<image>` in the prompt; in `robust` every question with an image counts, unanswered ones as wrong.
    Where LLaVA's `llava_test_CQM-A.json` lies in the folder, its prompts are used. Answers are `{question_id, text,
    prompt}` rows; a question may be without answer, other questions of the split pass.
    """

    split: str = Field("test", description="which part of pid_splits.json")
    text_only: bool = Field(False, description="ask the questions without an image too, for `accuracy`")

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
    may_miss = True

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question of the split; the id is the problem's.

        Raises:
            DataError: a missing file, an id without problem, or a problem that lacks a field.
        """
        prompts = self._llava_prompts(path / "llava_test_CQM-A.json")
        for row in self._problems(path):
            image = row.values.get("image")
            if not image and not self.text_only:
                continue
            choices, answer = row.texts("choices"), row.number("answer")
            if not 2 <= len(choices) <= len(LETTERS) or not 0 <= answer < len(choices):
                raise row.error(f"'answer' {answer} must be one of {len(choices)} choices, of which there are 2 to 5")
            name = f"{self.split}/{row.name}/{image}"
            shown = [row.image_called(images, name, f"{row.name}/{image}")] if image else []
            target = {"choices": choices, "answer": answer, "image": bool(shown)}
            target |= {kind: row.values.get(kind, "") for kind in ("subject", "grade")}
            asked = prompts.get(row.name) or _question(row, choices)
            yield (self.sample(row.name, asked, shown, cluster=name if shown else row.name, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 when the letter read is the right one; `robust` reads letters and option texts in any form."""
        answered, shown, text = _unmarked(answer)
        options = dict(zip(LETTERS, sample.target["choices"], strict=False))
        understood = option_letter(text, options) if answered else None
        read = official_letter(text) if official else understood
        right = float(read in options and LETTERS.index(str(read)) == sample.target["answer"])
        counts = sample.target["image"] and (not official or (answered and shown))
        categories = tuple(f"{kind}: {sample.target[kind]}" for kind in ("subject", "grade") if sample.target[kind])
        return Reading(read, right, understood is not None, (right * counts, float(counts), right, 1.0), categories)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy over questions with an image and, where the others were asked too, over all."""
        found = super().combine(sums_RC)
        return found if self.text_only else {"img_accuracy": found["img_accuracy"]}

    def other_ids(self, path: Path) -> Iterator[str]:
        """Every question of the split."""
        return (row.name for row in self._problems(path))

    def answer_rows(self, answers: Path) -> Iterator[tuple[Row, str]]:
        """The rows, with a mark before the text where the prompt shows that it was asked without image."""
        for row, text in super().answer_rows(answers):
            prompt = row.values.get("prompt")
            yield row, _IMAGE_UNKNOWN + text if isinstance(prompt, str) and IMAGE_MARK not in prompt else text

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """The answers, with a mark in place of those that are not there.

        Raises:
            DataError: an id that the split does not have, or has twice.
        """
        found = super().read_answers(answers, path, groups)
        return {sample.id: found.get(sample.id, _NOT_ANSWERED) for (sample,) in groups}

    def answer_row(self, sample: Sample, answer: str | None) -> dict[str, object] | None:
        """`{question_id, prompt, text}` as LLaVA's script reads it."""
        prompt = (f"{IMAGE_MARK}\n" if sample.target["image"] else "") + sample.prompt.question
        answered, _, text = _unmarked(_NOT_ANSWERED if answer is None else answer)
        return {"question_id": sample.id, "prompt": prompt, "text": text} if answered else None

    def _problems(self, path: Path) -> Iterator[Row]:
        problems, splits = self.mapping(path / "problems.json"), self.mapping(path / "pid_splits.json")
        ids = splits.get(self.split)
        if not isinstance(ids, list):
            known = ", ".join(splits)
            raise self.refusal(f"{path / 'pid_splits.json'} has no list '{self.split}'; it has {known or 'nothing'}")
        for number, name in enumerate(ids, start=1):
            values = problems.get(str(name))
            row = Row(path / "problems.json", number, values if isinstance(values, dict) else {}, str(name))
            if not isinstance(values, dict):
                raise row.error(f"the split '{self.split}' names this id, but problems.json has no such object")
            yield row

    def _llava_prompts(self, path: Path) -> dict[str, str]:
        """Problem's id -> LLaVA's prompt, where its file is there."""
        items = self.document(path) if path.is_file() else []
        prompts = {}
        for number, item in enumerate(items if isinstance(items, list) else [], start=1):
            row = Row(path, number, item if isinstance(item, dict) else {}).named("id")
            turns = row.values.get("conversations")
            if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
                raise row.error("'conversations' must be a list of turns")
            prompts[row.name] = Row(path, number, turns[0], row.name).text("value").replace(IMAGE_MARK, "").strip()
        return prompts


def official_letter(text: str) -> str | None:
    """A bare letter A–E; or one followed by a point and a space; or the only match of "The answer is X" and one more
    character (any but a newline), X any capital; else None.
    """
    if text in LETTERS:
        return text
    if text[:1] in LETTERS and text[1:3] == ". ":
        return text[0]
    matches = re.findall(r"The answer is ([A-Z]).", text)
    return matches[0] if len(matches) == 1 else None


def _question(row: Row, choices: Sequence[str]) -> str:
    """Context, question and lettered options, a line each: LLaVA-1.5's form (its own file is used where it is)."""
    hint = row.values.get("hint")
    context = [f"Context: {hint}"] if isinstance(hint, str) and hint.strip() else []
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([*context, row.text("question"), *options])


def _unmarked(answer: str) -> tuple[bool, bool, str]:
    """(was it answered, was the prompt seen to have an image, the text)."""
    if answer == _NOT_ANSWERED:
        return False, False, "FAILED"
    return True, not answer.startswith(_IMAGE_UNKNOWN), answer.removeprefix(_IMAGE_UNKNOWN)
