"""A judge at work: what judged benchmarks ask about all models' answers, round by round, every verdict kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.benchmarks.answering import stage_of
from pairsight.benchmarks.protocol import Benchmark, JudgeQuestion, JudgeVerdict, Sample, Verdicts
from pairsight.benchmarks.scoring import Answer
from pairsight.benchmarks.tasks import BenchmarkTask, LoadedTask
from pairsight.engine.runner import Runner
from pairsight.errors import ConfigError
from pairsight.images.source import ImageSource
from pairsight.models.protocols import Generator
from pairsight.records import Completion, CompletionRequest, ItemError
from pairsight.seeds import derived_seed
from pairsight.store.run_folder import RunFolder

if TYPE_CHECKING:
    from pairsight.engine.calls.calls import Caller

Answers = Sequence[Sequence[Sequence[Answer]]]
"""One model's answers: by benchmark, group and sample."""
OpenJudge = Callable[[ImageSource], Generator]
"""images -> the model that judges."""


def check_judge(tasks: Sequence[BenchmarkTask], is_given: bool) -> None:
    """Refuse judged benchmarks without a judge, and a judge that nothing would be asked of.

    Raises:
        ConfigError: the one or the other.
    """
    judged = {task.name: task.benchmark.original_judge for task in tasks if task.benchmark.original_judge}
    if judged and not is_given:
        ((name, original), *_) = judged.items()
        raise ConfigError(
            f"benchmark {name} is scored by a judge: give --judge MODEL, a folder or endpoint:NAME@URL (its authors' "
            f"judge is {original})"
        )
    if is_given and not judged:
        raise ConfigError(f"--judge would do nothing: none of {', '.join(task.name for task in tasks)} has a judge")


def graded(loaded: Sequence[LoadedTask], verdicts: Sequence[Verdicts], judge: str) -> list[Benchmark]:
    """The benchmarks, those with a judge graded by its verdicts on one model's answers."""
    return [item.task.benchmark.graded(said, judge) for item, said in zip(loaded, verdicts, strict=True)]


def judge_all(
    loaded: Sequence[LoadedTask], answers: Mapping[str, Answers], judge: Generator, runner: Runner, seed: int
) -> dict[str, list[Verdicts]]:
    """For each model and benchmark, what the judge said; nothing for benchmarks without a judge.

    Questions of equal sampling share one pass, whatever benchmark and model they are about; equal questions are asked
    once. Groups with a sample that was not answered are not judged.

    Args:
        loaded: the benchmarks.
        answers: every model's answers.
        judge: the model that judges.
        runner: runs the stages and keeps the verdicts.
        seed: the seed from which those of a judge that samples are derived.
    """
    found: dict[str, list[Verdicts]] = {}
    waiting: list[_Judged] = []
    for name, of_model in answers.items():
        found[name] = []
        for item, by_group in zip(loaded, of_model, strict=True):
            verdicts: dict[str, tuple[JudgeVerdict, ...]] = {}
            found[name].append(verdicts)
            if not item.task.benchmark.original_judge:
                continue
            for group, group_answers in zip(item.groups, by_group, strict=True):
                texts = [answer.text for answer in group_answers if answer.text is not None]
                if len(texts) == len(group):
                    waiting.append(_Judged(item.task, group, texts, verdicts))
    while waiting:
        questions = [(one, question) for one in waiting for question in one.next_questions()]
        _ask(questions, judge, runner, seed)
        asked = {id(one) for one, _ in questions}
        waiting = [one for one in waiting if id(one) in asked]
    return found


@dataclass(frozen=True, slots=True)
class Judging:
    """Where a judge's verdicts on answers from elsewhere come from: a file, or the judge.

    Attributes:
        file: the official script's file of verdicts.
        open_judge: opens the judge.
        caller: sends calls to the judge's endpoint, with their limits.
    """

    file: Path | None = None
    open_judge: OpenJudge | None = None
    caller: "Caller | None" = None

    def check(self, task: BenchmarkTask) -> None:
        """ConfigError where the benchmark needs a judge and there is none, or the other way round."""
        if self.file is None:
            check_judge([task], self.open_judge is not None)
        elif not task.benchmark.original_judge:
            raise ConfigError(f"--verdicts would do nothing: {task.name} has no judge")

    def graded(self, item: LoadedTask, answers: Sequence[Sequence[Answer]], folder: Path, seed: int) -> Benchmark:
        """The benchmark with the verdicts on the answers; what a judge is asked is kept in the folder."""
        benchmark = item.task.benchmark
        if self.file is not None:
            found, named = benchmark.read_verdict_file(self.file, item.groups)
            return benchmark.graded(found, named or f"a judge that {self.file} does not name")
        if self.open_judge is None:
            return benchmark
        run = RunFolder.create(folder, {"kind": "judging"})
        with run.lock("evaluate"), run.log(), run.ledger() as ledger:
            judge = self.open_judge(run.blobs)
            said = judge_all([item], {"": [answers]}, judge, Runner(ledger, caller=self.caller), seed)
        return benchmark.graded(said[""][0], judge.fingerprint)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A group of one model's answers, and what the judge has said of them so far."""

    task: BenchmarkTask
    group: tuple[Sample, ...]
    texts: Sequence[str]
    verdicts: dict[str, tuple[JudgeVerdict, ...]] = field(repr=False)

    def next_questions(self) -> list[JudgeQuestion]:
        """What is to be asked next."""
        return list(self.task.benchmark.ask(self.group, self.texts, self.verdicts))


def _ask(questions: Sequence[tuple[_Judged, JudgeQuestion]], judge: Generator, runner: Runner, seed: int) -> None:
    """Ask the judge, and add its verdicts to those that are known."""
    ordered = sorted(questions, key=lambda pair: repr(pair[1].sampling))
    for _, same in groupby(ordered, key=lambda pair: pair[1].sampling):
        pairs = list(same)
        stage = stage_of(judge, pairs[0][1].sampling, "judge")
        results = runner(stage, [_request(one, question, seed) for one, question in pairs])
        for (one, question), result in zip(pairs, results, strict=True):
            before = one.verdicts.get(question.sample_id, ())
            one.verdicts[question.sample_id] = (*before, _verdict(question, result))


def _request(one: _Judged, question: JudgeQuestion, seed: int) -> CompletionRequest:
    if question.sampling.temperature == 0:
        return CompletionRequest(question.prompt, question.run)
    number = str(len(one.verdicts.get(question.sample_id, ())))
    return CompletionRequest(
        question.prompt, question.run, seed=derived_seed(seed, one.task.name, question.sample_id, number)
    )


def _verdict(question: JudgeQuestion, result: Completion | ItemError) -> JudgeVerdict:
    asked = question.prompt.question
    if isinstance(result, ItemError):
        why = f"{result.reason}: {result.detail}" if result.detail else result.reason
        return JudgeVerdict(None, error=why, asked=asked, run=question.run)
    return JudgeVerdict(result.text, result.finish_reason, asked=asked, run=question.run)
