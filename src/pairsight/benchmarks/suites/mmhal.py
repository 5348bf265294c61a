"""MMHal-Bench: 96 questions about photographs, rated from 0 to 6 by a judge that knows what is in the image.

Source: Z. Sun et al. (2309.14525); the rule is that of `eval_gpt4.py` (github.com/llava-rlhf/LLaVA-RLHF): the score is
the only s from 0 to 6 for which the verdict holds "rating: s" in any case, else 0; below 3 the answer hallucinates.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files.official import FileRecord
from pairsight.benchmarks.files.scripts import filled
from pairsight.benchmarks.judged import JudgedBenchmark
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import JudgeQuestion, JudgeVerdict, Reading, Sample, SampleImages, Verdicts

_NUM_TYPES = 8
_HALLUCINATES_BELOW = 3
OWN_TEMPLATE = """What is in an image: {}.

Question: {}

A correct answer: {}

An assistant's answer: {}

Say whether the assistant's answer names or claims anything that is not in the image, then rate it: 6 is informative \
and without such claims, 3 is without such claims but hardly informative, 2 is informative with such claims, 0 is \
neither. Numbers between these are allowed. End with a line "Rating: N", N a whole number from 0 to 6."""


class MMHal(JudgedBenchmark):
    """MMHal-Bench from `response_template.json` (a list of `{image_content, question, gt_answer, model_answer, ...}`).

    The judge's prompt is the text `template` of the authors' script, which is never run. Images are called as
    `image_src` ends, or `image_id` with an extension. Ids are positions in the file, from 0; answers are the same file
    with `model_answer` filled in, and verdicts the script's list of raw responses.
    """

    script: str | None = Field(None, description="eval_gpt4.py; default: in the benchmark's folder")

    name = "mmhal"
    title = "MMHal-Bench"
    published = (
        "its authors publish response_template.json and images at huggingface.co/datasets/Shengcao1006/MMHal-Bench"
    )
    original_judge = "gpt-4-0314"
    columns = ("score", "hallucinating", "items")
    metrics: ClassVar = {"score": mean("score", "items"), "hallucination": mean("hallucinating", "items", "lower")}
    max_new_tokens = 1024
    text_fields = ("model_answer", "text", "answer")

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question; the id is its position.

        Raises:
            DataError: a missing file, or a record that lacks a field.
        """
        file = path / "response_template.json" if path.is_dir() else path
        usual = file.parent / "eval_gpt4.py"
        template = self.wording(self.script, usual, "template", OWN_TEMPLATE)
        for number, record in enumerate(self.records(file, self.document(file))):
            record.id = str(number)
            names = _image_names(record)
            if not names:
                raise record.error("no 'image_src' or 'image_id' that names the image")
            target = {
                "content": ", ".join(record.texts("image_content")),
                "truth": record.text("gt_answer"),
                "type": str(record.values.get("question_type") or number % _NUM_TYPES),
                "template": template,
                "record": {name: value for name, value in record.values.items() if name != "model_answer"},
            }
            image = record.image_called(images, *names)
            yield (self.sample(record.id, record.text("question"), [image], cluster=names[0], target=target),)

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """The authors' template with what is in the image, the question, the true answer and the answer."""
        (sample,), (answer,) = group, answers
        if sample.id not in verdicts:
            parts = (sample.target["content"], sample.prompt.question, sample.target["truth"], answer)
            yield self.question(sample, ("user", filled(sample.target["template"], *parts)))

    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """The rating; without exactly one, 0 (official) or left out (robust)."""
        rating = rating_of(verdicts[-1].text or "")
        if rating is None and not official:
            return self.unjudged()
        score = rating or 0
        category = (f"type: {sample.target['type']}",)
        hallucinates = float(score < _HALLUCINATES_BELOW)
        return Reading(rating, 1 - hallucinates, rating is not None, (score, hallucinates, 1.0), category)

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read records with ids, or the official list with `model_answer` filled in, in the order of the questions."""
        records = list(answer_files.json_records(answers))
        if records and "question" in records[0].values and not set(self.id_fields) & set(records[0].values):
            self._check_order(records, groups, answers)
            for (sample,), record in zip(groups, records, strict=True):
                record.id = sample.id
            return self.joined(((r, answer_files.answer_text(r, self.text_fields)) for r in records), answers, groups)
        return super().read_answers(answers, path, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write the official list with `model_answer` filled in; it is empty where there is no answer."""
        rows = [{**sample.target["record"], "model_answer": answers.get(sample.id, "")} for (sample,) in groups]
        return [answer_files.write_json(folder / "responses.json", rows)]

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """Read the script's list of raw responses, in the order of the questions.

        Raises:
            DataError: another number of responses than questions, or one without a text.
        """
        records = list(answer_files.json_records(file))
        if len(records) != len(groups):
            raise self.file_error(f"{file} has {len(records)} verdicts on {len(groups)} questions")
        said = {s.id: (JudgeVerdict(_content(r)),) for r, (s,) in zip(records, groups, strict=True)}
        return said, ", ".join(sorted({str(r.values["model"]) for r in records if "model" in r.values}))

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write the script's list of raw responses; a question without verdict has an empty one."""
        responses = []
        for (sample,) in groups:
            texts = [verdict.text for verdict in self.verdicts().get(sample.id, ()) if verdict.text is not None]
            message = {"role": "assistant", "content": texts[-1] if texts else ""}
            responses.append({"model": self.judge, "choices": [{"index": 0, "message": message}]})
        return [answer_files.write_json(folder / "eval.json", responses)]

    def _check_order(self, records: Sequence[FileRecord], groups: Sequence[tuple[Sample, ...]], file: Path) -> None:
        """DataError where the records are not of these questions in this order."""
        if len(records) != len(groups):
            raise self.file_error(f"{file} answers {len(records)} questions of {len(groups)}")
        for record, (sample,) in zip(records, groups, strict=True):
            if record.text("question") != sample.prompt.question:
                raise record.error(
                    f"another question than the benchmark's number {sample.id}: {sample.prompt.question}"
                )


def rating_of(text: str) -> int | None:
    """The only s from 0 to 6 for which the text holds "rating: s"; None for none or several."""
    found = [s for s in range(7) if f"rating: {s}" in text.lower()]
    return found[0] if len(found) == 1 else None


def _content(record: FileRecord) -> str:
    """The text of a raw response of OpenAI's interface."""
    try:
        return str(record.values["choices"][0]["message"]["content"])  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        raise record.error("no choices[0].message.content, as a raw response has") from None


def _image_names(record: FileRecord) -> list[str]:
    """What the image may be called: as its address ends, or by its id."""
    address, number = record.values.get("image_src"), record.values.get("image_id")
    names = [address.rpartition("/")[2]] if isinstance(address, str) and address else []
    return [*names, *(f"{number}{end}" for end in (".jpg", ".png") if isinstance(number, str) and number)]
