"""Log-probs of completions: packed (every prefix once), and one sequence at a time as the measure of truth.

Shapes: R rows, S tokens a row, D width, P predicted tokens, Q sequences, T completion tokens of all sequences.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pairsight.training.attention import attention_masks
from pairsight.training.batch import PackedBatch
from pairsight.training.families import Family, base_model, inner_model
from pairsight.training.head import head_logps
from pairsight.training.image_units import encoder_outputs
from pairsight.training.plain_layers import PACKED, has_plain_layers, packed
from pairsight.training.precision import FLOAT32, Precision
from pairsight.training.tokenise import Tokeniser
from pairsight.training.tokens import TokenSequence


@dataclass(frozen=True, slots=True)
class Scoring:
    """What every scoring of sequences uses.

    Args:
        family: how the model sees a sequence.
        tokeniser: its inputs.
        vision_frozen: image features cannot change.
        trained_projectors: full names of the projector's modules, where they are trained and the tower is not.
        precision: what weights are kept in and products computed in.
    """

    family: Family
    tokeniser: Tokeniser
    vision_frozen: bool
    trained_projectors: tuple[str, ...] = ()
    precision: Precision = FLOAT32


def sequence_logps(model: Any, batch: PackedBatch, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Log-probs of every sequence's completion in a packed batch, in one forward pass.

    Returns:
        Sums over completion tokens, [Q], added up in float64, as a reference's are; and per token, [T] in the order
        of `batch.token_T`; float32.
    """
    token_logps_T = packed_token_logps(model, batch, scoring)[batch.token_T.to(model.device)]
    zeros_Q = torch.zeros(batch.num_sequences, dtype=torch.float64, device=token_logps_T.device)
    sums_Q = zeros_Q.index_add(0, batch.sequence_T.to(token_logps_T.device), token_logps_T.double())
    return sums_Q.float(), token_logps_T


def packed_token_logps(model: Any, batch: PackedBatch, scoring: Scoring) -> Tensor:
    """Log-prob of each predicted token of a packed batch, [P]."""
    inner = inner_model(model)
    device = inner.device
    arguments = {}
    if batch.units:
        features = scoring.tokeniser.units.features(
            model, batch.units, frozen=scoring.vision_frozen, projectors=scoring.trained_projectors
        )
        places_F = batch.placeholders_F.to(device)
        layers = zip(*(f.deepstack for f in features), strict=True)
        arguments["mm_encoder_outputs"] = encoder_outputs(
            torch.cat([f.embeddings for f in features])[places_F],
            [torch.cat(layer)[places_F] for layer in layers],
            listed=features[0].listed,
        )
    positions_ARS = batch.positions_ARS.to(device)
    on_device = replace(batch, **{name: getattr(batch, name).to(device) for name in ("depth_RS", "end_RS", "block_RS")})
    masks = attention_masks(on_device, scoring.family, scoring.precision.products)
    if isinstance(masks, Tensor) and has_plain_layers(model):
        setattr(masks, PACKED, packed(batch.needed_RN.to(device), getattr(masks, "tree", None)))
    hidden_RSD = inner(
        input_ids=batch.input_ids_RS.to(device),
        attention_mask=masks,
        position_ids=positions_ARS if scoring.family.rope_index else positions_ARS[0],
        use_cache=False,
        **arguments,
    ).last_hidden_state
    is_whole = hidden_RSD.shape[1] == batch.input_ids_RS.shape[1]  # a row's last token predicts nothing
    hidden_PD = hidden_RSD.flatten(0, 1)[(batch.predictor_P if is_whole else batch.needed_P).to(device)]
    return head_logps(base_model(model).get_output_embeddings(), hidden_PD, batch.target_P.to(device))


def separate_logits(model: Any, sequence: TokenSequence, scoring: Scoring, padding: int = 0) -> Tensor:
    """Logits of each completion token of one sequence by the model's own plain forward, [T, V], float32.

    Args:
        padding: masked tokens behind the sequence, which change nothing but the order of sums.
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
    return torch.stack([piece.double().sum().float() for piece in pieces]), torch.cat(pieces)
