"""From logits to the next tokens: pure, row by row, each row with its own random number.

Legend: R rows (completions being written), V vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pairsight.models.local.chat import profile_of, tokenizer_of
from pairsight.models.local.processor import stop_ids
from pairsight.models.protocols import Sampling

if TYPE_CHECKING:
    from torch import Tensor


def choose(logits_RV: "Tensor", sampling: Sampling, uniforms_R: "Tensor | None") -> "Tensor":
    """The next token of each row: the likeliest at temperature 0, else drawn by inverting the cumulative distribution.

    A row's draw depends on its own logits and number only, never on the rows beside it.

    Args:
        logits_RV: float32.
        sampling: temperature, top_k and top_p, applied in this order (as transformers does).
        uniforms_R: float64 in [0, 1), one a row; None at temperature 0.

    Returns:
        Token ids [R].
    """
    if sampling.temperature == 0 or uniforms_R is None:
        return logits_RV.argmax(dim=-1)
    kept_RV = keep_top_p(keep_top_k(logits_RV / sampling.temperature, sampling.top_k), sampling.top_p)
    cumulative_RV = kept_RV.softmax(dim=-1).double().cumsum(dim=-1)
    targets_R1 = uniforms_R.unsqueeze(1) * cumulative_RV[:, -1:]
    import torch

    found_R1 = torch.searchsorted(cumulative_RV, targets_R1, right=True)
    return found_R1.squeeze(1).clamp(max=logits_RV.shape[1] - 1)


def keep_top_k(logits_RV: "Tensor", top_k: int) -> "Tensor":
    """−∞ for all but each row's k highest logits (ties with the k-th stay); 0 keeps all."""
    if top_k == 0 or top_k >= logits_RV.shape[1]:
        return logits_RV
    least_R1 = logits_RV.topk(top_k, dim=-1).values[:, -1:]
    return logits_RV.masked_fill(logits_RV < least_R1, float("-inf"))


def keep_top_p(logits_RV: "Tensor", top_p: float) -> "Tensor":
    """−∞ for all but the smallest set of likeliest tokens whose probability reaches `top_p`; 1 keeps all.

    Source: Holtzman et al., 1904.09751, eq. 2.
    """
    if top_p >= 1.0:
        return logits_RV
    sorted_RV, order_RV = logits_RV.sort(dim=-1, descending=True)
    before_RV = sorted_RV.softmax(dim=-1).cumsum(dim=-1) - sorted_RV.softmax(dim=-1)
    cut_sorted_RV = before_RV >= top_p
    cut_sorted_RV[:, 0] = False
    cut_RV = cut_sorted_RV.scatter(1, order_RV, cut_sorted_RV)
    return logits_RV.masked_fill(cut_RV, float("-inf"))


def penalise_repetition(logits_RV: "Tensor", seen_RV: "Tensor", penalty: float) -> "Tensor":
    """Divide the positive logits of tokens seen before by the penalty and multiply the negative ones.

    Source: Keskar et al., 1909.05858, §4.1, in the two-sided form that transformers uses.
    """
    import torch

    penalised_RV = torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty)
    return torch.where(seen_RV, penalised_RV, logits_RV)


_NOT_OURS = {
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "min_new_tokens": None,
    "min_length": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "watermarking_config": None,
}


@dataclass(frozen=True, slots=True)
class StopRules:
    """What ends a completion and what else the generation config changes.

    Attributes:
        stop_ids: tokens that end it.
        stop_strings: texts that end it.
        context: the longest prompt and completion together, in tokens; None: no limit known.
        repetition_penalty: 1 for none.
        pad_id: what finished rows are fed.
        needs_generate: options of the generation config that only `generate` of transformers knows.
    """

    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    context: int | None
    repetition_penalty: float
    pad_id: int
    needs_generate: tuple[str, ...]

    def new_tokens(self, prompt_length: int, max_new_tokens: int) -> int:
        """How many tokens a completion may have; 0 or less when the prompt alone fills the context."""
        return max_new_tokens if self.context is None else min(max_new_tokens, self.context - prompt_length)

    def cut_at_stop_string(self, text: str) -> str | None:
        """The text before the first stop string in it; None when there is none."""
        starts = [start for stop in self.stop_strings if (start := text.find(stop)) >= 0]
        return text[: min(starts)] if starts else None


def stop_rules(model: Any, processor: Any) -> StopRules:
    """The rules of a loaded model."""
    config = model.generation_config
    stops = stop_ids(processor, config)
    pad = tokenizer_of(processor).pad_token_id
    strings, profile = config.stop_strings or (), profile_of(processor)
    strings = (strings,) if isinstance(strings, str) else tuple(strings)
    if profile is not None:
        strings += tuple(stop for stop in profile.stop if stop not in tokenizer_of(processor).added_tokens_encoder)
    unknown = tuple(name for name, off in _NOT_OURS.items() if getattr(config, name, off) not in (off, None, [], False))
    return StopRules(
        stop_ids=stops,
        stop_strings=strings,
        context=getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None),
        repetition_penalty=float(config.repetition_penalty or 1.0),
        pad_id=int(pad) if pad is not None else (stops[0] if stops else 0),
        needs_generate=unknown,
    )
