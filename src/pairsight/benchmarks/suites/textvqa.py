"""TextVQA: questions about text in images, ten human answers each, soft accuracy.

Source: A. Singh et al. (1904.08920); the rule is the M4C evaluator's as LLaVA-1.5 runs it. Suffix and decoding are
LLaVA-1.5's, whose published 58.2 has OCR tokens in the prompt (`llava_questions`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.answers import ID_FIELDS, answer_text, join, json_rows, write_jsonl
from pairsight.benchmarks.files.official import Row, UniqueIds, read_json, read_jsonl
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import COLUMNS, mean_score
from pairsight.benchmarks.words.vqa import m4c_normal, soft_score
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt

_PUBLISHED = "its authors publish TextVQA_0.5.1_val.json at textvqa.org/dataset"
_SUFFIX = "\nAnswer the question using a single word or phrase."
_OCR = "Reference OCR token"


class TextVqa(Benchmark):
    """TextVQA from its annotation file (`{data: [{question_id, image_id, question, answers}]}`).

    Images are `<image_id>.jpg`; the test split without answers is only exported.
    """

    llava_questions: str | None = Field(
        None, description="LLaVA's question JSONL whose prompts are used, e.g. those with 'Reference OCR token: …'"
    )

    name: ClassVar[str] = "textvqa"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher"}
    prompt_suffix: ClassVar[str] = _SUFFIX
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; the id is `question_id`.

        Raises:
            DataError: no such file, a bad row, an id twice, or a question that LLaVA's file does not have.
        """
        rows = list(_rows(path))
        truths = {_key(row): row.values.get("answers") for row in rows}  # of equal questions the last one's, as there
        prompts = _llava_prompts(Path(self.llava_questions)) if self.llava_questions else None
        ids = UniqueIds()
        for row in rows:
            ids.add(row)
            image_id, question = _key(row)
            text = row.text("question")
            if prompts is not None:
                text = prompts.get((image_id, question), "")
                if not text:
                    raise row.error(f"{self.llava_questions} has no prompt for this image and question")
            try:
                image = images.ref(f"{image_id}.jpg", f"{image_id}.png")
            except DataError as error:
                raise row.error(str(error), reason=error.reason) from None
            prompt = Prompt(row.name, (Message("user", text, (image,)),), source="textvqa")
            answers = _answers(row, truths[image_id, question])
            yield (
                Sample(row.name, prompt, image_id, {"answers": answers, "image_id": image_id, "question": question}),
            )

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """The soft accuracy of one answer; `robust` also reads only the first line and drops "the answer is"."""
        sample, truth = group[0], group[0].target["answers"]
        read = m4c_normal(answers[0] if parser == "official" else _core(answers[0]))
        parsed = bool(read)
        agrees = tuple(m4c_normal(text) == read for text in truth or ())
        right = soft_score(agrees) if truth else None
        decision = {"id": sample.id, "prediction": read, "target": truth, "correct": right, "parsed": parsed}
        sums = (0.0, 0.0) if right is None else (right, 1.0)
        return Scored(sample.cluster, sums, (decision,), 1, int(not parsed))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Accuracy."""
        return mean_score(sums_RC)

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """LLaVA's rows `{question_id: the image's id, prompt, text}`, or rows with TextVQA's own `question_id`.

        LLaVA's are joined by image and question in lower case, as LLaVA's script does.
        """
        samples = [sample for group in groups for sample in group]
        rows = list(json_rows(answers))
        if not (rows and "prompt" in rows[0].values):
            named = [(row.named(*ID_FIELDS), answer_text(row)) for row in rows]
            return join(named, {sample.id: sample.id for sample in samples}, answers)
        keys = _numbered(f"{s.target['image_id']} {s.target['question']}" for s in samples)
        known = {key: sample.id for key, sample in zip(keys, samples, strict=True)}
        asked = [_by_question(row) for row in rows]
        theirs = _numbered(row.name for row in asked)
        named = [
            (Row(row.file, row.line, row.values, key if key in known else row.name), answer_text(row))
            for row, key in zip(asked, theirs, strict=True)
        ]
        return join(named, known, answers)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`{question_id: image id, prompt, text}` rows as LLaVA's script reads them."""
        rows = []
        for (sample,) in groups:
            text = sample.prompt.question
            prompt = text if text.endswith(_SUFFIX) else text + _SUFFIX
            rows.append(
                {"question_id": sample.target["image_id"], "prompt": prompt, "text": answers.get(sample.id, "")}
            )
        return [write_jsonl(folder / "textvqa.jsonl", rows)]


def question_in(prompt: str) -> str | None:
    """The question inside a LLaVA prompt, in lower case; None when the prompt has another form."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: ") and "Question: " in prompt and " Short answer:" in prompt:
        return prompt.split("Question: ", 1)[1].split(" Short answer:", 1)[0].lower()
    if f"{_OCR}: " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(f"{_OCR}:") else 0].lower()
    return lines[0].lower() if len(lines) == 2 else None


def _numbered(names: Iterable[str]) -> list[str]:
    """Each name, from its second time on with a number: one image may be asked the same question twice."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found


def _by_question(row: Row) -> Row:
    named = row.named("question_id")
    question = question_in(row.text("prompt"))
    if question is None:
        raise named.error("'prompt' is none of LLaVA's: question and suffix on two lines, with or without OCR tokens")
    return Row(row.file, row.line, row.values, f"{named.name} {question}")


def _rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"TextVQA: {path} is no file; {_PUBLISHED}", reason="missing_file")
    whole = read_json(path)
    items = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(items, list):
        raise DataError(f"TextVQA: {path} must hold {{'data': [...]}}; {_PUBLISHED}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(f"{path}: item {number} must be an object, found {type(item).__name__}")
        yield Row(path, number, item).named("question_id")


def _key(row: Row) -> tuple[str, str]:
    return row.text("image_id"), row.text("question").lower()


def _answers(row: Row, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 10 or not all(isinstance(text, str) for text in given):
        raise row.error("'answers' must be a list of ten texts")
    return tuple(given)


def _llava_prompts(path: Path) -> dict[tuple[str, str], str]:
    prompts = {}
    for bare in read_jsonl(path):
        row = bare.named("question_id")
        question = question_in(row.text("text"))
        if question is None:
            raise row.error("'text' is no LLaVA prompt of two or three lines")
        prompts[row.name, question] = row.text("text")
    return prompts


def _core(text: str) -> str:
    line = text.strip().split("\n", maxsplit=1)[0].strip().rstrip(".")
    head = "the answer is "
    return line[len(head) :] if line.lower().startswith(head) else line
