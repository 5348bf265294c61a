"""Images as a model's vision tower takes them: numbered, encoded once, their features kept while they cannot change."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pairsight.images.source import ImageSource
from pairsight.models.local.processor import EncodedPrompt, encode
from pairsight.records import ImageRef, Prompt
from pairsight.store.encoding import encode as encode_record
from pairsight.training.families import evaluating, inner_model
from pairsight.training.vision.tower import Features, Tensors, TowerOutput, project, record_tower, run_tower

_LOG = logging.getLogger("pairsight.training")
_CHUNK = 4
"""Images that go through a frozen tower together: fixed by their numbers, so that a resumed run is bit-identical."""


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
        placeholder: the token id of a piece of an image.
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
        self._tower_outputs: dict[int, TowerOutput] = {}
        self._all_fit: bool | None = None
        self._full = False

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
            (self._number((ref,), prompt, index, encoded, tensors), [index])
            for index, (ref, tensors) in enumerate(zip(encoded.images, parts, strict=True))
        ]

    def num_tokens(self, unit: int) -> int:
        """Placeholder tokens of a unit."""
        return self._units[unit].num_tokens

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
        return run_tower(model, [self._tensors(u) for u in units], [self.num_tokens(u) for u in units])

    def _tower(self, model: Any, projectors: Sequence[str], unit: int) -> TowerOutput:
        if unit in self._tower_outputs:
            return self._tower_outputs[unit]
        output = record_tower(model, projectors, self._tensors(unit))
        self._drop_pixels(unit)
        if self._fits(output.num_bytes):
            self._tower_outputs[unit] = output
        return output

    def _frozen_features(self, model: Any, unit: int) -> dict[int, Features]:
        if self._all_fit is None:
            self._all_fit = sum(u.num_tokens for u in self._units) * _bytes_per_token(model) <= self._budget
        start = unit - unit % _CHUNK
        chunk = list(range(start, min(start + _CHUNK, len(self._units)))) if self._all_fit else [unit]
        with torch.no_grad(), evaluating(inner_model(model)):
            made = run_tower(model, [self._tensors(u) for u in chunk], [self.num_tokens(u) for u in chunk])
        new = dict(zip(chunk, made, strict=True))
        for number, features in new.items():
            self._drop_pixels(number)
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
            need = len(self._units) * num_bytes / 2**20
            _LOG.warning(
                "image_cache_mb=%d does not hold the features of all %d images, about %d MB: those of the others are "
                "computed again each time",
                self._budget / 2**20, len(self._units), need,
            )  # fmt: skip
        return False

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


def _bytes_per_token(model: Any) -> int:
    inner = inner_model(model)
    layers = 1 + len(getattr(getattr(inner.config, "vision_config", None), "deepstack_visual_indexes", None) or [])
    return int(inner.config.get_text_config().hidden_size * inner.dtype.itemsize * layers)
