"""One model's answers to all benchmarks: questions of equal sampling in one pass, later turns after earlier ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pairsight.benchmarks.likelihood import OptionRequest, RankOptions
from pairsight.benchmarks.protocol import Sample
from pairsight.benchmarks.scoring import Answer
from pairsight.benchmarks.tasks import LoadedTask
from pairsight.engine.runner import Runner
from pairsight.engine.stage import Stage
from pairsight.errors import DataError
from pairsight.models.protocols import Generator, Sampling
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Completion, CompletionRequest, ItemError, Message, Prompt
from pairsight.seeds import derived_seed


def answer_all(
    loaded: Sequence[LoadedTask],
    generator: Generator,
    runner: Runner,
    seed: int,
) -> list[list[tuple[Answer, ...]]]:
    """For each benchmark and group, one answer per sample.

    Benchmarks with equal sampling share one pass, as do those that rank options. A sample that follows another one of
    its group (a second turn) is asked once that one is answered.

    Args:
        loaded: the benchmarks.
        generator: the model that answers.
        runner: runs the stages and keeps their results.
        seed: the seed from which each sampled answer's seed is derived. Greedy answers have no seed, so that the same
            question about the same image is answered only once.
    """
    found: list[dict[str, Answer]] = [{} for _ in loaded]
    waiting = [one for item, answers in zip(loaded, found, strict=True) for one in _asked(item, answers)]
    # All stages are created first: one that the model cannot run is refused before anything is answered.
    stages = {kind: stage_of(generator, kind) for kind in dict.fromkeys(one.kind for one in waiting)}
    while waiting:
        turn = [one for one in waiting if not one.sample.follows or one.sample.follows in one.answers]
        if not turn:
            raise _without_turn(waiting[0])
        for one in turn:
            if why := one.refused():
                one.answers[one.sample.id] = Answer(None, error=why)
        for kind, stage in stages.items():
            ready = [one for one in turn if one.kind == kind and one.sample.id not in one.answers]
            if ready:
                results = runner(stage, [_request(one, seed) for one in ready])
                for one, result in zip(ready, results, strict=True):
                    one.answers[one.sample.id] = _answer(result)
        waiting = [one for one in waiting if one.sample.id not in one.answers]
    return [
        [tuple(answers[sample.id] for sample in group) for group in item.groups]
        for item, answers in zip(loaded, found, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sample, how it is answered (None: options are ranked), and the answers to its benchmark so far."""

    item: LoadedTask
    group: tuple[Sample, ...]
    sample: Sample
    kind: Sampling | None
    answers: dict[str, Answer]

    def refused(self) -> str:
        """Why it cannot be asked; "" if it can."""
        before = self.answers.get(self.sample.follows)
        if before is not None and before.text is None:
            return f"the turn before it ({self.sample.follows}) has no answer"
        return self.item.errors.get(self.sample.id, "")

    def below_earlier_turns(self, sample: Sample) -> Prompt:
        """A sample's prompt below the turns that it follows."""
        prompt = self.item.task.with_suffix(sample.prompt)
        if not sample.follows:
            return prompt
        earlier = next(one for one in self.group if one.id == sample.follows)
        said = Message("assistant", self.answers[earlier.id].text or "")
        return replace(prompt, messages=(*self.below_earlier_turns(earlier).messages, said, *prompt.messages))


def _asked(item: LoadedTask, answers: dict[str, Answer]) -> Iterator[_Asked]:
    kinds: dict[float | None, Sampling | None] = {}
    for group in item.groups:
        for sample in group:
            if sample.temperature not in kinds:
                kinds[sample.temperature] = item.task.answered_by(sample)
            yield _Asked(item, group, sample, kinds[sample.temperature], answers)


def _without_turn(one: _Asked) -> DataError:
    name, follows = one.item.task.name, one.sample.follows
    return DataError(f"benchmark {name}: sample {one.sample.id} follows '{follows}', which is not there")


def _request(asked: _Asked, seed: int) -> CompletionRequest | OptionRequest:
    item, sample = asked.item, asked.sample
    prompt = asked.below_earlier_turns(sample)
    if asked.kind is None:
        return OptionRequest(prompt, sample.target["options"])
    sample_seed = 0 if asked.kind.temperature == 0 else derived_seed(seed, item.task.name, sample.id)
    return CompletionRequest(prompt, seed=sample_seed)


def _answer(result: Completion | ItemError) -> Answer:
    if isinstance(result, ItemError):
        return Answer(None, error=f"{result.reason}: {result.detail}" if result.detail else result.reason)
    return Answer(result.text, result.finish_reason)


def stage_of(generator: Generator, sampling: Sampling | None, name: str = "generate") -> Stage[Any, Completion]:
    """The stage that generates answers or, if `sampling` is None, ranks options."""
    if sampling is None:
        return RankOptions.of(generator)
    return GenerateCompletions(generator=generator, sampling=sampling, batch_size=4 * generator.batch_size, name=name)
