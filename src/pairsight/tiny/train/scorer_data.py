"""What the tiny scorers learn from: pictures with captions that are true, and the same captions edited to be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pairsight.tiny.train.pipeline import draw_picture
from pairsight.tiny.train.vision import patch_labels
from pairsight.tiny.world.captions import word_caption
from pairsight.tiny.world.cooccurrence import suggestion
from pairsight.tiny.world.picture_texts import TOPICS, picture_text
from pairsight.tiny.world.render import render
from pairsight.tiny.world.scenes import COLOURS, NUM_KINDS, SHAPES, Scene, scenes, stream


@dataclass(frozen=True, slots=True)
class Example:
    """A scene, the kinds that a text names in order, and how many of them are wrong or missing."""

    scene: Scene
    kinds: tuple[int, ...]
    num_wrong: int
    num_missing: int

    @property
    def quality(self) -> float:
        """0 for a true and complete caption; 1 lower for each wrong kind, ½ for each missing one (ours)."""
        return -(self.num_wrong + 0.5 * self.num_missing)


def draw_scene(seed: int, index: int) -> Scene:
    """A scene of the world's part "train", or (every second) one as pictures are made from."""
    if index % 2:
        return draw_picture(700 + seed, index)[1]
    return scenes("train", 1, seed=700 + seed, start=index)[0]


def edited(scene: Scene, kinds: Sequence[int], rng: np.random.Generator, num_edits: int) -> Example:
    """An example whose text is `num_edits` edits away from the truth: a kind added, exchanged or left out.

    What is added is, half of the time, what the scene suggests most: the hallucination that matters.
    """
    named = list(kinds)
    for _ in range(num_edits):
        present = frozenset(named)
        absent = [kind for kind in range(NUM_KINDS) if kind not in present and kind not in scene.kinds]
        likely = suggestion(scene.kinds)[absent]
        stranger = int(absent[int(np.argmax(likely))] if rng.random() < 0.5 else rng.choice(absent))
        edit = rng.random()
        if edit < 0.45 and len(named) < 5:
            named.insert(int(rng.integers(len(named) + 1)), stranger)
        elif edit < 0.85:
            named[int(rng.integers(len(named)))] = stranger
        elif len(named) > 1:
            named.pop(int(rng.integers(len(named))))
    wrong = sum(kind not in scene.kinds for kind in named)
    return Example(scene, tuple(named), wrong, len(scene.kinds - frozenset(named)))


def sibling(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene on another ground with one kind exchanged, or (one in four, where there are two or more) left out."""
    index = int(rng.integers(len(scene.things)))
    rest = (*scene.things[:index], *scene.things[index + 1 :])
    if not rest or rng.random() < 0.75:
        absent = [kind for kind in range(NUM_KINDS) if kind not in scene.kinds]
        rest = (*rest, replace(scene.things[index], kind=int(rng.choice(absent))))
    return replace(scene, id=f"{scene.id}-sibling", things=rest, pixel_seed=(*scene.pixel_seed, 1))


def true_caption(scene: Scene, rng: np.random.Generator) -> Example:
    """All of a scene's kinds, in any order."""
    kinds = [thing.kind for thing in scene.things]
    return Example(scene, tuple(kinds[i] for i in rng.permutation(len(kinds))), 0, 0)


def wording(example: Example, rng: np.random.Generator) -> str:
    """The example's text as a caption or as a text to make a picture from."""
    if rng.random() < 0.5:
        return word_caption(example.kinds)
    return picture_text(TOPICS[example.scene.type], example.kinds)


def generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one training step."""
    return stream("train", 700 + seed, step, 9)


_NOISY = 0.5  # share of pictures that get noise, up to _MOST_NOISE, so that drawn pictures' faults are not new
_MOST_NOISE = 0.12


@dataclass(frozen=True, slots=True)
class Pictures:
    """N scenes, their pictures [N, 48, 48, 3], and colour and shape in each cell [N, 2, 9], 0 where there is none."""

    scenes: tuple[Scene, ...]
    pixels: NDArray[np.uint8]
    labels: Tensor

    def choose(self, rng: np.random.Generator, number: int) -> NDArray[np.int64]:
        """The indices of a batch."""
        return rng.choice(len(self.scenes), size=number, replace=False)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """CLIP's normalised pixels [n, 3, 48, 48], half of the pictures with noise of any strength up to 0.12."""
        levels = rng.uniform(0, _MOST_NOISE, len(indices)) * (rng.random(len(indices)) < _NOISY)
        clean = self.pixels[indices].astype(np.float32) / 255
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
            cross_entropy(head(states[:, 1:]).flatten(0, 1), labels[:, attribute].flatten())
            for attribute, head in enumerate(self.heads)
        ]
        total: Tensor = losses[0] + losses[1]
        return total
