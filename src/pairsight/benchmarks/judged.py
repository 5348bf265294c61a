"""The base class of benchmarks that a judge scores: what the judge is asked, and how its verdicts are read."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import PrivateAttr

from pairsight.benchmarks.files.scripts import plain_text, script_text
from pairsight.benchmarks.protocol import Benchmark, JudgeQuestion, JudgeVerdict, Reading, Role, Sample, Verdicts
from pairsight.benchmarks.published import Scalar
from pairsight.models.protocols import Sampling
from pairsight.records import IMAGE_MARK, Message, Prompt
from pairsight.statistics import kappa, pearson


class JudgedBenchmark(Benchmark):
    """A benchmark that a judge scores.

    The judge is asked in rounds: `ask` gets the verdicts so far and says what to ask next, until it asks nothing more.
    A subclass says what is asked, how the verdicts of a sample are read (`read_verdicts`), and, where the authors keep
    a file of verdicts, how it is written and read again.

    A judge that fails (an endpoint's error) leaves the sample out of both parsers' figures; one whose words cannot be
    read counts in `official` as in the original script and is left out of `robust`. Both are counted.
    """

    agreement_column: ClassVar[str] = ""
    """The column in which two judges are compared; "": the first."""

    _verdicts: Verdicts = PrivateAttr(default_factory=dict)
    _judge: str = PrivateAttr("")
    _agreement: Mapping[str, Scalar] = PrivateAttr(default_factory=dict)
    _texts: dict[Path, str] = PrivateAttr(default_factory=dict)
    _own: set[str] = PrivateAttr(default_factory=set)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What is not the authors': the judge, whose figures then are not comparable to published ones, or wording."""
        judge = f"judged by {self._judge}, the authors' judge is {self.original_judge}: not comparable to published"
        return (*([] if self.judge in ("", self.original_judge) else [judge]), *sorted(self._own))

    def wording(self, given: str | None, usual: Path, name: str, own: str) -> str:
        """What a judge is told: in the authors' words where their file is at hand, else in ours, as `fallbacks` says.

        Args:
            given: the file that an option names.
            usual: where it is otherwise looked for.
            name: the variable of the script that has the wording; "": the file is the wording.
            own: our wording.

        Raises:
            DataError: the file does not hold it.
        """
        file = usual if given is None else Path(given)
        if file not in self._texts:
            if given is None and not file.is_file():
                self._own.add(f"what the judge is told is ours: there is no {file.name}")
                return own
            self._texts[file] = script_text(file, name) if name else plain_text(file)
        return self._texts[file]

    @property
    def judge(self) -> str:
        """The judge's own name: `gpt-4-0613` of `endpoint:gpt-4-0613@https://…`; "" before it was asked."""
        return self._judge.removeprefix("endpoint:").partition("@http")[0]

    @abstractmethod
    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """Score one answer by what the judge said of it."""

    def question(
        self,
        sample: Sample,
        *parts: tuple[Role, str],
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        run: int = 0,
    ) -> JudgeQuestion:
        """A question to the judge; marks of images in its texts, which an answer may have, become "[image]".

        Args:
            sample: the sample that it is about.
            parts: the messages as role and text; empty ones are left out.
            temperature: how warm the judge answers.
            max_new_tokens: its longest verdict.
            run: which grading it belongs to.
        """
        messages = [Message(role, text.replace(IMAGE_MARK, "[image]")) for role, text in parts if text]
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
        return JudgeQuestion(sample.id, Prompt(sample.id, tuple(messages), source="judge"), sampling, run)

    def graded(self, verdicts: Verdicts, judge: str) -> Self:
        """This benchmark with the verdicts on one model's answers, ready to `score` them.

        Args:
            verdicts: what the judge said.
            judge: its name.
        """
        copy = self.model_copy()
        copy._verdicts, copy._judge = verdicts, judge
        return copy

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Score one answer by the verdicts that this benchmark was graded with."""
        verdicts = self._verdicts.get(sample.id, ())
        if not any(verdict.text is not None for verdict in verdicts):
            return self.unjudged()
        return self.read_verdicts(sample, answer, verdicts, official=official)

    def unjudged(self, prediction: object = None) -> Reading:
        """The reading of an answer that counts for nothing: the judge failed, or `robust` cannot read it."""
        return Reading(prediction, None, False, (0.0,) * len(self.columns))

    def compared(self, other: Self, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> Self:
        """This benchmark, graded, which knows how far another judge agrees: Pearson's r and Cohen's κ with weights
        (x − y)², over the groups that both judged and whose verdicts can be read.

        Args:
            other: the same benchmark with the other judge's verdicts on the same answers.
            groups: the samples.
            answers: sample id -> answer text.
        """
        column = self.columns.index(self.agreement_column or self.columns[0])
        rows: list[tuple[float, float]] = []
        for group in groups:
            texts = [answers[sample.id] for sample in group if sample.id in answers]
            if len(texts) == len(group) and not self.failures(group) and not other.failures(group):
                scored = [judged.score(group, texts, "robust") for judged in (self, other)]
                if not any(one.num_unparsed for one in scored):
                    rows.append((scored[0].sums[column], scored[1].sums[column]))
        mine, others = [one for one, _ in rows], [another for _, another in rows]
        copy = self.model_copy()
        copy._agreement = {
            "second_judge": other._judge,
            "agreement_items": len(rows),
            "agreement_pearson": _finite(pearson(mine, others)) if rows else None,
            "agreement_kappa": _finite(kappa(mine, others, "quadratic")) if rows else None,
        }
        return copy

    def facts(self) -> Mapping[str, Scalar]:
        """The judge, how many verdicts it gave, and how far another one agrees."""
        if not self._judge:
            return {}
        given = [verdict for verdicts in self._verdicts.values() for verdict in verdicts]
        failed = sum(verdict.text is None for verdict in given)
        return {"judge": self._judge, "verdicts": len(given), "judge_failed": failed, **self._agreement}

    def failures(self, group: tuple[Sample, ...]) -> Mapping[str, str]:
        """Why the judge said nothing, for the samples of a group of which it said nothing at all."""
        if not self._judge:
            return {}
        found = {}
        for sample in group:
            verdicts = self._verdicts.get(sample.id, ())
            if not texts_of(verdicts):
                found[sample.id] = f"the judge failed: {verdicts[-1].error if verdicts else 'no verdict'}"
        return found

    def verdicts(self) -> Verdicts:
        """What a judge said of the answers that this benchmark is scoring."""
        return self._verdicts


def texts_of(verdicts: Sequence[JudgeVerdict]) -> list[str]:
    """The texts of the verdicts that have one."""
    return [verdict.text for verdict in verdicts if verdict.text is not None]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
