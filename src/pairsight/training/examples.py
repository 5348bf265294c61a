"""Turns pairs and demonstrations into training examples; those that cannot be trained on are skipped and counted."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pairsight.errors import DataError
from pairsight.images.distort import make_distortion
from pairsight.images.source import ImageSource
from pairsight.models.local.processor import EncodedPrompt, completion_ids, encode, stop_ids
from pairsight.records import Completion, Demonstration, ImageRef, PreferencePair, Prompt
from pairsight.seeds import derived_seed
from pairsight.store.encoding import encode as encode_record
from pairsight.training.families import Family, prompt_positions
from pairsight.training.tokens import Ints, Symbols, TokenExample, TokenPrompt, TokenSequence, token_example
from pairsight.training.vision.units import ImageUnits

_LOG = logging.getLogger("pairsight.training")


class Tokeniser:
    """Turns the prompts of one dataset into tokens and remembers what each was made from.

    Args:
        processor: from `load_processor`.
        model: the loaded model, used for positions only.
        family: from `describe(model)`.
        images: where the images are.
        cache_mb: memory for pixels and image features.
    """

    def __init__(self, processor: Any, model: Any, family: Family, images: ImageSource, cache_mb: int) -> None:
        self.units = ImageUnits(processor, images, family.placeholder, cache_mb)
        self._processor, self._model, self._family, self._images = processor, model, family, images
        self._generation_config = getattr(model, "generation_config", None)
        self._symbols = Symbols()
        if not stop_ids(processor, self._generation_config):
            _LOG.warning("the model names no end-of-sequence token: completions are trained without an end")
        self._prompts: list[Prompt] = []

    def prompt(self, prompt: Prompt) -> TokenPrompt:
        """A prompt's tokens.

        Raises:
            DataError: a missing image, or marks that do not fit the images.
        """
        encoded, parts = self.units.add(prompt)
        ids = np.array(encoded.input_ids, np.int64)
        unit, index = _units(encoded, parts, ids, self._family.placeholder)
        block = _blocks(encoded.token_inputs.get("token_type_ids"), self._family)
        block = np.full(len(ids), -1, np.int64) if block is None else block
        self._prompts.append(prompt)
        return TokenPrompt(
            symbols_T=self._symbols.of_prompt(ids, unit, index, block),
            input_ids_T=ids,
            positions_AT=self._positions(encoded),
            block_T=block,
            unit_T=unit,
            unit_index_T=index,
            number=len(self._prompts) - 1,
            key=_content_key(encoded),
        )

    def completion(self, completion: Completion) -> Ints:
        """A completion's token ids, with the end of the turn unless it was cut."""
        ids = completion_ids(self._processor, self._generation_config, completion.text, completion.finish_reason)
        return np.array(ids, np.int64)

    def separate_inputs(self, sequence: TokenSequence, padding: int = 0) -> dict[str, Tensor]:
        """Inputs of the model's own forward for one sequence, a batch of one, followed by masked tokens."""
        encoded = encode(self._processor, self._prompts[sequence.prompt], self._images)
        count = len(sequence) - sequence.prompt_length
        inputs = {"input_ids": torch.from_numpy(sequence.input_ids_T)[None], **encoded.tensors}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        suffix_type = {"token_type_ids": int(self._family.bidirectional == "prompt")}
        for name, values in encoded.token_inputs.items():
            inputs[name] = torch.tensor([values + [suffix_type.get(name, 0)] * count])
        if padding:
            inputs["attention_mask"] = pad(inputs["attention_mask"], (0, padding))
            inputs["input_ids"] = pad(inputs["input_ids"], (0, padding), value=int(inputs["input_ids"][0, -1]))
            for name in encoded.token_inputs:
                inputs[name] = torch.cat([inputs[name], inputs[name][:, -1:].expand(-1, padding)], dim=1)
        return inputs

    def _positions(self, encoded: EncodedPrompt) -> Ints:
        extra = dict(encoded.tensors)
        for name, values in encoded.token_inputs.items():
            extra[name] = torch.tensor(values)
        found = prompt_positions(self._model, self._family, torch.tensor(encoded.input_ids), extra)
        if found is not None:
            return found.numpy()
        axes = 3 if self._family.rope_index else 1
        return np.tile(np.arange(len(encoded.input_ids) + 1) + self._family.first_position, (axes, 1))


def _units(
    encoded: EncodedPrompt, parts: Sequence[tuple[int, list[int]]], ids: Ints, placeholder: int | None
) -> tuple[Ints, Ints]:
    """For each token, the image unit of which it is a placeholder and its index among the unit's placeholders."""
    unit, index = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
    for number, covered in parts:
        where = np.concatenate([np.arange(*encoded.image_spans[image]) for image in covered])
        where = where[ids[where] == placeholder]
        unit[where], index[where] = number, np.arange(len(where))
    return unit, index


def _blocks(token_types: list[int] | None, family: Family) -> Ints | None:
    """Numbers of the bidirectional blocks: runs of image tokens, or the full prompt."""
    if token_types is None or family.bidirectional == "none":
        return None
    types = np.array(token_types, np.int64)
    if family.bidirectional == "prompt":
        return np.where(types == 0, 0, -1)
    image = types == 1
    starts = image & ~np.concatenate([[False], image[:-1]])
    return np.where(image, np.cumsum(starts) - 1, -1)


def _content_key(encoded: EncodedPrompt) -> bytes:
    images = [encode_record(ref) for ref in encoded.images]
    content = json.dumps([encoded.input_ids, images, encoded.image_spans])
    return hashlib.sha256(content.encode()).digest()


Record = PreferencePair | Demonstration


@dataclass(slots=True)
class Prepared:
    """Examples ready for training, and counts of what was skipped or cut.

    Args:
        examples: in the order of the records.
        skipped: reason -> number of records left out.
        cut: completions shortened to `max_length`.
    """

    examples: list[TokenExample] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    cut: int = 0


def prepare(
    records: Sequence[Record],
    tokeniser: Tokeniser,
    *,
    max_length: int,
    fail_on_overlong: bool,
    min_completions: int,
    num_images: int,
    contrast: str,
    advance: Callable[[], None] = lambda: None,
) -> Prepared:
    """Tokenise records.

    A completion that does not fit is cut at its end; a prompt that leaves no room for one token is skipped or an
    error. Empty completions and rejected ones equal to the chosen are dropped; a pair that loses all is skipped.

    Args:
        records: pairs, demonstrations, or both.
        tokeniser: of the model.
        max_length: tokens of prompt and completion.
        fail_on_overlong: raise an error for a prompt that is too long, instead of skipping it.
        min_completions: what the losses need of an example.
        num_images: image sets the losses need: the prompt's own and `contrast_images`.
        contrast: the distortion that makes contrast images for records without any; seeded by the record's id.
        advance: called once per record.

    Raises:
        DataError: a prompt too long, ids used twice, or too few contrast images.
    """
    done = Prepared()
    limits = _Limits(max_length, fail_on_overlong, min_completions, num_images, contrast)
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise DataError(f"'{record.id}' is the id of two examples; ids must be unique")
        ids.add(record.id)
        example = _example(record, tokeniser, done, limits)
        if isinstance(example, str):
            done.skipped[example] += 1
        else:
            done.examples.append(example)
        advance()
    return done


@dataclass(frozen=True, slots=True)
class _Limits:
    max_length: int
    fail_on_overlong: bool
    min_completions: int
    num_images: int
    contrast: str


def _example(record: Record, tokeniser: Tokeniser, done: Prepared, limits: _Limits) -> TokenExample | str:
    chosen, rejected = _completions(record)
    if not chosen.text.strip():
        return "empty_chosen"
    if limits.num_images > 1 and not record.prompt.images:
        return "no_image_to_contrast"
    prompts = [tokeniser.prompt(prompt) for prompt in _prompts(record, limits)]
    room = limits.max_length - max(len(prompt) for prompt in prompts)
    if room < 1:
        if limits.fail_on_overlong:
            raise DataError(
                f"'{record.id}': its prompt has {limits.max_length - room} tokens, max_length is {limits.max_length}; "
                "raise max_length, or set overlong=skip"
            )
        return "overlong_prompt"
    kept: list[Ints] = []
    cut = 0
    for completion in (chosen, *(r for r in rejected if r.text.strip())):
        ids = tokeniser.completion(completion)
        cut += len(ids) > room
        ids = ids[:room]
        if not any(ids.tolist() == other.tolist() for other in kept[:1]):
            kept.append(ids)
    if len(kept) < limits.min_completions:
        return "identical_or_empty"
    done.cut += cut
    return token_example(record.id, prompts, kept, record.weight)


def _completions(record: Record) -> tuple[Completion, tuple[Completion, ...]]:
    if isinstance(record, Demonstration):
        return record.completion, ()
    return record.chosen, record.rejected


def _prompts(record: Record, limits: _Limits) -> list[Prompt]:
    """The prompt, then the same under each contrast image set."""
    count = limits.num_images - 1
    given = record.contrast_images if isinstance(record, PreferencePair) else ()
    if given and len(given) < count:
        raise DataError(f"'{record.id}' has {len(given)} contrast images and this loss needs {count}")
    sets: list[tuple[ImageRef, ...]] = [(image,) for image in given[:count]] or [
        tuple(
            ImageRef(image.sha256, make_distortion(limits.contrast, derived_seed(record.id, limits.contrast, n, index)))
            for index, image in enumerate(record.prompt.images)
        )
        for n in range(count)
    ]
    return [record.prompt, *(record.prompt.with_images(images) for images in sets)]
