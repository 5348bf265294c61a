"""Drawing completions: every prompt is read once, its K completions are written together.

The prompt and its images are prefilled once; the cache is then spread over its K rows. Prompts of similar length run
in one batch, padded on the left with positions by the model's own rule, so that a greedy completion does not depend on
its neighbours (in float32). Each completion has its own random numbers, from its own seed.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pairsight.models.load import free_bytes
from pairsight.models.local.chat import tokenizer_of
from pairsight.models.local.decoding import Drawn, Draws, draw_together, join, kind
from pairsight.models.local.tokens import StopRules, stop_rules
from pairsight.models.protocols import Sampling
from pairsight.records import ItemError

_SHARE = 0.5
"""Of the free memory, what keys and values may take (ours: the rest is for activations and for other programs)."""


def rows_that_fit(model: Any, tokens_per_row: int, wanted: int) -> int:
    """At most `wanted` rows, as many as their cache of `tokens_per_row` tokens leaves room for, one at least."""
    needed = cache_bytes(model, tokens_per_row)
    return max(1, min(wanted, int(_SHARE * free_bytes(model.device)) // max(1, needed)))


def cache_bytes(model: Any, num_tokens: int) -> int:
    """Bytes of one row's keys and values: 2 · layers · key-value heads · head width · bytes a number · tokens."""
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kept * width * model.dtype.itemsize * num_tokens)


@torch.no_grad()
def draw_one_by_one(
    model: Any, processor: Any, prompts: Sequence[Draws], sampling: Sampling, rules: StopRules
) -> list[list[Drawn]]:
    """Completions of each prompt, one per seed.

    The seed is torch's global one here, put back afterwards, so sampled completions differ from those of our own loop.
    """
    return [
        [_generate(model, processor, wanted, seed, sampling=sampling, rules=rules) for seed in wanted.seeds]
        for wanted in prompts
    ]


def _generate(model: Any, processor: Any, wanted: Draws, seed: int, *, sampling: Sampling, rules: StopRules) -> Drawn:
    prompt = wanted.prompt
    given = join([prompt], rules.pad_id, model.device)
    given = {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in given.items()}
    options: dict[str, object] = {
        "do_sample": sampling.temperature > 0,
        "num_beams": sampling.num_beams,
        "max_new_tokens": rules.new_tokens(len(prompt.input_ids), sampling.max_new_tokens),
        "pad_token_id": rules.pad_id,
    }
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    if rules.stop_strings:
        options["tokenizer"] = tokenizer_of(processor)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        made = model.generate(**given, **options)[0].tolist()
    if not model.config.is_encoder_decoder:
        made = made[len(prompt.input_ids) :]
    end = next((index for index, token in enumerate(made) if token in rules.stop_ids), None)
    tokens = tuple(made if end is None else made[:end])
    text = str(tokenizer_of(processor).decode(tokens, skip_special_tokens=True))
    cut = rules.cut_at_stop_string(text)
    return Drawn(tokens, text if cut is None else cut, "length" if end is None and cut is None else "stop")


_LOG = logging.getLogger("pairsight.models")

PROVEN = frozenset(
    {"llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm"}
    | {"gemma3", "paligemma", "llama"}
)
"""Model types whose drawing equals `generate` by our contract suite; others are compared on their first prompts."""


def draw(
    model: Any, processor: Any, prompts: Sequence[Draws], sampling: Sampling, batch_size: int = 32
) -> list[list[Drawn] | ItemError]:
    """Completions of each prompt, one per seed.

    Args:
        model: from `load_model`.
        prompts: encoded by the same model's processor.
        sampling: at temperature 0 a prompt's completions are all the same one.
        batch_size: completions written at once, fewer where memory is short; it changes speed only.

    Returns:
        One list per prompt, in order; an `ItemError` for a prompt that fills the context or holds unknown tokens.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    rules = stop_rules(model, processor)
    results: list[list[Drawn] | ItemError | None] = [_refused(wanted, model, rules, sampling) for wanted in prompts]
    fitting = [index for index, refused in enumerate(results) if refused is None]
    alone = sampling.num_beams > 1 or not _draws_together(model, processor, [prompts[i] for i in fitting], rules)
    make = draw_one_by_one if alone else draw_together
    longest = max((len(prompts[index].prompt.input_ids) for index in fitting), default=0) + sampling.max_new_tokens
    batch_size = rows_that_fit(model, longest, batch_size)
    for batch in _batches(prompts, fitting, sampling, batch_size):
        drawn = make(model, processor, [prompts[index] for index in batch], sampling, rules)
        for index, completions in zip(batch, drawn, strict=True):
            results[index] = completions
    return [result for result in results if result is not None]


def _refused(wanted: Draws, model: Any, rules: StopRules, sampling: Sampling) -> ItemError | None:
    """Why a prompt cannot be given to the model at all."""
    ids = wanted.prompt.input_ids
    if rules.new_tokens(len(ids), sampling.max_new_tokens) < 1:
        detail = f"the prompt has {len(ids)} tokens, the model's context {rules.context}"
        return ItemError("too_long", detail, retryable=False)
    known = model.get_input_embeddings().num_embeddings
    if max(ids) >= known:
        detail = f"token {max(ids)} is not one of the model's {known}: its tokenizer is another model's"
        return ItemError("unknown_token", detail, retryable=False)
    return None


_TOGETHER: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _draws_together(model: Any, processor: Any, prompts: Sequence[Draws], rules: StopRules) -> bool:
    """Whether our loop serves this model; a family we have not proven is compared with `generate` on two prompts."""
    if model not in _TOGETHER and prompts:
        reason = ""
        if rules.needs_generate:
            reason = f"only generate() knows its {', '.join(rules.needs_generate)}"
        elif model.config.model_type not in PROVEN and not agrees_with_generate(model, processor, prompts, rules):
            reason = "its prompts cannot share their prefill"
        if reason:
            _LOG.warning("model of type '%s': completions are drawn one by one, %s", model.config.model_type, reason)
        _TOGETHER[model] = not reason
    return _TOGETHER.get(model, True)


def agrees_with_generate(model: Any, processor: Any, prompts: Sequence[Draws], rules: StopRules) -> bool:
    """Whether four greedy tokens of a short and a long prompt, drawn in one batch, are those of `generate`."""
    ordered = sorted((wanted.prompt for wanted in prompts), key=lambda prompt: len(prompt.input_ids))
    chosen = [Draws(prompt, (0,)) for prompt in (ordered[0], ordered[-1]) if kind(prompt) == kind(ordered[0])]
    short = Sampling(temperature=0.0, max_new_tokens=4)
    try:
        ours = draw_together(model, processor, chosen, short, rules)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001 - a family that cannot fails in its own way
        return False
    return ours == draw_one_by_one(model, processor, chosen, short, rules)


def _batches(prompts: Sequence[Draws], indices: list[int], sampling: Sampling, batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts to run together: one kind, by length, at most `batch_size` rows (one prompt at least)."""
    ordered = sorted(indices, key=lambda index: (kind(prompts[index].prompt), -len(prompts[index].prompt.input_ids)))
    batch: list[int] = []
    rows = 0
    for index in ordered:
        count = prompts[index].num_rows(sampling)
        other = batch and kind(prompts[batch[0]].prompt) != kind(prompts[index].prompt)
        if batch and (rows + count > batch_size or other):
            yield batch
            batch, rows = [], 0
        batch.append(index)
        rows += count
    if batch:
        yield batch
