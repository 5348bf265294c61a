"""TextVQA: questions about text in images, ten human answers each, soft accuracy.

Source: A. Singh et al. (1904.08920); the rule is the M4C evaluator's, as run by LLaVA-1.5. Suffix and decoding are
LLaVA-1.5's; its published 58.2 uses OCR tokens in the prompt (`llava_questions`).
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

    Images are `<image_id>.jpg`; the test split has no answers and is only exported. Answers are LLaVA's records
    `{question_id: the image's id, prompt, text}`, joined by image and lower-case question as in LLaVA's script, or
    records with TextVQA's `question_id`.
    """

    llava_questions: str | None = Field(
        None, description="LLaVA's question JSONL, to use its prompts, e.g. those with 'Reference OCR token: …'"
    )

    name = "textvqa"
    title = "TextVQA"
    published = "its authors publish TextVQA_0.5.1_val.json at textvqa.org/dataset"
    metrics: ClassVar = {"accuracy": mean("score", "items")}
    prompt_suffix = _SUFFIX

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question; the id is `question_id`.

        Raises:
            DataError: no such file, a bad record, a duplicate id, or a question that is not in LLaVA's file.
        """
        records = list(files.unique_records(self.records(path, self.document(path), "data"), "question_id"))
        # the last of equal questions decides, as in the original
        truths = {_image_and_question(record): record.values.get("answers") for record in records}
        prompts = _llava_prompts(Path(self.llava_questions)) if self.llava_questions else None
        for record in records:
            image_id, question = _image_and_question(record)
            text = record.text("question")
            if prompts is not None:
                text = prompts.get((image_id, question), "")
                if not text:
                    raise record.error(f"{self.llava_questions} has no prompt for this image and question")
            image = record.image_called(images, f"{image_id}.jpg", f"{image_id}.png")
            answers = _answers(record, truths[image_id, question])
            target = {"answers": answers, "image_id": image_id, "question": question}
            yield (self.sample(record.id, text, [image], cluster=image_id, target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """The soft accuracy of one answer; `robust` reads only the first line, without "the answer is"."""
        truth = sample.target["answers"]
        read = vqa.m4c_normal(answer if official else _core(answer))
        agrees = tuple(vqa.m4c_normal(text) == read for text in truth or ())
        return Reading(read, vqa.soft_score(agrees) if truth else None, bool(read))

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Join LLaVA's records by image and question if they have a prompt, else by id."""
        records = list(self.answer_records(answers))
        if not (records and "prompt" in records[0][0].values):
            return answer_files.join(records, {sample.id: sample.id for (sample,) in groups}, answers)
        questions = _numbered(f"{sample.target['image_id']} {sample.target['question']}" for (sample,) in groups)
        ids = {question: sample.id for question, (sample,) in zip(questions, groups, strict=True)}
        asked = [f"{record.id} {_asked(record)}" for record, _ in records]
        answered = [
            (replace(record, id=numbered if numbered in ids else question), text)
            for (record, text), numbered, question in zip(records, _numbered(asked), asked, strict=True)
        ]
        return answer_files.join(answered, ids, answers)

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{question_id: image id, prompt, text}`, as LLaVA's script reads it."""
        text = sample.prompt.question
        prompt = text if text.endswith(_SUFFIX) else text + _SUFFIX
        return {"question_id": sample.target["image_id"], "prompt": prompt, "text": answer or ""}


def question_in(prompt: str) -> str | None:
    """The question in a LLaVA prompt, in lower case; None if the prompt has another form."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: ") and "Question: " in prompt and " Short answer:" in prompt:
        return prompt.split("Question: ", 1)[1].split(" Short answer:", 1)[0].lower()
    if f"{_OCR}: " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(f"{_OCR}:") else 0].lower()
    return lines[0].lower() if len(lines) == 2 else None


def _numbered(questions: Iterable[str]) -> list[str]:
    """Questions with their images; repeated ones are numbered."""
    return answer_files.numbered(questions, " #")


def _asked(record: files.FileRecord) -> str:
    question = question_in(record.text("prompt"))
    if question is None:
        raise record.error(
            "'prompt' is not a LLaVA prompt: question and suffix on two lines, with or without OCR tokens"
        )
    return question


def _image_and_question(record: files.FileRecord) -> tuple[str, str]:
    return record.text("image_id"), record.text("question").lower()


def _answers(record: files.FileRecord, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 10 or not all(isinstance(text, str) for text in value):
        raise record.error("'answers' must be a list of ten texts")
    return tuple(value)


def _llava_prompts(path: Path) -> dict[tuple[str, str], str]:
    prompts = {}
    for raw in files.read_jsonl(path):
        record = raw.with_id("question_id")
        question = question_in(record.text("text"))
        if question is None:
            raise record.error("'text' is not a LLaVA prompt of two or three lines")
        prompts[record.id, question] = record.text("text")
    return prompts


def _core(text: str) -> str:
    line = text.strip().split("\n", maxsplit=1)[0].strip().rstrip(".")
    prefix = "the answer is "
    return line[len(prefix) :] if line.lower().startswith(prefix) else line
