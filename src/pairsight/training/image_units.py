"""Images as a model's vision tower takes them: numbered, encoded once, their features kept while they cannot change."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pairsight.errors import DataError
from pairsight.images.source import ImageSource
from pairsight.models.processor import EncodedPrompt, encode
from pairsight.records import ImageRef, Prompt
from pairsight.store.codec import encode as encode_record
from pairsight.training.families import inner_model

Tensors = dict[str, Tensor]

_CHUNK = 4
"""Images that go through a frozen tower together: fixed by their numbers, so that a resumed run repeats every bit."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower makes of one unit: token embeddings [tokens, D], and one more per deepstack layer.

    `listed` says whether the model hands its features around as a list of images or as one tensor.
    """

    embeddings: Tensor
    deepstack: tuple[Tensor, ...]
    listed: bool

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for t in (self.embeddings, *self.deepstack))


@dataclass(frozen=True, slots=True)
class _Unit:
    prompt: Prompt
    part: int | None
    num_tokens: int


class ImageUnits:
    """All images of a dataset. A unit is one image, or all images of a prompt whose processor mixes them.

    Args:
        processor: from `load_processor`.
        images: where the images are.
        placeholder: the token id that stands for a piece of an image.
        cache_mb: memory for pixels and features; what does not fit is decoded again when needed.
    """

    def __init__(self, processor: Any, images: ImageSource, placeholder: int | None, cache_mb: int) -> None:
        self._processor = processor
        self._placeholder = placeholder
        self._images = images
        self._budget = self._room = cache_mb * 2**20
        self._numbers: dict[str, int] = {}
        self._units: list[_Unit] = []
        self._pixels: dict[int, Tensors] = {}
        self._features: dict[int, Features] = {}
        self._all_fit: bool | None = None

    def __len__(self) -> int:
        return len(self._units)

    def add(self, prompt: Prompt) -> tuple[EncodedPrompt, list[tuple[int, list[int]]]]:
        """Encode a prompt and number its images.

        Returns:
            The encoded prompt, and per unit its number and the images of the prompt it covers.
        """
        encoded = encode(self._processor, prompt, self._images)
        if not encoded.images:
            return encoded, []
        parts = split_by_image(encoded.tensors, len(encoded.images))
        if parts is None:
            covered = list(range(len(encoded.images)))
            return encoded, [(self._number(encoded.images, prompt, None, encoded, encoded.tensors), covered)]
        return encoded, [
            (self._number((ref,), prompt, place, encoded, tensors), [place])
            for place, (ref, tensors) in enumerate(zip(encoded.images, parts, strict=True))
        ]

    def num_tokens(self, unit: int) -> int:
        """Placeholder tokens of a unit."""
        return self._units[unit].num_tokens

    def features(self, model: Any, units: Sequence[int], *, frozen: bool) -> list[Features]:
        """Features of each unit; kept when `frozen` (nothing between pixels and language model is trained)."""
        if not frozen:
            return run_tower(model, [self._tensors(u) for u in units], [self.num_tokens(u) for u in units])
        found: dict[int, Features] = {}
        for unit in units:
            if unit not in self._features and unit not in found:
                found.update(self._frozen_features(model, unit))
        return [self._features.get(u) or found[u] for u in units]

    def forget(self) -> None:
        """Drop all features, because weights between pixels and language model changed."""
        self._features.clear()

    def _frozen_features(self, model: Any, unit: int) -> dict[int, Features]:
        if self._all_fit is None:
            self._all_fit = sum(u.num_tokens for u in self._units) * _bytes_per_token(model) <= self._budget
        start = unit - unit % _CHUNK
        chunk = list(range(start, min(start + _CHUNK, len(self._units)))) if self._all_fit else [unit]
        inner = inner_model(model)
        training = inner.training
        inner.eval()
        with torch.no_grad():
            made = run_tower(model, [self._tensors(u) for u in chunk], [self.num_tokens(u) for u in chunk])
        inner.train(training)
        new = dict(zip(chunk, made, strict=True))
        for number, features in new.items():
            self._drop_pixels(number)
            if self._room >= features.num_bytes:
                self._room -= features.num_bytes
                self._features[number] = features
        return new

    def _number(
        self, key: tuple[ImageRef, ...], prompt: Prompt, part: int | None, encoded: EncodedPrompt, tensors: Tensors
    ) -> int:
        name = "|".join(encode_record(ref) for ref in key)
        if name in self._numbers:
            return self._numbers[name]
        spans = encoded.image_spans if part is None else (encoded.image_spans[part],)
        number = self._numbers[name] = len(self._units)
        placeholders = sum(encoded.input_ids[start:end].count(self._placeholder or 0) for start, end in spans)
        self._units.append(_Unit(prompt, part, placeholders))
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if self._room >= size:
            self._room -= size
            self._pixels[number] = tensors
        return number

    def _tensors(self, number: int) -> Tensors:
        if number in self._pixels:
            return self._pixels[number]
        unit = self._units[number]
        encoded = encode(self._processor, unit.prompt, self._images)
        if unit.part is None:
            return encoded.tensors
        parts = split_by_image(encoded.tensors, len(encoded.images))
        assert parts is not None
        return parts[unit.part]

    def _drop_pixels(self, number: int) -> None:
        if (tensors := self._pixels.pop(number, None)) is not None:
            self._room += sum(t.numel() * t.element_size() for t in tensors.values())


def split_by_image(tensors: Tensors, count: int) -> list[Tensors] | None:
    """A prompt's tensors image by image; None where the processor mixes the images or what it does depends on all."""
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


def run_tower(model: Any, tensors: Sequence[Tensors], num_tokens: Sequence[int]) -> list[Features]:
    """Vision tower and projector on several units, together where their tensors have one shape.

    Raises:
        DataError: the tower gives another number of features than the prompt has placeholders.
    """
    inner = inner_model(model)
    known = inspect.signature(inner.get_image_features).parameters
    results: list[Features | None] = [None] * len(tensors)
    waiting = list(range(len(tensors)))
    while waiting:
        shapes = {name: t.shape[1:] for name, t in tensors[waiting[0]].items()}
        together = [u for u in waiting if {name: t.shape[1:] for name, t in tensors[u].items()} == shapes]
        waiting = [u for u in waiting if u not in together]
        joined = {name: torch.cat([tensors[u][name] for u in together]) for name in shapes if name in known}
        joined = {
            name: t.to(inner.device, inner.dtype if t.is_floating_point() else t.dtype) for name, t in joined.items()
        }
        out = inner.get_image_features(**joined, return_dict=True)
        counts = [num_tokens[u] for u in together]
        embeddings = _split(out.pooler_output, counts)
        layers = [_split(layer, counts) for layer in getattr(out, "deepstack_features", None) or []]
        for place, unit in enumerate(together):
            deepstack = tuple(layer[place] for layer in layers)
            results[unit] = Features(embeddings[place], deepstack, isinstance(out.pooler_output, (list, tuple)))
    return [r for r in results if r is not None]


def encoder_outputs(embeddings: Tensor, deepstack: Sequence[Tensor], *, listed: bool) -> dict[str, Any]:
    """Features in the order of a batch's placeholders [tokens, D], as a forward's `mm_encoder_outputs` takes them."""
    pooled: Any = [embeddings] if listed else embeddings[None]
    return {"image": SimpleNamespace(pooler_output=pooled, deepstack_features=[[layer] for layer in deepstack])}


def _bytes_per_token(model: Any) -> int:
    inner = inner_model(model)
    layers = 1 + len(getattr(getattr(inner.config, "vision_config", None), "deepstack_visual_indexes", None) or [])
    return int(inner.config.get_text_config().hidden_size * inner.dtype.itemsize * layers)


def _split(features: Any, counts: list[int]) -> list[Tensor]:
    pieces = list(features) if isinstance(features, (list, tuple)) else [features]
    flat = torch.cat([piece.reshape(-1, piece.shape[-1]) for piece in pieces])
    if len(flat) != sum(counts):
        raise DataError(f"the vision tower gives {len(flat)} features for {sum(counts)} image placeholders")
    return list(torch.split(flat, counts))
