"""TextVQA: questions about text in images, ten human answers each, soft accuracy.

Source: A. Singh et al. (1904.08920); the rule is the M4C evaluator's as LLaVA-1.5 runs it. Suffix and decoding are
LLaVA-1.5's, whose published 58.2 has OCR tokens in the prompt (`llava_questions`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import Benchmark, Reading, Sample, SampleImages
from pairsight.benchmarks.words import vqa

_SUFFIX = "\nAnswer the question using a single word or phrase."
_OCR = "Reference OCR token"


class TextVqa(Benchmark):
    """TextVQA from its annotation file (`{data: [{question_id, image_id, question, answers}]}`).

    Images are `<image_id>.jpg`; the test split without answers is only exported. Answers are LLaVA's rows
    `{question_id: the image's id, prompt, text}`, joined by image and question in lower case as LLaVA's script does,
    or rows with TextVQA's own `question_id`.
    """

    llava_questions: str | None = Field(
        None, description="LLaVA's question JSONL whose prompts are used, e.g. those with 'Reference OCR token: …'"
    )

    name = "textvqa"
    title = "TextVQA"
    published = "its authors publish TextVQA_0.5.1_val.json at textvqa.org/dataset"
    metrics: ClassVar = {"accuracy": mean("score", "items")}
    prompt_suffix = _SUFFIX

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a question; the id is `question_id`.

        Raises:
            DataError: no such file, a bad row, an id twice, or a question that LLaVA's file does not have.
        """
        rows = list(files.unique_rows(self.rows(path, self.document(path), "data"), "question_id"))
        truths = {_key(row): row.values.get("answers") for row in rows}  # of equal questions the last one's, as there
        prompts = _llava_prompts(Path(self.llava_questions)) if self.llava_questions else None
        for row in rows:
            image_id, question = _key(row)
            text = row.text("question")
            if prompts is not None:
                text = prompts.get((image_id, question), "")
                if not text:
                    raise row.error(f"{self.llava_questions} has no prompt for this image and question")
            image = row.image_called(images, f"{image_id}.jpg", f"{image_id}.png")
            given = _answers(row, truths[image_id, question])
            target = {"answers": given, "image_id": image_id, "question": question}
            yield (self.sample(row.name, text, [image], cluster=image_id, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """The soft accuracy of one answer; `robust` also reads only the first line and drops "the answer is"."""
        truth = sample.target["answers"]
        read = vqa.m4c_normal(answer if official else _core(answer))
        agrees = tuple(vqa.m4c_normal(text) == read for text in truth or ())
        return Reading(read, vqa.soft_score(agrees) if truth else None, bool(read))

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """LLaVA's rows by image and question where they have a prompt, else by id."""
        rows = list(self.answer_rows(answers))
        if not (rows and "prompt" in rows[0][0].values):
            return answer_files.join(rows, {sample.id: sample.id for (sample,) in groups}, answers)
        keys = _pairs(f"{sample.target['image_id']} {sample.target['question']}" for (sample,) in groups)
        known = {key: sample.id for key, (sample,) in zip(keys, groups, strict=True)}
        theirs = _pairs([f"{row.name} {_asked(row)}" for row, _ in rows])
        named = [
            (replace(row, name=key if key in known else f"{row.name} {_asked(row)}"), text)
            for (row, text), key in zip(rows, theirs, strict=True)
        ]
        return answer_files.join(named, known, answers)

    def answer_row(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{question_id: image id, prompt, text}` as LLaVA's script reads it."""
        text = sample.prompt.question
        prompt = text if text.endswith(_SUFFIX) else text + _SUFFIX
        return {"question_id": sample.target["image_id"], "prompt": prompt, "text": answer or ""}


def question_in(prompt: str) -> str | None:
    """The question inside a LLaVA prompt, in lower case; None when the prompt has another form."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: ") and "Question: " in prompt and " Short answer:" in prompt:
        return prompt.split("Question: ", 1)[1].split(" Short answer:", 1)[0].lower()
    if f"{_OCR}: " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(f"{_OCR}:") else 0].lower()
    return lines[0].lower() if len(lines) == 2 else None


def _pairs(names: Iterable[str]) -> list[str]:
    """Images with their questions, which may be asked twice."""
    return answer_files.numbered(names, " #")


def _asked(row: files.Row) -> str:
    question = question_in(row.text("prompt"))
    if question is None:
        raise row.error("'prompt' is none of LLaVA's: question and suffix on two lines, with or without OCR tokens")
    return question


def _key(row: files.Row) -> tuple[str, str]:
    return row.text("image_id"), row.text("question").lower()


def _answers(row: files.Row, given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 10 or not all(isinstance(text, str) for text in given):
        raise row.error("'answers' must be a list of ten texts")
    return tuple(given)


def _llava_prompts(path: Path) -> dict[tuple[str, str], str]:
    prompts = {}
    for bare in files.read_jsonl(path):
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
