"""Scores training examples with a model: plans passes, packs rows, and falls back where prefixes cannot be shared."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pairsight.errors import TrainingError
from pairsight.models.load import free_bytes
from pairsight.training.batch import PackedBatch, PackedRow, PassLimits, collate, join, pack_row, plan_passes, to_device
from pairsight.training.examples import Tokeniser
from pairsight.training.families import Family, base_model, evaluating, inner_model, language_model
from pairsight.training.kernels.attention import attends_by_spans, attention_masks, row_layout
from pairsight.training.kernels.head import head_logps
from pairsight.training.kernels.layers import shortens_last_layer
from pairsight.training.precision import FLOAT32, Precision
from pairsight.training.tokens import Examples, TokenSequence
from pairsight.training.vision.tower import Features
from pairsight.training.vision.units import encoder_outputs, known_placeholders


@dataclass(frozen=True, slots=True)
class Scoring:
    """What all ways to score sequences use.

    Args:
        family: how the model sees a sequence.
        tokeniser: makes its inputs.
        vision_frozen: whether image features cannot change.
        trained_projectors: full names of the projector's modules, where they are trained and the tower is not.
        precision: the types of weights and products.
        spare_units: an image unit that a pass without images uses without effect, where ranks exchange what is trained
            of tower or projector after every pass; else empty.
    """

    family: Family
    tokeniser: Tokeniser
    vision_frozen: bool
    trained_projectors: tuple[str, ...] = ()
    precision: Precision = FLOAT32
    spare_units: tuple[int, ...] = ()

    def with_spare_unit(self) -> "Scoring":
        """The same with a spare image unit, if any image is in the dataset and its features are not frozen."""
        return (
            self
            if self.vision_frozen or not self.tokeniser.units.catalogue.num_units
            else replace(self, spare_units=(0,))
        )

    def features(self, model: Any, units: Sequence[int]) -> list[Features]:
        """Features of some image units."""
        return self.tokeniser.units.features(
            model, units, frozen=self.vision_frozen, projectors=self.trained_projectors
        )


def sequence_logps(model: Any, batch: PackedBatch, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Log-probs of every sequence's completion in a packed batch, in one forward pass.

    Returns:
        Sums over completion tokens, [Q], added up in float64, as a reference's are; and per token, [T] in the order
        of `batch.token_T`; float32.
    """
    token_logps_T = packed_token_logps(model, batch, scoring)[to_device(batch.token_T, model.device)]
    zeros_Q = torch.zeros(batch.num_sequences, dtype=torch.float64, device=token_logps_T.device)
    sums_Q = zeros_Q.index_add(0, to_device(batch.sequence_T, token_logps_T.device), token_logps_T.double())
    return sums_Q.float(), token_logps_T


def packed_token_logps(model: Any, batch: PackedBatch, scoring: Scoring) -> Tensor:
    """Log-prob of each predicted token of a packed batch, [P]."""
    inner = inner_model(model)
    device = inner.device
    arguments = {}
    if units := batch.units or scoring.spare_units:
        features = scoring.features(model, units)
        placeholders_F = to_device(batch.placeholders_F, device)
        layers = zip(*(f.deepstack for f in features), strict=True)
        dtype = inner.get_input_embeddings().weight.dtype  # some families put features in without a cast
        arguments["mm_encoder_outputs"] = encoder_outputs(
            torch.cat([f.embeddings for f in features])[placeholders_F].to(dtype),
            [torch.cat(layer)[placeholders_F].to(dtype) for layer in layers],
            listed=features[0].listed,
        )
    positions_ARS = to_device(batch.positions_ARS, device)
    family = scoring.family
    layout = row_layout(batch, family, device, by_spans=attends_by_spans(model), shortened=shortens_last_layer(model))
    with known_placeholders(inner, batch.input_ids_RS):
        hidden_RSD = inner(
            input_ids=to_device(batch.input_ids_RS, device),
            attention_mask=attention_masks(batch, family, layout, scoring.precision.products, device),
            position_ids=positions_ARS if family.rope_index else positions_ARS[0],
            use_cache=False,
            row_layout=layout,
            **arguments,
        ).last_hidden_state
    predicting_P = batch.predictor_P if layout.needed_RN is None else batch.needed_P
    hidden_PD = hidden_RSD.flatten(0, 1)[to_device(predicting_P, device)]
    return head_logps(base_model(model).get_output_embeddings(), hidden_PD, to_device(batch.target_P, device))


def separate_logits(model: Any, sequence: TokenSequence, scoring: Scoring, padding: int = 0) -> Tensor:
    """Logits of each completion token of one sequence by the model's own plain forward, [T, V], float32.

    Args:
        padding: masked tokens after the sequence, which change only the order of sums.
    """
    base = base_model(model)
    inputs = scoring.tokeniser.separate_inputs(sequence, padding)
    dtype = scoring.precision.weights
    inputs = {name: t.to(base.device, dtype if t.is_floating_point() else t.dtype) for name, t in inputs.items()}
    count = len(sequence) - sequence.prompt_length
    can_cut = "logits_to_keep" in inspect.signature(base.forward).parameters
    kept = {"logits_to_keep": count + 1 + padding} if can_cut else {}
    logits_TV: Tensor = base(**inputs, **kept, use_cache=False).logits[0]
    end = len(logits_TV) - padding - 1
    return logits_TV[end - count : end].float()


def separate_token_logps(model: Any, sequence: TokenSequence, scoring: Scoring) -> Tensor:
    """Log-prob of each completion token of one sequence by the model's own plain forward, [T]."""
    return target_logps(separate_logits(model, sequence, scoring), sequence)


def target_logps(logits_TV: Tensor, sequence: TokenSequence) -> Tensor:
    """Log-prob of each completion token of a sequence from its logits, [T]."""
    target_T = torch.from_numpy(sequence.input_ids_T[sequence.prompt_length :]).to(logits_TV.device)
    return logits_TV.gather(1, target_T[:, None])[:, 0] - logits_TV.logsumexp(1)


def separate_logps(model: Any, sequences: Sequence[TokenSequence], scoring: Scoring) -> tuple[Tensor, Tensor]:
    """As `sequence_logps`, one sequence at a time: for models whose prefixes cannot be shared."""
    pieces = [separate_token_logps(model, sequence, scoring) for sequence in sequences]
    if scoring.spare_units and not any(bool((sequence.unit_T >= 0).any()) for sequence in sequences):
        unused = torch.stack([f.embeddings.sum() for f in scoring.features(model, scoring.spare_units)]).sum()
        pieces[0] = pieces[0] + 0.0 * unused
    return torch.stack([piece.double().sum().float() for piece in pieces]), torch.cat(pieces)


class PackedPass(nn.Module):
    """A policy as a module whose forward is one pass: what several processes wrap, so that no hook of theirs is missed.

    Args:
        policy: the model in training, or the reference.
        scoring: how it is scored.
    """

    def __init__(self, policy: Any, scoring: Scoring) -> None:
        super().__init__()
        self.policy, self.config, self._scoring = policy, policy.config, scoring

    def in_step_with_others(self) -> None:
        """Use all that is trained in every pass, as ranks that exchange gradients need it."""
        self._scoring = self._scoring.with_spare_unit()

    def forward(self, given: PackedBatch | list[TokenSequence]) -> tuple[Tensor, Tensor]:
        """Sums and per-token log-probs of a packed batch, or of sequences that are scored one at a time."""
        with self._scoring.precision.compute(self.policy.device):
            if isinstance(given, PackedBatch):
                return sequence_logps(self.policy, given, self._scoring)
            return separate_logps(self.policy, given, self._scoring)


_LOG = logging.getLogger("pairsight.training")

Pass = list[tuple[int, ...]]
"""Rows of one forward pass, each the numbers of its examples."""

_ROUNDING = 2e-3
"""Differences of a token's log-prob that are rounding in float32; a wrongly seen prefix makes them of order one."""
_PADDINGS, _NOISE_FACTOR = (1, 3, 8, 17, 33), 2.0
"""In bfloat16, rounding is measured by plain computations of the same tokens at these paddings, each with its input
rounded again. Right prefixes were at most 1.4 times as far off as that in 12 families and the embedded model, prefixes
that see another completion at least 3 times (ours)."""

_CPU_JOINED, _CPU_ROW = 2**28, 2**29
"""Bytes of activations: more small rows at once are not faster, but a longer row shares prefixes."""
_GPU_SHARE = 0.5
"""The share of memory, left free by weights, gradients and optimizer, that a pass's activations may take (ours)."""
_TRAINED_BYTES = 12
"""A trained parameter's gradient and AdamW's two moments, float32."""
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
        examples: the full dataset; passes name examples by number.
        scoring: family and inputs of the model.
        limits: tokens of one row and of one pass.
        shares: whether prefixes are shared; if not, one sequence is scored at a time.
    """

    examples: Examples
    scoring: Scoring
    limits: PassLimits
    shares: bool

    def passes(self, numbers: Sequence[int]) -> list[Pass]:
        """The forward passes that some examples take."""
        if not self.shares:
            return [[(number,)] for number in numbers]
        return plan_passes(self.examples, numbers, self.limits, share=self.scoring.family.bidirectional != "prompt")

    def packed(self, policy: Any) -> PackedPass:
        """A policy as the module that `score` calls."""
        return PackedPass(policy, self.scoring)

    def scored(self, packed: nn.Module, numbers: Sequence[int]) -> Iterator[Scores]:
        """Log-probs of some examples, pass by pass, without gradients; in smaller passes when memory runs out."""
        waiting = dict.fromkeys(numbers)
        while waiting:
            try:
                for rows in self.passes(list(waiting)):
                    with torch.no_grad():
                        scores = self.score(packed, rows)
                    for number in scores.examples:
                        del waiting[number]
                    yield scores
                return
            except torch.OutOfMemoryError:
                pass  # memory that the error holds is free only outside
            self.use_smaller_passes()

    def use_smaller_passes(self) -> None:
        """Halve the limits, because a pass did not fit into memory.

        Raises:
            TrainingError: passes cannot be smaller.
        """
        largest = int(self.examples.num_tokens_E.max())
        if max(self.limits.row, self.limits.joined) <= _SMALLEST_PASS:
            raise TrainingError(
                f"one example does not fit into memory (the largest has {largest} tokens); set "
                "gradient_checkpointing=true, a smaller max_length or lora_r, or use a larger device"
            )
        bound = min(max(self.limits.row, self.limits.joined), 2 * largest) // 2
        self.limits = replace(self.limits, row=max(_SMALLEST_PASS, bound), joined=max(_SMALLEST_PASS, bound))
        _LOG.warning("out of memory: passes of at most %d tokens from now on", bound)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def calls(self, rows: Pass) -> int:
        """How often a pass calls the model."""
        return 1 if self.shares else sum(len(self.examples[number].sequences) for row in rows for number in row)

    def score(self, packed: nn.Module, rows: Pass, calls: int = 1) -> Scores:
        """Log-probs of a pass's sequences by a `PackedPass` or what wraps it; differentiable where gradients are on.
        Without shared prefixes the model is called at least `calls` times, if need be without effect."""
        numbers = tuple(number for row in rows for number in row)
        if not self.shares:
            sequences = [s for number in numbers for s in self.examples[number].sequences]
            lengths = torch.tensor([len(s) - s.prompt_length for s in sequences])
            sums_Q, tokens_T = packed(sequences + sequences[:1] * (calls - len(sequences)))
            own_Q = sums_Q[: len(sequences)] + 0.0 * sums_Q[len(sequences) :].sum()
            sequence_T = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            return Scores(numbers, own_Q, tokens_T[: len(sequence_T)], sequence_T)
        packed_rows = [self._row(row) for row in rows]
        packed_rows = packed_rows if self.limits.padded else [join(packed_rows)]
        batch = collate(packed_rows, self.scoring.tokeniser.units.num_tokens, numbers)
        sums_Q, tokens_T = packed(batch)
        return Scores(numbers, sums_Q, tokens_T, batch.sequence_T)

    def check(self, model: Any) -> float:
        """Compare packed and separate log-probs of a short example, one with images if there is any, no gradients.

        The last sequence of the row is compared, of those under the prompt's own images and of those under
        contrast images: it comes after all that it must not see.

        Returns:
            The largest difference of a token's log-prob.

        Raises:
            TrainingError: they differ by more than rounding allows.
        """
        if not self.shares:
            return 0.0
        facts = self.examples
        seeing_N = np.flatnonzero(facts.first_units_E >= 0)
        of_these_N = seeing_N if len(seeing_N) else np.arange(len(facts))
        number = int(of_these_N[facts.num_tokens_E[of_these_N].argmin()])
        example = facts[number]
        worst, allowed = 0.0, _ROUNDING
        with torch.no_grad(), evaluating(model), self.scoring.precision.compute(model.device):
            scores = self.score(self.packed(model), [(number,)])
            for index in self._last_in_row(number):
                alone_T, rounding = self._alone(model, example.sequences[index])
                differences_T = (alone_T - scores.token_logps_T[scores.sequence_T == index]).abs()
                worst, allowed = max(worst, float(differences_T.max())), max(allowed, rounding)
        if not worst <= allowed:
            raise TrainingError(
                f"packed log-probs differ from a separate computation by {worst:.3g} per token at '{example.id}' "
                f"(allowed {allowed:.3g}): Pairsight does not know how this model handles prefixes; please report "
                "it, and train with share_prefixes=false meanwhile"
            )
        _LOG.info("packed log-probs agree with the separate computation: largest difference %.1e", worst)
        return worst

    def _alone(self, model: Any, sequence: TokenSequence) -> tuple[Tensor, float]:
        """Log-probs of a sequence computed alone, [T], and how much rounding may change them in another order of sums.

        In bfloat16 that is measured: twice the largest difference that padding and another rounding of the input make.
        """
        alone_T = separate_token_logps(model, sequence, self.scoring)
        products = self.scoring.precision.products
        if products == torch.float32:
            return alone_T, _ROUNDING
        noise = 0.0
        for padding in _PADDINGS:
            with _input_rounded_again(model, products, seed=padding):
                logits_TV = separate_logits(model, sequence, self.scoring, padding)
            noise = max(noise, float((target_logps(logits_TV, sequence) - alone_T).abs().max()))
        return alone_T, _NOISE_FACTOR * noise

    def _last_in_row(self, number: int) -> list[int]:
        """The sequence of an example that is last in its row: under its own images, and under contrast images."""
        paths, count = self._row((number,)).tree.paths, self.examples[number].num_completions
        sides = [range(count), range(count, len(paths))]
        return [max(side, key=lambda index: int(paths[index][-1])) for side in sides if side]

    def _row(self, members: tuple[int, ...]) -> PackedRow:
        return pack_row([self.examples[number] for number in members])


@contextmanager
def _input_rounded_again(model: Any, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Move every input embedding up or down by the rounding of `dtype`, so that all later sums are rounded again.

    Padding alone changes nothing where the products of a token do not depend on the tokens beside it.
    """
    generator = torch.Generator().manual_seed(seed)
    half_unit = torch.finfo(dtype).eps / 2

    def move(module: Any, inputs: Any, embeddings: Tensor) -> Tensor:
        signs = torch.randint(0, 2, embeddings.shape, generator=generator).to(embeddings.device) * 2 - 1
        return (embeddings.float() * (1 + half_unit * signs)).to(embeddings.dtype)

    handle = base_model(model).get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


def pass_limits(
    model: Any,
    asked: int | None,
    precision: Precision = FLOAT32,
    *,
    num_trained: int = 0,
    checkpointing: bool = False,
    free: int | None = None,
) -> PassLimits:
    """Tokens of one row and of one forward pass: as the user asked, else what fits into memory.

    A token holds about 12 vectors of the hidden size and 4 of the MLP's in each layer until the backward pass, or, with
    gradient checkpointing, one vector per layer and one layer's share. On a CPU passes of a quarter GiB are as fast as
    larger ones, and a row that shares a prefix may take twice that; on a GPU both take half of what is free once the
    gradients and optimizer of what is trained are allocated (ours).

    Args:
        model: with all its weights on their device.
        asked: tokens; None: by memory.
        precision: of the activations.
        num_trained: parameters whose gradients and optimizer state are not allocated yet.
        checkpointing: whether activations are recomputed in the backward pass.
        free: bytes that are free on a GPU; None: on the model's own, if it is on one.
    """
    padded = (free is None and model.device.type != "cuda") or not attends_by_spans(model)
    if asked is not None:
        return PassLimits(asked, asked, padded)
    config = language_model(model).config
    width = 12 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    layers = config.num_hidden_layers
    held = (width + layers * config.hidden_size if checkpointing else width * layers) * precision.products.itemsize
    row, joined = _CPU_ROW, _CPU_JOINED
    if free is not None or model.device.type == "cuda":
        free = free_bytes(model.device) if free is None else free
        row = joined = int((free - _TRAINED_BYTES * num_trained) * _GPU_SHARE)
    return PassLimits(max(_SMALLEST_PASS, row // int(held)), max(_SMALLEST_PASS, joined // int(held)), padded)
