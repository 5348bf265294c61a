"""The trainings for a comparison of strategies: each strategy, setting and learning rate, with its cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pairsight.pipeline.align import AlignSpec, align, limited
from pairsight.pipeline.select import CandidateSet, make_strategy, select
from pairsight.records import Demonstration, PreferencePair
from pairsight.training.config import OF_THE_LOSS

PAPER, MATCHED, IMAGES_ONLY = "paper", "token-matched", "images-only"


@dataclass(frozen=True, slots=True)
class Training:
    """One adapter.

    Attributes:
        strategy: the strategy that chose the examples.
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
    recipe: str
    model: str
    out: Path
    options: Mapping[str, object]
    tokenizer: Any
    quiet: bool

    def default_rate(self, strategy: str, options: Mapping[str, object]) -> float:
        """The peak learning rate of the recipe's defaults or the model's preset."""
        return self._spec(self._values(strategy, options)).training.learning_rate

    def tokens(self, strategy: str, options: Mapping[str, object]) -> float:
        """The number of completion tokens that the strategy is trained on with default settings."""
        spec = self._spec(self._values(strategy, options))
        training = spec.training
        examples, _ = select(self.candidates, spec.strategy)
        kept = limited(examples, spec)
        counts = [completion_tokens(self.tokenizer, example) for example in kept]
        if training.max_steps > 0:
            batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
            return training.max_steps * batch * sum(counts) / len(counts)
        return training.num_train_epochs * sum(counts)

    def train(
        self,
        strategy: str,
        setting: str,
        learning_rate: float,
        *,
        options: Mapping[str, object],
        budget: float | None = None,
    ) -> Training:
        """Train one strategy in one setting.

        Args:
            strategy: the strategy's name.
            setting: the setting's name; IMAGES_ONLY excludes text-only prompts.
            learning_rate: the peak learning rate.
            options: the strategy's own options.
            budget: completion tokens to train on, instead of the default number of epochs.
        """
        name = training_name(strategy, setting, learning_rate)
        values = {**self._values(strategy, options), "learning_rate": learning_rate, "name": name}
        values |= {"out": str(self.out / name), "text_only_prompts": setting != IMAGES_ONLY}
        spec = self._spec(values)
        training = spec.training
        examples, _ = select(self.candidates, spec.strategy)
        kept = limited(examples, spec)
        mean = sum(completion_tokens(self.tokenizer, example) for example in kept) / len(kept)
        batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
        if budget is not None:
            training = training.model_copy(update={"max_steps": matched_steps(budget, mean, batch)})
        adapter = align(kept, replace(spec, training=training), self.candidates.run, quiet=self.quiet).adapter
        steps = last_step(adapter)
        seen = steps * batch if training.max_steps > 0 else training.num_train_epochs * len(kept)
        return Training(strategy, setting, learning_rate, steps, seen * mean / 1000, adapter)

    def _spec(self, values: Mapping[str, object]) -> AlignSpec:
        return AlignSpec.parse(values, self.recipe, self.candidates.built_with)

    def _values(self, strategy: str, options: Mapping[str, object]) -> dict[str, object]:
        """Flat options of `align`, without the options of the pair loss for strategies that make demonstrations."""
        imitates = make_strategy(strategy, dict(options)).makes_demonstrations
        training = {name: value for name, value in self.options.items() if not imitates or name not in OF_THE_LOSS}
        return {
            **training,
            "data": str(self.candidates.run),
            "model": self.model,
            "strategy": strategy,
            "strategy_options": dict(options),
        }


def last_step(adapter: Path) -> int:
    """The last optimizer step in a training's `metrics.jsonl`."""
    lines: Sequence[str] = (adapter / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["step"]) if lines else 0
