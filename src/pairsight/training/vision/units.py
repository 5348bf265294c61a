"""Images as a model's vision tower takes them: numbered, encoded once, their features kept while they cannot change."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from pairsight.images.source import ImageSource, size_of
from pairsight.models.local.chat import copy_processor, tokenizer_of
from pairsight.models.local.processor import EncodedPrompt, encode, encode_pictures, rows_of_images
from pairsight.records import ImageRef, Prompt
from pairsight.store.encoding import encode as encode_record
from pairsight.training.batch import to_device
from pairsight.training.data.table import Catalogue, Unit
from pairsight.training.families import evaluating, inner_model
from pairsight.training.vision.tower import Features, Tensors, TowerOutput, project, record_tower, run_tower

_LOG = logging.getLogger("pairsight.training")
_CHUNK = 4
"""Images that go through a frozen tower together: fixed by their numbers, so that a resumed run is bit-identical."""


class TextEncoder:
    """Encodes prompts as `encode` does, but of their pixels gives only the shape.

    What a processor makes of pictures, apart from the pixels, follows from their sizes. So it is given pictures once
    for all prompts with pictures of these sizes, and the sizes are read from the files' headers. Where it puts a run of
    placeholders, it is given one, and its token is repeated: a tokenizer splits a text at them. The second prompt of
    each size is encoded both ways, and what differs is encoded in full from then on.

    Args:
        processor: from `load_processor`.
        images: where the prompts' images are.

    Source: ours.
    """

    def __init__(self, processor: Any, images: ImageSource) -> None:
        self.processor, self.images, self._processor = processor, images, processor
        self._sizes: dict[str, tuple[int, int]] = {}
        self._known = _KnownSizes(getattr(processor, "image_processor", None))
        self._runs: _Runs | None = None
        if self._known.real is not None:
            self._processor = copy_processor(processor)
            self._processor.image_processor = self._known
            tokenizer = tokenizer_of(processor)
            placeholder = getattr(tokenizer, "image_token_id", None) or getattr(processor, "image_token_id", None)
            if placeholder is not None and hasattr(processor, "replace_image_token"):
                mark = tokenizer.convert_ids_to_tokens(placeholder)
                self._runs = _Runs(placeholder, mark, self._processor.replace_image_token)
                self._processor.replace_image_token = self._runs.replacement
        self._is_short: dict[Sizes, bool] = {}

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """A prompt's tokens; of its tensors those that hold pixels have their shape, and no memory.

        Raises:
            DataError, ModelError: as `encode`.
        """
        if self._known.real is None:
            return encode(self._processor, prompt, self.images)
        sizes = tuple(self._size(ref) for ref in prompt.images)
        if not sizes or self._runs is None or not self._known.expects(sizes):
            return self._encode(prompt, sizes)
        if sizes not in self._is_short:
            full, short = self._encode(prompt, sizes), self._shortened(prompt, sizes, self._runs)
            if len(self._is_short) >= _MOST_SIZES:
                self._is_short.clear()
            self._is_short[sizes] = short is not None and replace(short, tensors={}) == replace(full, tensors={})
            return full
        found = self._shortened(prompt, sizes, self._runs) if self._is_short[sizes] else None
        return self._encode(prompt, sizes) if found is None else found

    def _shortened(self, prompt: Prompt, sizes: "Sizes", runs: "_Runs") -> EncodedPrompt | None:
        with runs.shortened():
            encoded = self._encode(prompt, sizes)
        return runs.expanded(encoded)

    def _encode(self, prompt: Prompt, sizes: "Sizes") -> EncodedPrompt:
        refs = prompt.images

        def pictures() -> list[Any]:
            if self._known.expects(sizes):
                return [Image.new("RGB", (1, 1)) for _ in refs]
            return [self.images.open(ref) for ref in refs]

        encoded = encode_pictures(self._processor, prompt, pictures, as_tensors=False)
        if any(ref.distortion is not None and ref.distortion.space == "normalised" for ref in refs):
            rows_of_images(encoded.tensors, len(refs))  # what cannot be distorted is refused here
        return encoded

    def _size(self, ref: ImageRef) -> tuple[int, int]:
        rendered = ref.distortion is not None and ref.distortion.space == "rendered"
        name = f"{ref.sha256} rendered" if rendered else ref.sha256
        if name not in self._sizes:
            if len(self._sizes) >= _MOST_SIZES:
                self._sizes.clear()
            self._sizes[name] = size_of(self.images, ref)
        return self._sizes[name]


Sizes = tuple[tuple[int, int], ...]
"""Width and height of each picture of a prompt."""


class _Runs:
    """Runs of placeholders in the text that a processor puts where an image is: one placeholder, repeated later.

    Args:
        placeholder: its token id.
        mark: its text.
        real: the processor's method that gives the text of an image.
    """

    def __init__(self, placeholder: int, mark: str, real: Callable[..., str]) -> None:
        self._placeholder, self._mark, self._real = placeholder, mark, real
        self._several = re.compile(f"(?:{re.escape(mark)})+")
        self._lengths: list[int] | None = None
        self._last: list[int] = []

    def replacement(self, *arguments: Any, **options: Any) -> str:
        """The text of an image."""
        text = self._real(*arguments, **options)
        if self._lengths is None:
            return text
        self._lengths += [len(run) // len(self._mark) for run in self._several.findall(text)]
        return self._several.sub(lambda run: self._mark, text)

    @contextmanager
    def shortened(self) -> Iterator[None]:
        """Inside, images' texts have one placeholder for each run."""
        self._lengths = []
        try:
            yield
        finally:
            self._last, self._lengths = self._lengths, None

    def expanded(self, short: EncodedPrompt) -> EncodedPrompt | None:
        """What was encoded last inside `shortened`, with all placeholders; None where others than images' are in it."""
        ids_T = np.array(short.input_ids)
        counts_T = np.ones(len(ids_T), np.int64)
        (where,) = np.nonzero(ids_T == self._placeholder)
        if len(where) != len(self._last):
            return None
        counts_T[where] = self._last
        ends_T = counts_T.cumsum()
        return replace(
            short,
            input_ids=ids_T.repeat(counts_T).tolist(),
            token_inputs={name: np.repeat(values, counts_T).tolist() for name, values in short.token_inputs.items()},
            image_spans=tuple(
                (int(ends_T[start] - counts_T[start]), int(ends_T[end - 1])) for start, end in short.image_spans
            ),
        )


_MOST_SIZES = 2**15
"""Sizes that are remembered at a time."""


class _KnownSizes:
    """An image processor that remembers, by the sizes of the pictures, all that it gave but the pixels."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self._sizes: Sizes = ()
        self._given: dict[Sizes, dict[str, Any]] = {}

    def expects(self, sizes: Sizes) -> bool:
        """Expect pictures of these sizes next; whether any will do."""
        self._sizes = sizes
        return sizes in self._given

    def __call__(self, images: Any, **options: Any) -> Any:
        if self._sizes not in self._given:
            if len(self._given) >= _MOST_SIZES:
                self._given.clear()
            made = self.real(images, **{**options, "return_tensors": "pt"})
            self._given[self._sizes] = {name: _without_pixels(value) for name, value in made.items()}
        return BatchFeature(dict(self._given[self._sizes]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _without_pixels(value: Any) -> Any:
    """A tensor of the same shape that holds one number, for one of real numbers."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.zeros((), dtype=torch.uint8).expand(value.shape)
    return value


class ImageUnits:
    """All images of a dataset.

    Args:
        text: encodes prompts, with the model's processor and the images.
        placeholder: the token id of a piece of an image.
        cache_mb: memory for pixels and features; what does not fit is decoded again when needed.
        catalogue: where prompts and units are kept.

    Attributes:
        names: what identifies each unit that was added, 16 bytes, by its number.
    """

    def __init__(
        self, text: TextEncoder, placeholder: int | None, cache_mb: int, catalogue: Catalogue | None = None
    ) -> None:
        self.text, self._placeholder = text, placeholder
        self.catalogue = catalogue or Catalogue()
        self.names: list[bytes] = []
        self._budget = self._room = cache_mb * 2**20
        self._numbers: dict[bytes, int] = {}
        self._pixels: dict[int, Tensors] = {}
        self._features: dict[int, Features] = {}
        self._tower_outputs: dict[int, TowerOutput] = {}
        self._all_fit: bool | None = None
        self._full = False

    def add(self, prompt: Prompt) -> tuple[int, EncodedPrompt, list[tuple[int, list[int]]]]:
        """Encode a prompt, without pixels, and number it and its images.

        Returns:
            The prompt's number, the encoded prompt, and per unit its number and the images of the prompt it covers.
        """
        encoded = self.text.encode(prompt)
        number = self.catalogue.add_prompt(prompt)
        if not encoded.images:
            return number, encoded, []
        if split_by_image(encoded.tensors, len(encoded.images)) is None:
            covered = list(range(len(encoded.images)))
            return number, encoded, [(self._number(encoded, number, -1), covered)]
        return number, encoded, [(self._number(encoded, number, part), [part]) for part in range(len(encoded.images))]

    def num_tokens(self, unit: int) -> int:
        """Placeholder tokens of a unit."""
        return self.catalogue.unit(unit).num_tokens

    def features(
        self, model: Any, units: Sequence[int], *, frozen: bool, projectors: Sequence[str] = ()
    ) -> list[Features]:
        """Features of each unit.

        Args:
            model: whose tower and projector.
            units: numbers of units.
            frozen: nothing between pixels and language model is trained: features are kept.
            projectors: full names of the projector's modules, if they are trained and the tower is not: the tower's
                output is kept, and the projector computed each time, unit by unit, in every packing alike.
        """
        if frozen:
            found: dict[int, Features] = {}
            for unit in units:
                if unit not in self._features and unit not in found:
                    found.update(self._frozen_features(model, unit))
            return [self._features.get(u) or found[u] for u in units]
        if projectors:
            return [project(model, projectors, self._tower(model, projectors, u), self.num_tokens(u)) for u in units]
        return run_tower(model, [self._kept_tensors(u) for u in units], [self.num_tokens(u) for u in units])

    def _tower(self, model: Any, projectors: Sequence[str], unit: int) -> TowerOutput:
        if unit in self._tower_outputs:
            return self._tower_outputs[unit]
        output = record_tower(model, projectors, self._tensors(unit))
        if self._fits(output.num_bytes):
            self._tower_outputs[unit] = output
        return output

    def _frozen_features(self, model: Any, unit: int) -> dict[int, Features]:
        if self._all_fit is None:
            self._all_fit = self.catalogue.num_unit_tokens * _bytes_per_token(model) <= self._budget
        start = unit - unit % _CHUNK
        chunk = list(range(start, min(start + _CHUNK, self.catalogue.num_units))) if self._all_fit else [unit]
        with torch.no_grad(), evaluating(inner_model(model)):
            made = run_tower(model, [self._tensors(u) for u in chunk], [self.num_tokens(u) for u in chunk])
        new = dict(zip(chunk, made, strict=True))
        for number, features in new.items():
            if self._fits(features.num_bytes):
                self._features[number] = features
        return new

    def _fits(self, num_bytes: int) -> bool:
        """Whether one more image's features can be kept, which then counts; the first that cannot is said."""
        if self._room >= num_bytes:
            self._room -= num_bytes
            return True
        if not self._full:
            self._full = True
            need = self.catalogue.num_units * num_bytes / 2**20
            _LOG.warning(
                "image_cache_mb=%d does not hold the features of all %d images, about %d MB: those of the others are "
                "computed again each time",
                self._budget / 2**20, self.catalogue.num_units, need,
            )  # fmt: skip
        return False

    def _number(self, encoded: EncodedPrompt, prompt: int, part: int) -> int:
        """The number of a prompt's image, or of all its images together (part -1): new, or known from another one."""
        images, spans = encoded.images, encoded.image_spans
        if part >= 0:
            images, spans = images[part : part + 1], spans[part : part + 1]
        name = hashlib.sha256("|".join(encode_record(ref) for ref in images).encode()).digest()[:16]
        if name not in self._numbers:
            placeholders = sum(encoded.input_ids[start:end].count(self._placeholder or 0) for start, end in spans)
            self._numbers[name] = self.catalogue.add_unit(Unit(prompt, part, placeholders))
            self.names.append(name)
        return self._numbers[name]

    def _tensors(self, number: int) -> Tensors:
        """What the vision tower is given for a unit."""
        unit = self.catalogue.unit(number)
        encoded = encode(self.text.processor, self.catalogue.prompt(unit.prompt), self.text.images)
        if unit.part < 0:
            return encoded.tensors
        parts = split_by_image(encoded.tensors, len(encoded.images))
        assert parts is not None
        return parts[unit.part]

    def _kept_tensors(self, number: int) -> Tensors:
        """The same, kept for a tower that is trained, and so is run again in each epoch."""
        if number not in self._pixels:
            tensors = self._tensors(number)
            size = sum(t.numel() * t.element_size() for t in tensors.values())
            if self._room < size:
                return tensors
            self._room -= size
            self._pixels[number] = tensors
        return self._pixels[number]


def split_by_image(tensors: Tensors, count: int) -> list[Tensors] | None:
    """A prompt's tensors image by image; None where the processor mixes images or depends on all of them."""
    if count == 1:
        return [tensors]
    if set(tensors) == {"pixel_values", "image_grid_thw"}:
        patches = torch.split(tensors["pixel_values"], tensors["image_grid_thw"].prod(dim=1).tolist())
        return [
            {"pixel_values": pixels, "image_grid_thw": tensors["image_grid_thw"][i : i + 1]}
            for i, pixels in enumerate(patches)
        ]
    if set(tensors) <= {"pixel_values", "image_sizes"} and all(len(t) == count for t in tensors.values()):
        return [{name: t[i : i + 1] for name, t in tensors.items()} for i in range(count)]
    return None


def encoder_outputs(embeddings: Tensor, deepstack: Sequence[Tensor], *, listed: bool) -> dict[str, object]:
    """Features in the order of a batch's placeholders [tokens, D], as a forward's `mm_encoder_outputs` takes them."""
    pooled: Any = [embeddings] if listed else embeddings[None]
    return {"image": SimpleNamespace(pooler_output=pooled, deepstack_features=[[layer] for layer in deepstack])}


@contextmanager
def known_placeholders(inner: Any, input_ids_RS: Tensor) -> Iterator[None]:
    """Let a model's forward find and count the placeholders of a pass on the CPU, if the model is elsewhere.

    A family's `get_placeholder_mask` counts them among the tokens that the forward is given, to know whether there is a
    feature for each: for that count the CPU waits for a GPU.

    Args:
        inner: the model without its head.
        input_ids_RS: the pass's tokens, on the CPU.
    """
    find = getattr(type(inner), "get_placeholder_mask", None)
    if find is None or inner.device.type == "cpu":
        yield
        return

    def found(_: Tensor, inputs_embeds: Tensor, *features: Tensor, **named: Tensor) -> Any:
        of_the_same_shape = torch.empty(()).expand(inputs_embeds.shape)
        masks = find(inner, input_ids_RS, of_the_same_shape, *features, **named)
        if isinstance(masks, tuple):
            return tuple(to_device(mask, inputs_embeds.device) for mask in masks)
        return to_device(masks, inputs_embeds.device)

    inner.get_placeholder_mask = found
    try:
        yield
    finally:
        del inner.get_placeholder_mask


def _bytes_per_token(model: Any) -> int:
    inner = inner_model(model)
    layers = 1 + len(getattr(getattr(inner.config, "vision_config", None), "deepstack_visual_indexes", None) or [])
    return int(inner.config.get_text_config().hidden_size * inner.dtype.itemsize * layers)
