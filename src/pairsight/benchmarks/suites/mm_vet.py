"""MM-Vet: open questions that need several capabilities at once, each answer graded from 0 to 1 by a judge.

Source: W. Yu et al. (2308.02490); the rule is that of `mm-vet_evaluator.py` (github.com/yuweihao/MM-Vet): the first
word of the verdict is the score if it is a number from 0 to 1, else the judge is asked again, warmer each time, and an
answer without a score after five verdicts counts 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from pydantic import Field

from pairsight.benchmarks.files import mm_vet_grades as grade_files
from pairsight.benchmarks.files.answers import write_json
from pairsight.benchmarks.judged import JudgedBenchmark
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import JudgeQuestion, JudgeVerdict, Reading, Sample, SampleImages, Verdicts

_VERDICTS = 5
"""How many verdicts on one answer are read."""
_AGAIN = "\nPredict the correctness of the answer (digit): "
OWN_PROMPT = """Grade an answer to a question about an image by the reference answer. Write one number from 0.0 \
(wrong) to 1.0 (right), in steps of 0.1, and nothing else. Where the reference has <AND>, an answer is right only with \
all of its parts; where it has <OR>, with any one of them.

Question | Reference | Answer | Grade
--- | --- | --- | ---
What colour is the car? | red | It is a red car. | 1.0
What is on the table? | cup <AND> book | There is a cup. | 0.5
How many birds are there? | 3 <OR> three | Four. | 0.0
"""


class MmVet(JudgedBenchmark):
    """MM-Vet from its folder, or from `mm-vet.json` in it (`{id: {imagename, question, answer, capability}}`).

    The judge's prompt is read from the authors' script, which is never run. Categories are the capabilities and their
    combinations. Answers are `{id: text}`; verdicts are read from and written to the script's file of grades.
    """

    script: str | None = Field(None, description="mm-vet_evaluator.py; default: in the benchmark's folder")
    runs: int = Field(1, ge=1, le=100, description="how often each answer is graded; the paper's figures are of 5")

    name = "mm_vet"
    title = "MM-Vet"
    published = "its authors publish mm-vet.zip at github.com/yuweihao/MM-Vet"
    original_judge = "gpt-4-0613"
    metrics: ClassVar = {"score": mean("score", "items")}
    max_new_tokens = 512

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per question.

        Raises:
            DataError: a missing file, or a question that lacks a field.
        """
        file = path / "mm-vet.json" if path.is_dir() else path
        usual = file.parent / "mm-vet_evaluator.py"
        instruction = self.wording(self.script, usual, "prompt", OWN_PROMPT)
        for record in self.named_records(file):
            image = record.text("imagename")
            capabilities = tuple(dict.fromkeys(record.texts("capability")))
            if not capabilities:
                raise record.error("'capability' is empty")
            target = {
                "question": record.text("question"),
                "answer": record.text("answer"),
                "capabilities": capabilities,
                "instruction": instruction,
            }
            ref = record.image_called(images, image, f"images/{image}")
            yield (self.sample(record.id, record.text("question"), [ref], cluster=image, target=target),)

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """The next try of each run that has no score yet."""
        (sample,), (answer,) = group, answers
        target = sample.target
        expected = target["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        row = " | ".join([target["question"], expected, answer, ""])
        for run in range(self.runs):
            tried = of_run(verdicts.get(sample.id, ()), run)
            if len(tried) == _VERDICTS or (tried and (tried[-1].text is None or grade(tried[-1].text) is not None)):
                continue
            again = _AGAIN if tried else ""
            text, warmth = f"{target['instruction']}\n{row}{again}", max(0.0, 0.5 * (len(tried) - 1))
            yield self.question(sample, ("user", text), temperature=warmth, max_new_tokens=3, run=run)

    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """The mean of the runs' scores; without a score, a run counts 0 (official) or is left out (robust)."""
        scores = [_score(of_run(verdicts, run)) for run in range(self.runs)]
        known = [score for score in scores if score is not None]
        if not known and not official:
            return self.unjudged(scores)
        score = fmean(s or 0.0 for s in scores) if official else fmean(known)
        capabilities = sample.target["capabilities"]
        names = (*(f"capability: {name}" for name in capabilities), f"combination: {'_'.join(sorted(capabilities))}")
        return Reading(scores, score, len(known) == len(scores), (score, 1.0), names)

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read `{id: text}`, as the authors' script does, or records with ids."""
        if answers.suffix != ".json":
            return super().read_answers(answers, path, groups)
        records = self.named_records(answers, "text")
        return self.joined(((record, record.text("text", empty=True)) for record in records), answers, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write `{id: text}` to `answers.json`."""
        texts = {sample.id: answers[sample.id] for (sample,) in groups if sample.id in answers}
        return [write_json(folder / "answers.json", texts)]

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """Read the script's file of grades: `{id: {model: [], content: [], score: []}}`, a list entry a run."""
        known, judges = {sample.id for (sample,) in groups}, set[str]()
        found = {}
        for record in self.named_records(file):
            if record.id not in known:
                raise record.error("the benchmark has no such id", reason="foreign_id")
            found[record.id] = tuple(JudgeVerdict(text, run=run) for run, text in enumerate(record.texts("content")))
            judges |= set(record.texts("model"))
        return found, ", ".join(sorted(judges))

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write the script's files: the grades, and its figures by capability and by combination of capabilities."""
        judge, said = self.judge, self.verdicts()
        grades = {}
        for (sample,) in groups:
            given = said.get(sample.id, ())
            if sample.id in answers and any(one.text is not None for one in given):
                by_run = [of_run(given, run) for run in range(self.runs)]
                grades[sample.id] = grade_files.Grades(
                    model=[judge] * self.runs,
                    content=[(tried[-1].text or "").split(" ")[0].strip() if tried else "" for tried in by_run],
                    score=[_score(tried) or 0.0 for tried in by_run],
                )
        needed = {sample.id: sample.target["capabilities"] for (sample,) in groups}
        return grade_files.write_grades(folder, f"{model}_{judge.replace('/', '_')}", model, needed, grades)


def of_run(verdicts: Sequence[JudgeVerdict], run: int) -> list[JudgeVerdict]:
    """The verdicts of one grading, in their order."""
    return [verdict for verdict in verdicts if verdict.run == run]


def grade(text: str) -> float | None:
    """The first word of a verdict as a score from 0 to 1; None where it is not one."""
    try:
        score = float(text.split(" ", maxsplit=1)[0].strip())
    except ValueError:
        return None
    return score if 0.0 <= score <= 1.0 else None


def _score(verdicts: Sequence[JudgeVerdict]) -> float | None:
    return next((score for one in verdicts if one.text is not None and (score := grade(one.text)) is not None), None)
