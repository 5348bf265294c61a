"""A batch of completions between two tokens: what the model said last, and all it needs to go on.

Legend: B prompts, R rows (completions being written), L longest prompt, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from pairsight.errors import ModelError
from pairsight.models.local.chat import tokenizer_of
from pairsight.models.local.processor import EncodedPrompt
from pairsight.models.local.tokens import StopRules, choose, penalise_repetition
from pairsight.models.protocols import Sampling

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Draws:
    """One prompt and the seeds of the completions to draw from it."""

    prompt: EncodedPrompt
    seeds: tuple[int, ...]

    def num_rows(self, sampling: Sampling) -> int:
        """How many different completions that makes: one, at temperature 0."""
        return len(self.seeds) if sampling.temperature > 0 else 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion: its tokens without the stop token, its text, and why it ended ("stop" or "length")."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


def join(prompts: Sequence[EncodedPrompt], pad_id: int, device: "torch.device") -> "dict[str, torch.Tensor]":
    """`input_ids`, `attention_mask`, per-token inputs [B, L] and image tensors of B prompts.

    Image tensors are joined along their first axis; where other axes differ (numbers of tiles), zeros fill up, which
    the families that have such axes pass over.

    Args:
        prompts: of one `kind`.
    """
    import torch

    longest = max(len(prompt.input_ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    per_token = {name: torch.zeros((len(prompts), longest), dtype=torch.long) for name in prompts[0].token_inputs}
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt.input_ids)
        ids[row, start:] = torch.tensor(prompt.input_ids)
        mask[row, start:] = 1
        for name, values in prompt.token_inputs.items():
            per_token[name][row, start:] = torch.tensor(values)
    images = {name: _stack([prompt.tensors[name] for prompt in prompts]) for name in prompts[0].tensors}
    joined = {"input_ids": ids, "attention_mask": mask, **per_token, **images}
    return {name: tensor.to(device) for name, tensor in joined.items()}


def kind(prompt: EncodedPrompt) -> tuple[object, ...]:
    """What prompts must share to be joined: the same inputs, images or none."""
    return (*sorted(prompt.tensors), "|", *sorted(prompt.token_inputs))


def _stack(tensors: "list[torch.Tensor]") -> "torch.Tensor":
    import torch

    sizes = [max(axis) for axis in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if any(list(tensor.shape[1:]) != sizes for tensor in tensors):
        tensors = [_fill(tensor, sizes) for tensor in tensors]
    return torch.cat(tensors)


def _fill(tensor: "torch.Tensor", sizes: list[int]) -> "torch.Tensor":
    filled = tensor.new_zeros((tensor.shape[0], *sizes))
    filled[tuple(slice(size) for size in tensor.shape)] = tensor
    return filled


_ROOM = 64
"""Tokens of room made at a time, at least (ours: a copy every 64 tokens is lost in the noise)."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One attention layer's keys and values [R, heads, length, width], with room for tokens to come."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new tokens' keys and values and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        if old == 0:
            self._key_room, self._value_room = key_states, value_states
        else:
            new = old + key_states.shape[-2]
            if new > self._key_room.shape[-2]:
                self._key_room = _with_room(self.keys, new)
                self._value_room = _with_room(self.values, new)
            self._key_room[:, :, old:new] = key_states
            self._value_room[:, :, old:new] = value_states
        length = old + key_states.shape[-2]
        self.keys, self.values = self._key_room[:, :, :length], self._value_room[:, :, :length]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows at `indices`, repeated where an index repeats, and make room ahead."""
        length = self.get_seq_length()
        if length == 0:
            return
        self._key_room = _with_room(self.keys, length, indices)
        self._value_room = _with_room(self.values, length, indices)
        self.keys, self.values = self._key_room[:, :, :length], self._value_room[:, :, :length]


def growing_cache(model: Any) -> DynamicCache:
    """An empty cache for a model: growing layers for plain attention, transformers' own for all others."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _with_room(states: torch.Tensor, used: int, indices: torch.Tensor | None = None) -> torch.Tensor:
    rows = states.shape[0] if indices is None else len(indices)
    room = states.new_empty((rows, states.shape[1], used + max(_ROOM, used // 8), states.shape[3]))
    kept = states if indices is None else states.index_select(0, indices)
    room[:, :, : kept.shape[-2]] = kept
    return room


@dataclass(slots=True)
class Decoding:
    """A batch between two tokens: logits [R, V], mask, positions [(channels,) R, 1], tokens seen [R, V]."""

    logits: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor | None
    cache: Any
    seen: torch.Tensor | None

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows, an index given twice becoming two."""
        self.logits, self.mask = self.logits.index_select(0, rows), self.mask.index_select(0, rows)
        if self.positions is not None:
            self.positions = self.positions.index_select(-2, rows)
        if self.seen is not None:
            self.seen = self.seen.index_select(0, rows)
        self.cache.batch_select_indices(rows)

    def penalised_logits(self, rules: StopRules) -> torch.Tensor:
        """Logits in float32, with the model's repetition penalty."""
        logits = self.logits.float()
        return logits if self.seen is None else penalise_repetition(logits, self.seen, rules.repetition_penalty)

    def advance(self, model: Any, tokens: torch.Tensor) -> None:
        """Read one more token per row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.mask), 1))], dim=1)
        given: dict[str, Any] = {"attention_mask": self.mask, "past_key_values": self.cache, "use_cache": True}
        if self.positions is not None:
            self.positions = self.positions + 1
            given["position_ids"] = self.positions
        if self.seen is not None:
            self.seen.scatter_(1, tokens.unsqueeze(1), True)
        inputs = model.prepare_inputs_for_generation(tokens.unsqueeze(1), is_first_iteration=False, **given)
        self.logits = model(**inputs, return_dict=True).logits[:, -1]


def prefill(model: Any, prompts: list[EncodedPrompt], rules: StopRules) -> Decoding:
    """Read all prompts and images of a batch."""
    given: dict[str, Any] = dict(join(prompts, rules.pad_id, model.device))
    ids, mask = given.pop("input_ids"), given["attention_mask"]
    given |= {"past_key_values": growing_cache(model), "use_cache": True}
    given |= {name: tensor.to(model.dtype) for name, tensor in given.items() if _is_float(tensor)}
    accepted = inspect.signature(model.forward).parameters
    positions = None
    if "position_ids" in accepted:
        positions = given["position_ids"] = model._prepare_position_ids_for_generation(ids, given)
    if "logits_to_keep" in accepted:
        given["logits_to_keep"] = 1
    inputs = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **given)
    outputs = model(**inputs, return_dict=True)
    logits = outputs.logits[:, -1]
    seen = None
    if rules.repetition_penalty != 1.0:
        seen = torch.zeros_like(logits, dtype=torch.bool)
        padded = torch.where(mask.bool(), ids, ids[:, -1:])
        seen.scatter_(1, padded, True)
    last = None if positions is None else positions[..., -1:]
    return Decoding(logits, mask, last, outputs.past_key_values, seen)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


_SPARSE = 0.75
"""Rows are closed up when fewer than this share is still being written (ours: closing up copies the cache)."""


@dataclass(slots=True)
class _Draft:
    """A completion being written."""

    prompt: int
    draw: int
    limit: int
    tokens: list[int] = field(default_factory=list)


@torch.no_grad()
def draw_together(
    model: Any, processor: Any, prompts: Sequence[Draws], sampling: Sampling, rules: StopRules
) -> list[list[Drawn]]:
    """Completions of each prompt, one per seed, from one batch.

    Raises:
        ModelError: the model's logits are not numbers: broken weights, or float16 where it overflows.
    """
    rows = [
        _Draft(index, number, rules.new_tokens(len(wanted.prompt.input_ids), sampling.max_new_tokens))
        for index, wanted in enumerate(prompts)
        for number in range(wanted.num_rows(sampling))
    ]
    state = prefill(model, [wanted.prompt for wanted in prompts], rules)
    state.keep(torch.tensor([row.prompt for row in rows], device=model.device))
    uniforms = _uniforms(prompts, rows, sampling, model.device)
    finished: dict[tuple[int, int], Drawn] = {}
    writing: list[int] = list(range(len(rows)))  # the row at each index of the batch
    step = 0
    while True:
        numbers = None if uniforms is None else uniforms[writing, step]
        logits = state.penalised_logits(rules)
        if logits.sum(dim=-1).isnan().any():
            raise ModelError(f"{model.name_or_path or 'the model'} computes NaN: check its weights, or use float32")
        tokens = choose(logits, sampling, numbers)
        unfinished = []
        for index, token in enumerate(tokens.tolist()):
            row = rows[writing[index]]
            if (row.prompt, row.draw) in finished:
                continue
            done = _write(row, token, rules, processor)
            if done is None:
                unfinished.append(index)
            else:
                finished[row.prompt, row.draw] = done
        if not unfinished:
            break
        if len(unfinished) < _SPARSE * len(writing):
            kept = torch.tensor(unfinished, device=model.device)
            state.keep(kept)
            tokens = tokens[kept]
            writing = [writing[index] for index in unfinished]
        state.advance(model, tokens)
        step += 1
    return [
        [finished[index, number if sampling.temperature > 0 else 0] for number in range(len(wanted.seeds))]
        for index, wanted in enumerate(prompts)
    ]


def _write(row: _Draft, token: int, rules: StopRules, processor: Any) -> Drawn | None:
    """Add a token to a row; the completion, when that ends it."""
    if token in rules.stop_ids:
        return _drawn(row, processor, "stop")
    row.tokens.append(token)
    if rules.stop_strings:
        text = _decode(row.tokens, processor)
        cut = rules.cut_at_stop_string(text)
        if cut is not None:
            return Drawn(tuple(row.tokens), cut, "stop")
    return _drawn(row, processor, "length") if len(row.tokens) >= row.limit else None


def _drawn(row: _Draft, processor: Any, finish_reason: str) -> Drawn:
    return Drawn(tuple(row.tokens), _decode(row.tokens, processor), finish_reason)


def _decode(tokens: list[int], processor: Any) -> str:
    return str(tokenizer_of(processor).decode(tokens, skip_special_tokens=True))


def _uniforms(
    prompts: Sequence[Draws], rows: list[_Draft], sampling: Sampling, device: torch.device
) -> torch.Tensor | None:
    """Random numbers [rows, tokens], each row from its own seed alone; drawn on the CPU, so that devices agree."""
    if sampling.temperature == 0:
        return None
    numbers = torch.zeros((len(rows), max(row.limit for row in rows)), dtype=torch.float64)
    for index, row in enumerate(rows):
        generator = torch.Generator().manual_seed(prompts[row.prompt].seeds[row.draw])
        numbers[index, : row.limit] = torch.rand(row.limit, generator=generator, dtype=torch.float64)
    return numbers.to(device)
