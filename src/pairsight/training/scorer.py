"""Scores training examples with a model: plans passes, packs rows, and falls back where prefixes cannot be shared."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pairsight.errors import TrainingError
from pairsight.training.batch import PassLimits, Row, collate, pack_row, plan_passes
from pairsight.training.families import language_model
from pairsight.training.logps import Scoring, separate_logps, separate_token_logps, sequence_logps
from pairsight.training.tokens import TokenExample

_LOG = logging.getLogger("pairsight.training")

Pass = list[tuple[int, ...]]
"""Rows of one forward pass, each the numbers of its examples."""

_ROUNDING = 2e-3
_ROUNDING_BF16 = 0.5
"""Differences of a token's log-prob that are rounding; a prefix seen wrongly gives differences of order one."""

_CPU_JOINED, _CPU_ROW = 2**28, 2**29
"""Bytes of activations: more small rows at once are no faster, but a row saves the prefix that its examples share."""
_GPU_SHARE = 0.15


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

    def score(self, model: Any, rows: Pass) -> Scores:
        """Log-probs of all sequences of a pass; differentiable where gradients are on."""
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
        differences = []
        with torch.no_grad():
            scores = self.score(model, [(number,)])
            for place in self._last_in_row(number):
                alone_T = separate_token_logps(model, example.sequences[place], self.scoring)
                differences.append((alone_T - scores.token_logps_T[scores.sequence_T == place]).abs())
        worst = float(torch.cat(differences).max())
        model.train(training)
        allowed = _ROUNDING if next(model.parameters()).dtype == torch.float32 else _ROUNDING_BF16
        if not worst <= allowed:
            raise TrainingError(
                f"packed log-probs differ from a separate computation by {worst:.3g} a token at '{example.id}' "
                f"(allowed {allowed:g}): this model sees prefixes in a way Pairsight does not know; please report it, "
                "and train with share_prefixes=false meanwhile"
            )
        _LOG.info("packed log-probs agree with the separate computation: largest difference %.1e", worst)
        return worst

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


def pass_limits(model: Any, asked: int | None) -> PassLimits:
    """Tokens of one row and of one forward pass: what was asked for, else what fits into memory.

    A token holds about 12 vectors of the hidden size and 4 of the MLP's in each layer until the backward pass; on a
    CPU passes of a quarter GiB are as fast as larger ones, and a row that shares a prefix may take twice that; on a
    GPU both take a share of its memory (ours, measured).
    """
    if asked is not None:
        return PassLimits(asked, asked)
    config = language_model(model).config
    width = 12 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    parameter = next(model.parameters())
    held = width * config.num_hidden_layers * parameter.dtype.itemsize
    row, joined = _CPU_ROW, _CPU_JOINED
    if parameter.device.type == "cuda":
        row = joined = int(torch.cuda.get_device_properties(parameter.device).total_memory * _GPU_SHARE)
    return PassLimits(max(64, row // int(held)), max(64, joined // int(held)))
