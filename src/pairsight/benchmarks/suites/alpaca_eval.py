"""AlpacaEval 1: 805 instructions without images, each answer compared by a judge with a given baseline's output.

Source: X. Li et al., the `alpaca-eval` package (0.6.6, its annotator `alpaca_eval_gpt4`): which output is shown first
is drawn from the instruction; the verdict is a list of ranks; equal outputs are ties that nobody is asked about; what
has no rank is left out; the win rate is the mean of 1, ½ and 0 for a win, a tie and a loss.
"""

import ast
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.files.scripts import filled
from pairsight.benchmarks.judged import JudgedBenchmark
from pairsight.benchmarks.metrics import rate
from pairsight.benchmarks.protocol import JudgeQuestion, JudgeVerdict, Reading, Role, Sample, SampleImages, Verdicts

_START, _END = "<|im_start|>", "<|im_end|>"
OWN_PROMPT = f"""{_START}system
You compare two answers to an instruction.
{_END}
{_START}user
The instruction:
{{instruction}}

The answer of model_1:
{{output_1}}

The answer of model_2:
{{output_2}}

Which answer would most people prefer? Write a Python list and nothing else, rank 1 for the better one:
[{{{{'model': 'model_1', 'rank': 1 or 2}}}}, {{{{'model': 'model_2', 'rank': 1 or 2}}}}]
{_END}"""


class AlpacaEval(JudgedBenchmark):
    """AlpacaEval 1 from the baseline's outputs, e.g. `text_davinci_003_outputs.json`
    (a list of `{instruction, output, generator, dataset}`).

    The judge's prompt is the package's `alpaca_eval.txt`. Ids are positions in the file, from 0; answers are a list of
    the same form, found by their instructions, and verdicts the package's `annotations.json`. Categories are datasets.
    """

    prompt: str | None = Field(None, description="alpaca_eval.txt of alpaca_eval_gpt4; default: beside the outputs")
    order_seed: int = Field(0, description="with the instruction, which output is shown first; the package's is 0")

    name = "alpaca_eval"
    title = "AlpacaEval"
    published = "its authors publish baselines' outputs at huggingface.co/datasets/tatsu-lab/alpaca_eval"
    original_judge = "gpt-4"
    columns = ("wins", "shown_first_wins", "decided", "items")
    metrics: ClassVar = {
        "win_rate": rate("wins", "items", "higher"),
        "shown_first": rate("shown_first_wins", "decided", "neither"),
    }
    max_new_tokens = 2048

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per instruction.

        Raises:
            DataError: a missing file, a record that lacks a field, or a duplicate instruction.
        """
        template = self._template(path)
        seen: dict[str, int] = {}
        for number, record in enumerate(self.records(path, self.document(path))):
            record.id, instruction = str(number), record.text("instruction")
            if seen.setdefault(instruction, number) != number:
                raise record.error(f"the same instruction as id {seen[instruction]}", reason="duplicate_id")
            target = {
                "baseline": record.text("output", empty=True),
                "generator": str(record.values.get("generator", "baseline")),
                "dataset": str(record.values.get("dataset", "")),
                "template": template,
            }
            yield (self.sample(record.id, instruction, [], cluster=record.id, target=target),)

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """The package's prompt with both outputs, in the drawn order; nothing for equal outputs."""
        (sample,), (answer,) = group, answers
        if sample.id in verdicts or answer == sample.target["baseline"]:
            return
        first, second = sample.target["baseline"], answer
        if self.is_switched(sample):
            first, second = second, first
        named = {"instruction": sample.prompt.messages[-1].text, "output_1": first, "output_2": second}
        yield self.question(sample, *messages_of(sample.target["template"], named), max_new_tokens=100)

    def failures(self, group: tuple[Sample, ...]) -> Mapping[str, str]:
        """As of any judge; nobody is asked about equal outputs."""
        found = super().failures(group)
        return {name: why for name, why in found.items() if name in self.verdicts()}

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 for a win, ½ for equal outputs, 0 for a loss."""
        if answer == sample.target["baseline"]:
            return Reading("tie", 0.5, True, (0.5, 0.0, 0.0, 1.0), self._categories(sample))
        return super().read(sample, answer, official=official)

    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """The rank of the output that is shown first; a verdict without one is left out, as in the package."""
        rank = rank_of(verdicts[-1].text or "")
        if rank is None:
            return self.unjudged()
        won = (rank == 1) == self.is_switched(sample)
        sums = (float(won), float(rank == 1), 1.0, 1.0)
        return Reading("win" if won else "loss", float(won), True, sums, self._categories(sample))

    def is_switched(self, sample: Sample) -> bool:
        """Whether the model's output is shown first: drawn as the package draws it."""
        text = f"is_switched_outputs{sample.prompt.messages[-1].text}{self.order_seed}"
        return random.Random(text).choices([False, True], k=1)[0]

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read the package's list of outputs, found by their instructions."""
        return self.joined(self._by_instruction(answers, groups, "output"), answers, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write the package's list of outputs."""
        rows = [
            {"dataset": s.target["dataset"], "instruction": s.prompt.messages[-1].text, "output": answers[s.id],
             "generator": "model"}
            for (s,) in groups
            if s.id in answers
        ]  # fmt: skip
        return [answer_files.write_json(folder / "outputs.json", rows)]

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """Read the package's annotations; those without a raw verdict are left out."""
        texts = dict(self.joined(self._by_instruction(file, groups, "raw_completion"), file, groups))
        return {sample_id: (JudgeVerdict(text),) for sample_id, text in texts.items() if text}, ""

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write the package's annotations: preference 1 for the baseline, 2 for the model, 1.5 for a tie."""
        rows = []
        for (sample,) in groups:
            if sample.id not in answers:
                continue
            reading = self.read(sample, answers[sample.id], official=True)
            given = self.verdicts().get(sample.id, ())
            rows.append({
                "instruction": sample.prompt.messages[-1].text, "output_1": sample.target["baseline"],
                "generator_1": sample.target["generator"], "output_2": answers[sample.id], "generator_2": model,
                "annotator": "alpaca_eval_gpt4", "raw_completion": given[-1].text if given else None,
                "preference": None if reading.correct is None else 1 + reading.correct,
            })  # fmt: skip
        return [answer_files.write_json(folder / "annotations.json", rows)]

    def _template(self, path: Path) -> str:
        return self.wording(self.prompt, path.parent / "alpaca_eval.txt", "", OWN_PROMPT)

    def _by_instruction(
        self, file: Path, groups: Sequence[tuple[Sample, ...]], field: str
    ) -> Iterator[tuple[files.FileRecord, str]]:
        known = {sample.prompt.messages[-1].text: sample.id for (sample,) in groups}
        for record in self.records(file, self.document(file)):
            record.id = known.get(record.text("instruction"), record.text("instruction"))
            yield record, "" if record.values.get(field) is None else record.text(field, empty=True)

    @staticmethod
    def _categories(sample: Sample) -> tuple[str, ...]:
        return (f"dataset: {sample.target['dataset']}",) if sample.target["dataset"] else ()


def rank_of(text: str) -> int | None:
    """The rank, 1 or 2, of model_1 in a Python list of `{model, rank}`, read as a literal; None without one."""
    try:
        ranks = [one["rank"] for one in ast.literal_eval(text) if one["model"] == "model_1"]
        return ranks[0] if ranks[0] in (1, 2) else None
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, RecursionError, MemoryError):
        return None


def messages_of(template: str, named: Mapping[str, str]) -> list[tuple[Role, str]]:
    """The messages of a prompt in ChatML as role and text, its places filled."""
    found: list[tuple[Role, str]] = []
    for part in template.strip().split(_START)[1:]:
        role, _, text = part.partition("\n")
        content = filled(text.split(_END, 1)[0].strip(), **named)
        found.append(("system" if role.strip() == "system" else "user", content))
    return found
