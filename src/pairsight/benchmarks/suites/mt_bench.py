"""MT-Bench: 80 dialogues of two questions, each answer graded from 1 to 10 by a judge; with a random image on request.

Source: L. Zheng et al. (2306.05685); the rule is that of FastChat's `gen_judgment.py` in its mode "single" and
`show_result.py`: the score is the first [[number]] of the verdict, else the first [number]; verdicts without one are
left out; the figure is the mean over both turns. Images: Li et al. (2402.10884), Table 7, where an image that has
nothing to do with the question is in the context.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.files.random_images import RandomImages
from pairsight.benchmarks.files.scripts import filled
from pairsight.benchmarks.judged import JudgedBenchmark
from pairsight.benchmarks.metrics import mean
from pairsight.benchmarks.protocol import JudgeQuestion, JudgeVerdict, Reading, Sample, SampleImages, Verdicts

_TURNS = 2
_WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
_TEMPERATURES = MappingProxyType({"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1})
"""Categories whose answers are drawn warmer than greedily, as FastChat does."""
_SCORE = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


class MtBench(JudgedBenchmark):
    """MT-Bench from FastChat's folder `mt_bench`: `question.jsonl`, `reference_answer/gpt-4.jsonl`, and the judge's
    prompts, `judge_prompts.jsonl`, in it or above it.

    A sample is a turn, called `ID:1` or `ID:2`. Answers are FastChat's (`{question_id, choices: [{turns}]}`), verdicts
    its `gpt-4_single.jsonl`.
    """

    judge_prompts: str | None = Field(None, description="judge_prompts.jsonl; default: in the folder, or above it")
    reference: str | None = Field(None, description="the reference answers; default: reference_answer/gpt-4.jsonl")
    random_images: str | None = Field(
        None,
        description="a folder of images: each turn shows one of them, drawn by image_seed",
    )
    image_seed: int = Field(0, ge=0, description="which of random_images are drawn")

    name = "mt_bench"
    title = "MT-Bench"
    published = "its authors publish it at github.com/lm-sys/FastChat (fastchat/llm_judge/data)"
    original_judge = "gpt-4"
    agreement_column = "score"
    columns = ("first", "first_items", "second", "second_items", "score", "items")
    metrics: ClassVar = {
        "score": mean("score", "items"),
        "turn_1": mean("first", "first_items"),
        "turn_2": mean("second", "second_items"),
    }
    max_new_tokens = 1024

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group of two turns per question.

        Raises:
            DataError: a missing file, a record that lacks a field, or a question without its reference or prompt.
        """
        folder = path if path.is_dir() else path.parent
        prompts = self._prompts(folder)
        references = self._references(folder)
        drawn = None if self.random_images is None else RandomImages(Path(self.random_images), self.image_seed)
        for raw in files.read_jsonl(folder / "question.jsonl" if path.is_dir() else path):
            record = raw.with_id("question_id")
            turns, category = record.texts("turns"), record.text("category")
            if len(turns) != _TURNS:
                raise record.error(f"'turns' must be two questions, found {len(turns)}")
            reference: tuple[str, ...] = ()
            if category in _WITH_REFERENCE:
                if record.id not in references:
                    raise record.error("there is no reference answer to it", reason="missing_reference")
                reference = references[record.id]
            kind = "single-math-v1" if reference else "single-v1"
            kinds = (kind, f"{kind}-multi-turn")
            shown = [()] * _TURNS if drawn is None else [(ref,) for ref in drawn.refs(record, images, _TURNS)]
            group: list[Sample] = []
            for number, (turn, kind) in enumerate(zip(turns, kinds, strict=True), start=1):
                if kind not in prompts:
                    raise record.error(f"judge_prompts.jsonl has no '{kind}'", reason="missing_prompt")
                target = {
                    "category": category, "turn": number, "turns": turns, "reference": reference, "kind": kind,
                    "judge_prompt": prompts[kind],
                }  # fmt: skip
                name, seen = f"{record.id}:{number}", shown[number - 1]
                sample = self.sample(name, turn, seen, cluster=record.id, target=target)
                warmth, before = _TEMPERATURES.get(category), group[-1].id if group else ""
                group.append(replace(sample, follows=before, temperature=warmth))
            yield tuple(group)

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """The prompt of the turn, with the dialogue so far and the reference where the category has one."""
        for sample in group:
            if sample.id in verdicts:
                continue
            target, prompt = sample.target, sample.target["judge_prompt"]
            named = {f"question_{n}": text for n, text in enumerate(target["turns"], start=1)}
            named |= {f"answer_{n}": text for n, text in enumerate(answers, start=1)}
            named |= {f"ref_answer_{n}": text for n, text in enumerate(target["reference"], start=1)}
            named |= {"question": target["turns"][0], "answer": answers[0]}
            told = filled(prompt.template, **named)
            yield self.question(sample, ("system", prompt.system), ("user", told), max_new_tokens=2048)

    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """The score; a verdict without one is left out, as in the authors' figures."""
        score = score_of(verdicts[-1].text or "")
        if score is None:
            return self.unjudged()
        first = sample.target["turn"] == 1
        sums = (score, 1.0, 0.0, 0.0, score, 1.0) if first else (0.0, 0.0, score, 1.0, score, 1.0)
        return Reading(score, None, True, sums, (sample.target["category"],))

    def group_sums(
        self, group: tuple[Sample, ...], readings: Sequence[Reading]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Both turns' sums together."""
        sums = tuple(sum(column) for column in zip(*(reading.sums or () for reading in readings), strict=True))
        return sums, (group[0].target["category"],)

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read FastChat's answers; of several choices the first counts, as in its figures."""
        return self.joined(_turns(files.read_jsonl(answers)), answers, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write FastChat's answers, of the dialogues that are complete."""
        rows = []
        for group in groups:
            if all(sample.id in answers for sample in group):
                choice = {"index": 0, "turns": [answers[sample.id] for sample in group]}
                name = group[0].cluster
                rows.append({"question_id": _number(name), "answer_id": name, "model_id": "model", "choices": [choice]})
        return [answer_files.write_jsonl(folder / "answers.jsonl", rows)]

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """Read FastChat's verdicts, `{question_id, turn, judgment, judge: [model, prompt]}` a line."""
        texts, judges = [], set[str]()
        for raw in files.read_jsonl(file):
            record = raw.with_id("question_id")
            judges |= {str(one) for one in _listed(record.values.get("judge"))[:1]}
            record.id = f"{record.id}:{record.number('turn')}"
            texts.append((record, record.text("judgment", empty=True)))
        said = self.joined(texts, file, groups)
        return {sample_id: (JudgeVerdict(text),) for sample_id, text in said.items()}, ", ".join(sorted(judges))

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write FastChat's verdicts."""
        rows = []
        for sample in (sample for group in groups for sample in group):
            given = self.verdicts().get(sample.id, ())
            if given and given[-1].text is not None:
                score = score_of(given[-1].text)
                judge = [self.judge, sample.target["kind"]]
                rows.append({
                    "question_id": _number(sample.cluster), "model": model, "judge": judge,
                    "user_prompt": given[-1].asked, "judgment": given[-1].text, "score": -1 if score is None else score,
                    "turn": sample.target["turn"],
                })  # fmt: skip
        return [answer_files.write_jsonl(folder / f"{self.judge.replace('/', '_')}_single.jsonl", rows)]

    def _prompts(self, folder: Path) -> dict[str, "JudgePrompt"]:
        usual = [folder / "judge_prompts.jsonl", folder.parent / "judge_prompts.jsonl"]
        file = (
            Path(self.judge_prompts) if self.judge_prompts else next((one for one in usual if one.is_file()), usual[0])
        )
        found = {}
        for raw in files.read_jsonl(file):
            record = raw.with_id("name")
            found[record.id] = JudgePrompt(record.text("system_prompt", empty=True), record.text("prompt_template"))
        return found

    def _references(self, folder: Path) -> dict[str, tuple[str, ...]]:
        file = Path(self.reference) if self.reference else folder / "reference_answer" / "gpt-4.jsonl"
        found: dict[str, tuple[str, ...]] = {}
        for record, text in _turns(files.read_jsonl(file)):
            name = record.id.rpartition(":")[0]
            found[name] = (*found.get(name, ()), text)
        return found


class JudgePrompt(NamedTuple):
    """An entry of `judge_prompts.jsonl`: the system message, and the template of the user's."""

    system: str
    template: str


def score_of(text: str) -> float | None:
    """The first [[number]] of a verdict, else the first [number]; None without one."""
    found = next((match for pattern in _SCORE if (match := pattern.search(text))), None)
    return None if found is None else float(found[1])


def _turns(records: Iterator[files.FileRecord]) -> Iterator[tuple[files.FileRecord, str]]:
    """Each turn of FastChat's answers, with `ID:TURN` as id."""
    for raw in records:
        record = raw.with_id("question_id")
        choices = record.values.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        turns = first.get("turns") if isinstance(first, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise record.error("no choices[0].turns with the answers")
        for number, text in enumerate(turns, start=1):
            yield replace(record, id=f"{record.id}:{number}"), text


def _number(name: str) -> int | str:
    """FastChat's ids are numbers."""
    return int(name) if name.isdecimal() else name


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
