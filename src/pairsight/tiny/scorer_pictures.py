"""The pictures that the tiny scorers learn from, drawn once, and what each cell shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pairsight.tiny.render import render
from pairsight.tiny.scenes import COLOURS, SHAPES, Scene
from pairsight.tiny.scorer_data import draw_scene
from pairsight.tiny.train_vision import patch_labels

_NOISY = 0.5  # share of pictures that get noise, up to _MOST_NOISE, so that drawn pictures' faults are not new
_MOST_NOISE = 0.12


@dataclass(frozen=True, slots=True)
class Pictures:
    """N scenes, their pictures [N, 48, 48, 3], and colour and shape in each cell [N, 2, 9], 0 where there is none."""

    scenes: tuple[Scene, ...]
    pixels: NDArray[np.uint8]
    labels: Tensor

    def choose(self, rng: np.random.Generator, number: int) -> NDArray[np.int64]:
        """The places of a batch."""
        return rng.choice(len(self.scenes), size=number, replace=False)

    def batch(self, places: Sequence[int] | NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """CLIP's normalised pixels [n, 3, 48, 48], half of the pictures with noise of any strength up to 0.12."""
        levels = rng.uniform(0, _MOST_NOISE, len(places)) * (rng.random(len(places)) < _NOISY)
        clean = self.pixels[places].astype(np.float32) / 255
        noise = rng.standard_normal(clean.shape, dtype=np.float32) * levels.astype(np.float32)[:, None, None, None]
        values = np.round(np.clip(clean + noise, 0, 1) * 255) / 255
        normalised = (values - np.array(OPENAI_CLIP_MEAN)) / np.array(OPENAI_CLIP_STD)
        return torch.from_numpy(normalised.astype(np.float32).transpose(0, 3, 1, 2).copy())


def draw_pictures(seed: int, number: int) -> Pictures:
    """Scenes of the part "train" and, every second one, scenes as pictures are made from."""
    return picture_all(tuple(draw_scene(seed, index) for index in range(number)))


def picture_all(scenes: tuple[Scene, ...]) -> Pictures:
    """The scenes with their pictures and labels."""
    labels = np.stack([patch_labels(scene)[:2].reshape(2, 6, 6)[:, ::2, ::2].reshape(2, 9) for scene in scenes])
    return Pictures(scenes, np.stack([render(scene) for scene in scenes]), torch.from_numpy(labels))


class CellLabels(torch.nn.Module):
    """Two linear layers that read colour and shape in each cell: a lesson for a vision tower, thrown away after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, len(words) + 1) for words in (COLOURS, SHAPES))

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy.

        Args:
            states: the tower's last states, [n, 1 + 9, width], the class token first.
            labels: [n, 2, 9].
        """
        losses: list[Any] = [
            cross_entropy(head(states[:, 1:]).flatten(0, 1), labels[:, place].flatten())
            for place, head in enumerate(self.heads)
        ]
        total: Tensor = losses[0] + losses[1]
        return total
