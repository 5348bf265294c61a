"""LLaVA-Bench (in the wild): 60 questions, each answer compared by a judge with GPT-4's, both scored from 1 to 10.

Source: H. Liu et al. (2304.08485); the rule is that of `eval_gpt_review_bench.py` and `summarize_gpt_review.py`
(github.com/haotian-liu/LLaVA): the verdict's first line holds exactly two numbers, the reference's and the model's
score, else both are −1, which the script averages in.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.judged import JudgedBenchmark
from pairsight.benchmarks.metrics import rate
from pairsight.benchmarks.protocol import JudgeQuestion, JudgeVerdict, Reading, Sample, SampleImages, Verdicts

_SYSTEM = "You check how good answers are, helpfully and precisely."


class LlavaBench(JudgedBenchmark):
    """LLaVA-Bench from its folder: `questions.jsonl`, `context.jsonl`, `answers_gpt4.jsonl`, `rule.json`, `images/`.

    `score` is the model's mean over the reference's. What the judge is told is in `rule.json`; the authors' script says
    one sentence more (the system message), which is ours unless an option gives it. Categories are conv, detail and
    complex.
    """

    system: str | None = Field(None, description="the judge's system message, as the authors' script has it")

    name = "llava_bench"
    title = "LLaVA-Bench (in the wild)"
    published = "its authors publish it at huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
    original_judge = "gpt-4-0314"
    columns = ("model", "reference", "items")
    metrics: ClassVar = {
        "score": rate("model", "reference", "higher"),
        "model_score": rate("model", "items", "higher"),
        "reference_score": rate("reference", "items", "neither"),
    }
    max_new_tokens = 1024

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The judge, and the system message."""
        ours = () if self.system is not None else ("the judge's system message is ours: give the option 'system'",)
        return (*super().fallbacks, *ours)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question.

        Raises:
            DataError: a missing file, a record that lacks a field, or a question without context, reference or rule.
        """
        rules = _rules(self, path / "rule.json")
        contexts = {record.text("image"): _caption(record) for record in files.read_jsonl(path / "context.jsonl")}
        references = {record.id: (record, text) for record, text in self.answer_records(path / "answers_gpt4.jsonl")}
        for raw in files.read_jsonl(path / "questions.jsonl"):
            record = raw.with_id(*self.id_fields)
            image, category = record.text("image"), record.text("category")
            if image not in contexts:
                raise record.error(f"context.jsonl has no image {image}", reason="missing_context")
            if record.id not in references:
                raise record.error("answers_gpt4.jsonl has no answer to it", reason="missing_reference")
            if f"llava_bench_{category}" not in rules:
                raise record.error(f"rule.json has no llava_bench_{category}", reason="missing_rule")
            reference, text = references[record.id]
            target = {
                "category": category,
                "context": contexts[image],
                "reference": text,
                "reference_id": str(reference.values.get("answer_id", record.id)),
                "rule": rules[f"llava_bench_{category}"],
            }
            ref = record.image_called(images, image, f"images/{image}")
            yield (self.sample(record.id, record.text("text"), [ref], cluster=image, target=target),)

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """Context, question, the reference's answer as first, the model's as second, and the rule."""
        (sample,), (answer,) = group, answers
        if sample.id in verdicts:
            return
        target, rule = sample.target, sample.target["rule"]
        blocks = [f"[Context]\n{target['context']}\n\n[Question]\n{sample.prompt.question}\n\n"]
        for number, text in enumerate((target["reference"], answer), start=1):
            blocks.append(f"[{rule.role} {number}]\n{text}\n\n[End of {rule.role} {number}]\n\n")
        blocks.append(f"[System]\n{rule.prompt}\n\n")
        system = _SYSTEM if self.system is None else self.system
        yield self.question(sample, ("system", system), ("user", "".join(blocks)), temperature=0.2)

    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """Both scores; without them (−1, −1) (official) or left out (robust)."""
        scores = two_scores(verdicts[-1].text or "")
        if scores is None and not official:
            return self.unjudged()
        reference, model = scores or (-1.0, -1.0)
        return Reading(scores, None, scores is not None, (model, reference, 1.0), (sample.target["category"],))

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """Read the script's reviews, `{question_id, content, ...}` a line.

        Raises:
            DataError: a question that is unknown, missing or duplicate.
        """
        contents = self.joined(answer_files.answer_records(file, self.id_fields, ("content",)), file, groups)
        return {sample_id: (JudgeVerdict(text),) for sample_id, text in contents.items()}, ""

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write the script's reviews."""
        reviews = []
        for number, (sample,) in enumerate(groups, start=1):
            given = self.verdicts().get(sample.id, ())
            if given and given[-1].text is not None:
                text = given[-1].text
                ids = {"answer1_id": sample.target["reference_id"], "answer2_id": sample.id}
                category = {"category": f"llava_bench_{sample.target['category']}"}
                scores = {"tuple": list(two_scores(text) or (-1, -1))}
                reviews.append({"id": number, "question_id": sample.id, **ids, **category, "content": text, **scores})
        return [answer_files.write_jsonl(folder / "reviews.jsonl", reviews)]


class Rule(NamedTuple):
    """What the judge is told of one category: what the answers are called, and the instruction."""

    role: str
    prompt: str


def two_scores(text: str) -> tuple[float, float] | None:
    """The two numbers of a verdict's first line, commas read as blanks; None for anything else."""
    parts = text.split("\n", maxsplit=1)[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:
        return None
    return first, second


def _rules(benchmark: LlavaBench, file: Path) -> dict[str, Rule]:
    return {
        record.id: Rule(record.text("role"), record.text("prompt"))
        for record in benchmark.named_records(file)
        if "prompt" in record.values
    }


def _caption(record: files.FileRecord) -> str:
    """An image's description; several are lines."""
    caption = record.values.get("caption")
    return record.text("caption") if isinstance(caption, str) else "\n".join(record.texts("caption"))
