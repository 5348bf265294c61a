"""What the tiny scorers learn from: pictures with captions that are true, and the same captions edited to be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pairsight.tiny.captions import word_caption
from pairsight.tiny.cooccurrence import suggestion
from pairsight.tiny.picture_texts import TOPICS, picture_text
from pairsight.tiny.scenes import NUM_KINDS, Scene, scenes, stream
from pairsight.tiny.train_pipeline import draw_picture


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
    place = int(rng.integers(len(scene.things)))
    rest = (*scene.things[:place], *scene.things[place + 1 :])
    if not rest or rng.random() < 0.75:
        absent = [kind for kind in range(NUM_KINDS) if kind not in scene.kinds]
        rest = (*rest, replace(scene.things[place], kind=int(rng.choice(absent))))
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
