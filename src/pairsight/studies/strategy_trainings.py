"""The trainings for a comparison of strategies: each strategy, setting and learning rate, with its cost."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pairsight.pipeline.align import AlignSpec, align, limited
from pairsight.pipeline.select import CandidateSet, Examples, select
from pairsight.records import Demonstration, PreferencePair
from pairsight.registry import plain_name
from pairsight.training.config import TrainingConfig

PAPER, MATCHED, IMAGES_ONLY = "paper", "token-matched", "images-only"


@dataclass(frozen=True, slots=True)
class Training:
    """One adapter.

    Attributes:
        strategy: the strategy that chose the examples, by its plain name.
        setting: PAPER, the default number of epochs; MATCHED, as many completion tokens as the first strategy;
            IMAGES_ONLY, the defaults without examples on text-only prompts.
        learning_rate: the peak learning rate.
        steps: the number of optimizer steps taken.
        tokens: completion tokens trained on, in thousands, including repetitions.
        adapter: the adapter's folder.
    """

    strategy: str
    setting: str
    learning_rate: float
    steps: int
    tokens: float
    adapter: Path

    @property
    def name(self) -> str:
        """The name in evaluations."""
        return training_name(self.strategy, self.setting, self.learning_rate)


def training_name(strategy: str, setting: str, learning_rate: float) -> str:
    """`STRATEGY-SETTING-lrRATE`, usable as a folder name and an adapter's name."""
    return f"{strategy}-{setting}-lr{learning_rate:g}"


def matched_steps(budget: float, tokens_per_example: float, batch_size: int) -> int:
    """The number of optimizer steps that see `budget` completion tokens; at least one.

    Args:
        budget: completion tokens.
        tokens_per_example: mean completion tokens per example.
        batch_size: examples per optimizer step.
    """
    return max(1, round(budget / (tokens_per_example * batch_size)))


def completion_tokens(tokenizer: Any, example: PreferencePair | Demonstration) -> int:
    """The number of tokens of an example that the loss uses: all its completions, each with its end token."""
    completions = [example.completion] if isinstance(example, Demonstration) else [example.chosen, *example.rejected]
    return sum(len(tokenizer(one.text, add_special_tokens=False)["input_ids"]) + 1 for one in completions)


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains strategies on a run's candidates into a study's folder; finished trainings are not repeated."""

    candidates: CandidateSet
    out: Path
    tokenizer: Any
    quiet: bool

    def tokens(self, spec: AlignSpec) -> float:
        """The number of completion tokens that a training sees, including repetitions."""
        training = spec.training
        counts = [completion_tokens(self.tokenizer, example) for example in self._examples(spec)]
        if training.max_steps > 0:
            return training.max_steps * training.global_batch * sum(counts) / len(counts)
        return training.num_train_epochs * training.repeat * sum(counts)

    def train(self, spec: AlignSpec, setting: str, learning_rate: float, *, budget: float | None = None) -> Training:
        """Train the strategy that the spec names.

        Args:
            spec: the training in its default setting.
            setting: the setting's name; IMAGES_ONLY excludes text-only prompts.
            learning_rate: the peak learning rate.
            budget: completion tokens to train on, instead of the default number of epochs.
        """
        strategy = plain_name(str(spec.options.strategy))
        name = training_name(strategy, setting, learning_rate)
        own = {"name": name, "out": str(self.out / name), "text_only_prompts": setting != IMAGES_ONLY}
        training = TrainingConfig.parse({**spec.training.to_plain(), "learning_rate": learning_rate}, name)
        spec = replace(spec, options=spec.options.model_copy(update=own), training=training)
        examples = self._examples(spec)
        mean = sum(completion_tokens(self.tokenizer, example) for example in examples) / len(examples)
        if budget is not None:
            training = training.for_examples(
                len(examples) * training.repeat
            )  # as the default setting's batch is lowered for few
            steps = matched_steps(budget, mean, training.global_batch)
            training = training.model_copy(update={"max_steps": steps})
        adapter = align(examples, replace(spec, training=training), self.candidates.run, quiet=self.quiet).adapter
        steps = last_step(adapter)
        epochs = training.num_train_epochs * training.repeat
        seen = steps * training.global_batch if training.max_steps > 0 else epochs * len(examples)
        return Training(strategy, setting, learning_rate, steps, seen * mean / 1000, adapter)

    def _examples(self, spec: AlignSpec) -> Examples:
        examples, _ = select(self.candidates, spec.strategy)
        return limited(examples, spec)


def last_step(adapter: Path) -> int:
    """The last optimizer step in a training's `metrics.jsonl`."""
    from pairsight.training.metrics import MetricsFile

    return int(MetricsFile(adapter).last().get("step", 0))
