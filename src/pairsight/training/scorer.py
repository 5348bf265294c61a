"""Scores training examples with a model: plans passes, packs rows, and falls back where prefixes cannot be shared."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pairsight.errors import TrainingError
from pairsight.models.cache_memory import free_bytes
from pairsight.training.batch import PassLimits, Row, collate, pack_row, plan_passes
from pairsight.training.families import language_model
from pairsight.training.logps import Scoring, separate_logits, separate_logps, sequence_logps, target_logps
from pairsight.training.precision import FLOAT32, Precision
from pairsight.training.tokens import TokenExample, TokenSequence

_LOG = logging.getLogger("pairsight.training")

Pass = list[tuple[int, ...]]
"""Rows of one forward pass, each the numbers of its examples."""

_ROUNDING = 2e-3
"""Differences of a token's log-prob that are rounding in float32; a prefix seen wrongly gives some of order one."""
_PADDINGS, _NOISE_FACTOR = (1, 3, 8, 17, 33), 4.0
"""In bfloat16 rounding is measured: by plain computations of the same tokens at these paddings (ours)."""

_CPU_JOINED, _CPU_ROW = 2**28, 2**29
"""Bytes of activations: more small rows at once are no faster, but a row saves the prefix that its examples share."""
_GPU_SHARE = 0.5
"""Of the memory that weights, gradients and optimizer leave free, what a pass's activations may take (ours)."""
_TRAINED_BYTES = 12
"""A trained number's gradient and AdamW's two means, float32."""
_SMALLEST_PASS = 64


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probs of some examples' sequences: sums [Q], tokens [T], and the sequence of each token [T]."""

    examples: tuple[int, ...]
    sums_Q: Tensor
    token_logps_T: Tensor
    sequence_T: Tensor


@dataclass
class SequenceScorer:
    """A dataset and how to score it.

    Args:
        examples: the whole dataset; passes name examples by number.
        scoring: family and inputs of the model.
        limits: tokens of one row and of one pass.
        shares: whether prefixes are shared; the fallback scores one sequence at a time.
    """

    examples: Sequence[TokenExample]
    scoring: Scoring
    limits: PassLimits
    shares: bool
    _rows: dict[tuple[int, ...], Row] = field(default_factory=dict)

    def passes(self, numbers: Sequence[int]) -> list[Pass]:
        """How some examples go through the model."""
        if not self.shares:
            return [[(number,)] for number in numbers]
        return plan_passes(self.examples, numbers, self.limits, share=self.scoring.family.bidirectional != "prompt")

    def scored(self, model: Any, numbers: Sequence[int]) -> Iterator[Scores]:
        """Log-probs of some examples, pass by pass, without gradients; in smaller passes where memory is short."""
        waiting = dict.fromkeys(numbers)
        while waiting:
            try:
                for rows in self.passes(list(waiting)):
                    with torch.no_grad():
                        scores = self.score(model, rows)
                    for number in scores.examples:
                        del waiting[number]
                    yield scores
                return
            except torch.OutOfMemoryError:
                pass  # what the error holds is free only outside
            self.use_smaller_passes()

    def use_smaller_passes(self) -> None:
        """Halve the limits, because memory did not hold a pass.

        Raises:
            TrainingError: passes are as small as can be.
        """
        largest = max(example.num_tokens for example in self.examples)
        if max(self.limits.row, self.limits.joined) <= _SMALLEST_PASS:
            raise TrainingError(
                f"memory does not hold one example (the largest has {largest} tokens); set "
                "gradient_checkpointing=true, a smaller max_length or lora_r, or use a larger device"
            )
        bound = min(max(self.limits.row, self.limits.joined), 2 * largest) // 2
        self.limits = PassLimits(max(_SMALLEST_PASS, bound), max(_SMALLEST_PASS, bound))
        _LOG.warning("out of memory: passes of at most %d tokens from now on", bound)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def score(self, model: Any, rows: Pass) -> Scores:
        """Log-probs of all sequences of a pass; differentiable where gradients are on."""
        with self.scoring.precision.compute(model.device):
            return self._score(model, rows)

    def _score(self, model: Any, rows: Pass) -> Scores:
        numbers = tuple(number for row in rows for number in row)
        if not self.shares:
            sequences = [s for number in numbers for s in self.examples[number].sequences]
            sums_Q, tokens_T = separate_logps(model, sequences, self.scoring)
            lengths = torch.tensor([len(s) - s.prompt_length for s in sequences])
            return Scores(numbers, sums_Q, tokens_T, torch.repeat_interleave(torch.arange(len(lengths)), lengths))
        batch = collate([self._row(row) for row in rows], self.scoring.tokeniser.units.num_tokens, numbers)
        sums_Q, tokens_T = sequence_logps(model, batch, self.scoring)
        return Scores(numbers, sums_Q, tokens_T, batch.sequence_T)

    def check(self, model: Any) -> float:
        """Compare packed and separate log-probs of a short example, one with images if there is any, no gradients.

        What stands last in the row is compared, of the sequences under the prompt's own images and of those under
        contrast images: it comes behind all that it must not see.

        Returns:
            The largest difference of a token's log-prob.

        Raises:
            TrainingError: they differ by more than rounding allows.
        """
        if not self.shares:
            return 0.0
        seeing = [n for n, example in enumerate(self.examples) if bool((example.sequences[0].unit_T >= 0).any())]
        number = min(seeing or range(len(self.examples)), key=lambda n: self.examples[n].num_tokens)
        example = self.examples[number]
        training = model.training
        model.eval()
        worst, allowed = 0.0, _ROUNDING
        with torch.no_grad(), self.scoring.precision.compute(model.device):
            scores = self.score(model, [(number,)])
            for index in self._last_in_row(number):
                alone_T, rounding = self._alone(model, example.sequences[index])
                differences_T = (alone_T - scores.token_logps_T[scores.sequence_T == index]).abs()
                worst, allowed = max(worst, float(differences_T.max())), max(allowed, rounding)
        model.train(training)
        if not worst <= allowed:
            raise TrainingError(
                f"packed log-probs differ from a separate computation by {worst:.3g} a token at '{example.id}' "
                f"(allowed {allowed:.3g}): this model sees prefixes in a way Pairsight does not know; please report "
                "it, and train with share_prefixes=false meanwhile"
            )
        _LOG.info("packed log-probs agree with the separate computation: largest difference %.1e", worst)
        return worst

    def _alone(self, model: Any, sequence: TokenSequence) -> tuple[Tensor, float]:
        """Log-probs of a sequence computed alone, [T], and what rounding may make of them in another order of sums.

        In bfloat16 that is four times the largest difference that padding makes, or two units in the last bit of the
        largest logit, whichever is larger.
        """
        logits_TV = separate_logits(model, sequence, self.scoring)
        alone_T = target_logps(logits_TV, sequence)
        if self.scoring.precision.products == torch.float32:
            return alone_T, _ROUNDING
        padded = [target_logps(separate_logits(model, sequence, self.scoring, n), sequence) for n in _PADDINGS]
        noise = max(float((other_T - alone_T).abs().max()) for other_T in padded)
        last_bit = torch.finfo(self.scoring.precision.products).eps * float(logits_TV.abs().max())
        return alone_T, max(_NOISE_FACTOR * noise, 2 * last_bit)

    def _last_in_row(self, number: int) -> list[int]:
        """Which sequence of an example stands last in its row: under its own images, and under contrast images."""
        paths, count = self._row((number,)).tree.paths, self.examples[number].num_completions
        sides = [range(count), range(count, len(paths))]
        return [max(side, key=lambda place: int(paths[place][-1])) for side in sides if side]

    def _row(self, members: tuple[int, ...]) -> Row:
        if members not in self._rows:
            row = pack_row([self.examples[number] for number in members])
            if len(members) > 1:
                return row
            self._rows[members] = row
        return self._rows[members]


def pass_limits(
    model: Any,
    asked: int | None,
    precision: Precision = FLOAT32,
    *,
    num_trained: int = 0,
    checkpointing: bool = False,
) -> PassLimits:
    """Tokens of one row and of one forward pass: what was asked for, else what fits into memory.

    A token holds about 12 vectors of the hidden size and 4 of the MLP's in each layer until the backward pass, or, with
    gradient checkpointing, one vector a layer and one layer's share. On a CPU passes of a quarter GiB are as fast as
    larger ones, and a row that shares a prefix may take twice that; on a GPU both take half of what is free once the
    gradients and optimizer of what is trained have their place (ours).

    Args:
        model: with all its weights on their device.
        asked: tokens; None: by memory.
        precision: of the activations.
        num_trained: numbers whose gradients and optimizer state are still to come.
        checkpointing: activations are computed twice.
    """
    if asked is not None:
        return PassLimits(asked, asked)
    config = language_model(model).config
    width = 12 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    layers = config.num_hidden_layers
    held = (width + layers * config.hidden_size if checkpointing else width * layers) * precision.products.itemsize
    row, joined = _CPU_ROW, _CPU_JOINED
    if model.device.type == "cuda":
        row = joined = int((free_bytes(model.device) - _TRAINED_BYTES * num_trained) * _GPU_SHARE)
    return PassLimits(max(_SMALLEST_PASS, row // int(held)), max(_SMALLEST_PASS, joined // int(held)))
