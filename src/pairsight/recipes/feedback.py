"""Feedback: a model's own completions, rated by an annotator on five attributes.

Paper: Li et al., "Multi-modal preference alignment remedies degradation of visual instruction tuning on language
    models" (2402.10884), and the authors' public code.
Inputs: questions, mostly with images; one or more models that answer; an annotator that sees the image.
What it does: N sampled completions of each prompt; one annotation of all of them, reasons first, then 0–4 for
    helpfulness, correctness, coherence, complexity and verbosity; pairs by `preference_rule`.
Deviations: temperature 0.7 is the paper's (its code has 1.2); warm-up 0.03 is the code's (the paper prints 0.003).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import ClassVar

from pydantic import Field

from pairsight.errors import ConfigError
from pairsight.models.protocols import Annotator, Sampling, named_for
from pairsight.models.thinking import without_thinking
from pairsight.recipes.recipe import (
    AtMost,
    Gathered,
    InTurns,
    Made,
    Recipe,
    RecipeModels,
    Requests,
    StageRunner,
    failed,
)
from pairsight.recipes.workload import Assumed, Roles, Work, annotation_tokens
from pairsight.records import Candidates, Completion, CompletionRequest, Dropped, ItemError, Prompt
from pairsight.seeds import derived_seed
from pairsight.training.config import TrainingConfig


class Feedback(Recipe):
    """Annotated completions of each prompt."""

    name: ClassVar[str] = "feedback"
    default_strategy: ClassVar[str] = "preference_rule"
    roles: ClassVar[tuple[str, ...]] = ("annotator",)
    takes_completions: ClassVar[bool] = True
    default_training: ClassVar[TrainingConfig] = TrainingConfig(
        loss="dpo",
        beta=0.1,
        learning_rate=5e-5,
        projector_learning_rate=2e-5,
        lora_r=128,
        lora_alpha=256.0,
        lora_dropout=0.05,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=16,
        num_train_epochs=3.0,
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_length=3000,
    )
    """Table 3 of the paper for DPO; epochs, dropout, projector, warm-up from the code. 8 × 16 is its batch of 128."""
    default_sft_training: ClassVar[TrainingConfig | None] = TrainingConfig.parse(
        {
            **{name: value for name, value in default_training.given().items() if name != "beta"},
            "loss": "sft",
            "learning_rate": 4e-4,
            "max_length": 2048,
        }
    )
    """Table 3 for SFT, rejection sampling and SteerLM; what it does not name is as for DPO."""

    num_completions: int = Field(4, ge=2, le=64, description="completions per prompt")
    temperature: float = Field(0.7, gt=0.0, le=5.0, description="of the completions")
    max_new_tokens: int = Field(1024, ge=1, description="longest completion in tokens")
    annotator_answers: bool = Field(False, description="let the annotator answer every prompt too, for strategy sft")
    seed: int = Field(0, ge=0, description="the seed of the completions")

    def unused(self, *, prompts: bool, completions: bool) -> Mapping[str, tuple[str, ...]]:
        """Nothing is sampled where the completions are given."""
        return {"the completions are given": ("num_completions", "temperature")} if completions else {}

    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """The annotated completions of each prompt. Several models take turns, so that each makes about as many."""
        from pairsight.models.stages import GenerateCompletions

        count = len(models.generators)
        if not 1 <= count <= self.num_completions:
            allowed = f"1 to num_completions = {self.num_completions}"
            raise ConfigError(f"recipe '{self.name}' takes {allowed} models, found {count}")
        self._check(models)
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        drawn = [
            run(GenerateCompletions(generator=generator, sampling=sampling), self.requests(prompts, turn, count))
            for turn, generator in enumerate(models.generators)
        ]
        requests = self.requests(prompts, turn=0, count=1)
        yield from self.annotate(Gathered(requests, InTurns(drawn, self.num_completions)), models, run)

    def annotate(self, given: Made, models: RecipeModels, run: StageRunner) -> Iterator[Candidates | Dropped]:
        """Annotate completions that are there already, sampled or read from a file (`read_completions`).

        Args:
            given: iterated several times; annotations that are there already stay in front.
        """
        from pairsight.models.stages import AnnotateCandidates

        annotator = self._check(models)
        asked = AtMost(len(given), lambda: (one for one in given if isinstance(one, Candidates)))
        annotated = iter(run(AnnotateCandidates(annotator=annotator), asked))
        answers = iter(self._answers(given, models, run)) if self.annotator_answers else repeat(None)
        for one in given:
            if isinstance(one, Dropped):
                yield one
                continue
            result, answer = next(annotated), next(answers)
            if isinstance(result, ItemError):
                yield failed(one.prompt, "annotate", [result], "not annotated")
                continue
            completions = one.completions if answer is None else (*one.completions, answer)
            yield replace(one, completions=completions, annotations=(*one.annotations, *result.annotations))

    def work(self, roles: Roles, assumed: Assumed, num_prompts: int) -> tuple[Work, ...]:
        """Completions by the models in turns, one annotation a prompt, and the annotator's answers."""
        count, question = len(roles.models), assumed.question_tokens
        longest = min(assumed.completion_tokens, self.max_new_tokens)
        shares = [num_prompts * len(range(turn, self.num_completions, count)) for turn in range(count)]
        drawn = [
            Work("generate", name, "completions", share, 1, question, longest)
            for name, share in zip(roles.models, shares, strict=True)
        ]
        read = annotation_tokens(assumed, self.num_completions, roles.annotation)
        written = min(assumed.annotation_tokens, roles.annotation.max_new_tokens)
        drawn.append(Work("annotate", roles.annotator, "annotations", num_prompts, 1, read, written))
        if self.annotator_answers:
            drawn.append(Work("answer", roles.annotator, "answers", num_prompts, 1, question, longest))
        return tuple(drawn)

    def requests(self, prompts: Sequence[Prompt], turn: int, count: int) -> Requests:
        """The requests of the `turn`-th of `count` models: every `count`-th completion of each prompt."""
        indices = range(turn, self.num_completions, count)

        def of_prompt(prompt: Prompt) -> Iterator[CompletionRequest]:
            for index in indices:
                yield CompletionRequest(prompt, index, derived_seed(self.name, self.seed, prompt.id, index))

        return Requests(prompts, len(indices), of_prompt)

    def _check(self, models: RecipeModels) -> Annotator:
        if models.annotator is None:
            raise ConfigError(f"recipe '{self.name}' needs an annotator: --annotator MODEL")
        if self.annotator_answers and models.answerer is None:
            raise ConfigError("annotator_answers needs an annotator that can answer prompts; this one only rates")
        return models.annotator

    def _answers(self, given: Made, models: RecipeModels, run: StageRunner) -> Iterator[Completion | None]:
        """The annotator's own greedy answer to each candidates' prompt, None where it failed."""
        from pairsight.models.stages import GenerateCompletions

        def requests() -> Iterator[CompletionRequest]:
            return (CompletionRequest(one.prompt, len(one.completions)) for one in given if isinstance(one, Candidates))

        assert models.answerer is not None
        longest = max(self.max_new_tokens, models.annotation.max_new_tokens)  # it may think before it answers
        sampling = Sampling(temperature=0.0, max_new_tokens=longest)
        stage = GenerateCompletions(generator=models.answerer, sampling=sampling, name="answer")
        for request, result in zip(requests(), run(stage, AtMost(len(given), requests)), strict=True):
            own = None if isinstance(result, ItemError) else named_for(result, request)
            said = None if own is None else without_thinking(own.text)
            yield None if own is None or said is None else replace(own, text=said, derived_from="annotator")
