"""Choose an option by likelihood: the one whose text, followed by the model's stop token, has the lowest mean loss.

Source: the answer ranking of SEED-Bench (B. Li et al., 2307.16125; its LLaVA interface takes the mean cross-entropy
over the option's tokens and the end token). Log-probs are computed by `pairsight.training`; options share the prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pairsight.engine.stage import Json, Resources
from pairsight.errors import ConfigError, DataError
from pairsight.models.protocols import Generator, prompt_key
from pairsight.records import Completion, ItemError, Prompt

_IMAGE_CACHE_MB = 256


@dataclass(frozen=True, slots=True)
class OptionRequest:
    """A prompt and its options, letter -> text."""

    prompt: Prompt
    options: Mapping[str, str]


@dataclass
class RankOptions:
    """A stage that answers each request with the letter of the likeliest option, as a completion.

    Args:
        generator: a model that gives log-probs; its weights are loaded separately, as for training.
    """

    generator: Generator
    batch_size: int = 16
    resources: Resources = field(default_factory=Resources)
    name: str = "rank-options"
    version: int = 1
    output: type[Completion] = Completion
    _loaded: Any = None

    @classmethod
    def of(cls, generator: Generator) -> "RankOptions":
        """The stage that ranks options with a generator's model.

        Raises:
            ConfigError: a model that does not give the log-probs of given texts, such as one behind an endpoint.
        """
        if not generator.gives_logps:
            raise ConfigError(
                "ranking options by likelihood needs the log-probs of given texts, which only a local model gives: use "
                "a model folder, or the benchmark by letter (seed_bench)"
            )
        return cls(generator)

    def key(self, item: OptionRequest) -> Mapping[str, Json]:
        """The model, the prompt and the options."""
        options: list[Json] = [[letter, text] for letter, text in item.options.items()]
        return {"model": self.generator.fingerprint, "prompt": prompt_key(item.prompt), "options": options}

    def item_id(self, item: OptionRequest) -> str:
        """The prompt's id."""
        return item.prompt.id

    def setup(self) -> None:
        """Load the weights."""
        from pairsight.training.families import describe

        processor, model = self.generator.loaded_copy()
        self._loaded = processor, model, describe(model)

    def process(self, items: Sequence[OptionRequest]) -> Iterable[Completion | ItemError]:
        """The likeliest option of each request; the first of equals."""
        from pairsight.training.examples import Tokeniser

        processor, model, family = self._loaded
        tokeniser = Tokeniser(processor, model, family, self.generator.images, _IMAGE_CACHE_MB)
        for item in items:
            try:
                losses = self._losses(item, tokeniser)
            except DataError as error:
                yield ItemError(error.reason, str(error), retryable=False)
                continue
            letter = min(item.options, key=losses.__getitem__)
            yield Completion(
                f"{item.prompt.id}:0", item.prompt.id, letter, "likelihood", self.generator.fingerprint, 0, 0
            )

    def close(self) -> None:
        """Free the weights."""
        self._loaded = None

    def _losses(self, item: OptionRequest, tokeniser: Any) -> dict[str, float]:
        """Letter -> mean loss of the option's tokens, including the end token."""
        import torch

        from pairsight.training.precision import Precision
        from pairsight.training.scorer import Scoring, SequenceScorer, pass_limits
        from pairsight.training.tokens import ListedExamples, token_example

        _, model, family = self._loaded
        texts = [Completion(letter, item.prompt.id, text, "stop", "", 0, 0) for letter, text in item.options.items()]
        ids = tokeniser.completions(texts)
        example = token_example(item.prompt.id, [tokeniser.prompt(self.generator.asked(item.prompt))], ids, 1.0)
        scoring = Scoring(family, tokeniser, True, precision=Precision(model.dtype, model.dtype))
        scorer = SequenceScorer(
            ListedExamples([example]), scoring, pass_limits(model, None, scoring.precision), not family.obstacle
        )
        with torch.no_grad():
            (rows,) = scorer.passes([0])
            sums = scorer.score(scorer.packed(model), rows).sums_Q.tolist()
        return {letter: -total / len(tokens) for letter, total, tokens in zip(item.options, sums, ids, strict=True)}
