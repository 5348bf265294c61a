"""ScienceQA-IMG: multiple-choice school science questions with an image.

Source: P. Lu et al. (2209.09513); the rule is that of LLaVA's `eval_science_qa.py`. Suffix and decoding are
LLaVA-1.5's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.answers import ID_FIELDS, TEXT_FIELDS, answer_text, join, json_rows, write_jsonl
from pairsight.benchmarks.files.official import Row, read_json
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import option_letter
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import IMAGE_MARK, ImageRef, Message, Prompt
from pairsight.statistics import ratio

LETTERS = ("A", "B", "C", "D", "E")
_PUBLISHED = "its authors publish problems.json and pid_splits.json at github.com/lupantech/ScienceQA (data/scienceqa)"
_NOT_ANSWERED = "[not answered]"
_IMAGE_UNKNOWN = "[asked without <image>] "


class ScienceQa(Benchmark):
    """ScienceQA from the folder with `problems.json` and `pid_splits.json`; images are `<split>/<id>/<image>`.

    `img_accuracy` is the published figure. In `official` a question counts for it only if its answer is there and was
    asked with `<image>` in the prompt; in `robust` every question with an image counts, unanswered ones as wrong.
    Where LLaVA's `llava_test_CQM-A.json` lies in the folder, its prompts are used.
    """

    split: str = Field("test", description="which part of pid_splits.json")
    text_only: bool = Field(False, description="ask the questions without an image too, for `accuracy`")

    name: ClassVar[str] = "scienceqa"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("img_right", "img_items", "right", "items")
    better: ClassVar[Mapping[str, Better]] = {"img_accuracy": "higher", "accuracy": "higher"}
    prompt_suffix: ClassVar[str] = "\nAnswer with the option's letter from the given choices directly."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=1024)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question of the split; the id is the problem's.

        Raises:
            DataError: a missing file, an id without problem, or a problem that lacks a field.
        """
        prompts = _llava_prompts(path / "llava_test_CQM-A.json")
        for row in self._problems(path):
            name = row.values.get("image")
            if name or self.text_only:
                yield (self._sample(row, prompts.get(row.name), images),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """1 when the letter read is the right one; `robust` reads letters and option texts in any form."""
        sample = group[0]
        answered, shown, text = _unmarked(answers[0])
        options = dict(zip(LETTERS, sample.target["choices"], strict=False))
        understood = option_letter(text, options) if answered else None
        read = official_letter(text) if parser == "official" else understood
        right = float(read in options and LETTERS.index(str(read)) == sample.target["answer"])
        counts = sample.target["image"] and (parser == "robust" or (answered and shown))
        decision = {
            "id": sample.id, "prediction": read, "target": LETTERS[sample.target["answer"]], "correct": right,
            "parsed": understood is not None,
        }  # fmt: skip
        sums = (right * counts, float(counts), right, 1.0)
        categories = tuple(f"{kind}: {sample.target[kind]}" for kind in ("subject", "grade") if sample.target[kind])
        return Scored(sample.cluster, sums, (decision,), 1, int(understood is None), categories)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy over questions with an image and, where the others were asked too, over all."""
        img_right, img_items, right, items = sums_RC.T
        metrics = {"img_accuracy": ratio(img_right, img_items)}
        return {**metrics, "accuracy": ratio(right, items)} if self.text_only else metrics

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """`{question_id, text, prompt}` rows; a question may be without answer, other questions of the split pass.

        Raises:
            DataError: an id that the split does not have, or has twice.
        """
        own = {sample.id: sample.id for (sample,) in groups}
        rows = [(row, _marked(row)) for row in (bare.named(*ID_FIELDS) for bare in json_rows(answers))]
        found = join(rows, own, answers, ignored=(row.name for row in self._problems(path)), may_miss=True)
        return {name: found.get(name, _NOT_ANSWERED) for name in own}

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`{question_id, prompt, text}` rows as LLaVA's script reads them."""
        rows = []
        for (sample,) in groups:
            prompt = (f"{IMAGE_MARK}\n" if sample.target["image"] else "") + sample.prompt.question
            answered, _, text = _unmarked(answers.get(sample.id, _NOT_ANSWERED))
            if answered:
                rows.append({"question_id": sample.id, "prompt": prompt, "text": text})
        return [write_jsonl(folder / "scienceqa.jsonl", rows)]

    def _problems(self, path: Path) -> Iterator[Row]:
        problems, splits = _object(path / "problems.json"), _object(path / "pid_splits.json")
        ids = splits.get(self.split)
        if not isinstance(ids, list):
            known = ", ".join(splits)
            raise DataError(f"{path / 'pid_splits.json'} has no list '{self.split}'; it has {known or 'nothing'}")
        for number, name in enumerate(ids, start=1):
            values = problems.get(str(name))
            row = Row(path / "problems.json", number, values if isinstance(values, dict) else {}, str(name))
            if not isinstance(values, dict):
                raise row.error(f"the split '{self.split}' names this id, but problems.json has no such object")
            yield row

    def _sample(self, row: Row, prompt: str | None, images: SampleImages) -> Sample:
        choices, answer = row.texts("choices"), row.number("answer")
        if not 2 <= len(choices) <= len(LETTERS) or not 0 <= answer < len(choices):
            raise row.error(f"'answer' {answer} must be one of {len(choices)} choices, of which there are 2 to 5")
        shown: tuple[ImageRef, ...] = ()
        name = f"{self.split}/{row.name}/{row.values.get('image')}"
        if row.values.get("image"):
            try:
                shown = (images.ref(name, f"{row.name}/{row.values['image']}"),)
            except DataError as error:
                raise row.error(str(error), reason=error.reason) from None
        target: dict[str, Any] = {"choices": choices, "answer": answer, "image": bool(shown)}
        target |= {kind: row.values.get(kind, "") for kind in ("subject", "grade")}
        asked = Prompt(row.name, (Message("user", prompt or _question(row, choices), shown),), source="scienceqa")
        return Sample(row.name, asked, cluster=name if shown else row.name, target=target)


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


def _marked(row: Row) -> str:
    text = answer_text(row, TEXT_FIELDS)
    prompt = row.values.get("prompt")
    return _IMAGE_UNKNOWN + text if isinstance(prompt, str) and IMAGE_MARK not in prompt else text


def _unmarked(answer: str) -> tuple[bool, bool, str]:
    """(was it answered, was the prompt seen to have an image, the text)."""
    if answer == _NOT_ANSWERED:
        return False, False, "FAILED"
    return True, not answer.startswith(_IMAGE_UNKNOWN), answer.removeprefix(_IMAGE_UNKNOWN)


def _llava_prompts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    items = read_json(path)
    prompts = {}
    for number, item in enumerate(items if isinstance(items, list) else [], start=1):
        row = Row(path, number, item if isinstance(item, dict) else {}).named("id")
        turns = row.values.get("conversations")
        if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
            raise row.error("'conversations' must be a list of turns")
        prompts[row.name] = Row(path, number, turns[0], row.name).text("value").replace(IMAGE_MARK, "").strip()
    return prompts


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"ScienceQA: there is no {path}; {_PUBLISHED}", reason="missing_file")
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"ScienceQA: {path} must hold an object, found {type(value).__name__}; {_PUBLISHED}")
    return value
