"""Questions about a scene with their true answers: existence (as POPE asks), caption, count, colour, place, content."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pairsight.tiny.world.captions import word_caption
from pairsight.tiny.world.cooccurrence import top_absent
from pairsight.tiny.world.scenes import COLOURS, NUM_KINDS, SHAPES, Scene, Thing, kind_name, place_name, popularity

Kind = Literal["existence", "caption", "count", "colour", "place", "content", "text"]

VISUAL_KINDS: tuple[Kind, ...] = ("existence", "caption", "count", "colour", "place", "content")
NEGATIVES = ("random", "popular", "adversarial")
SHORT_ANSWER_SUFFIX = "\nAnswer the question using a single word or phrase."
NUMBERS = ("zero", "one", "two", "three", "four")
CAPTION_PROMPTS = (
    "Describe this image in detail.",
    "What is in the image?",
    "List the objects in the image.",
)
_POPULAR = 6  # absent kinds of the overall most frequent ones are drawn among this many


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its true answer; `about` is the kind asked for, where there is one."""

    kind: Kind
    category: str
    text: str
    answer: str
    about: int | None = None


def existence_text(kind: int) -> str:
    """POPE's wording, e.g. "Is there a red circle in the image?"."""
    name = kind_name(kind)
    return f"Is there {'an' if name[0] == 'o' else 'a'} {name} in the image?"


def existence(scene: Scene, category: str, positive: bool, rng: np.random.Generator) -> Question:
    """Is a kind there? A negative asks for an absent kind drawn as POPE's random, popular or adversarial does.

    Args:
        scene: the scene.
        category: "random" (uniform over absent kinds), "popular" (uniform over the six most frequent absent
            kinds) or "adversarial" (the absent kind that co-occurs most).
        positive: ask for a kind that is there.
        rng: random numbers.
    """
    kind = _present_kind(scene, rng) if positive else _absent_kind(scene, category, rng)
    return Question("existence", category, existence_text(kind), "Yes" if positive else "No", kind)


def caption(scene: Scene, rng: np.random.Generator) -> Question:
    """Name all objects, in reading order."""
    prompt = CAPTION_PROMPTS[int(rng.integers(len(CAPTION_PROMPTS)))]
    return Question("caption", "caption", prompt, word_caption([thing.kind for thing in scene.things]))


def count(scene: Scene, rng: np.random.Generator) -> Question:
    """How many objects have a shape or a colour (0–4); half of the questions ask for one that is there."""
    of_shape = rng.random() < 0.5
    words = SHAPES if of_shape else COLOURS
    seen = [thing.shape if of_shape else thing.colour for thing in scene.things]
    among = seen if rng.random() < 0.75 else list(words)
    word = among[int(rng.integers(len(among)))]
    asked = f"{word}{'es' if word == 'cross' else 's'}" if of_shape else f"{word} objects"
    text = f"How many {asked} are in the image?"
    return Question("count", "shape" if of_shape else "colour", text, NUMBERS[seen.count(word)])


def colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The colour of an object whose shape is there once; None when no shape is."""
    shapes = [thing.shape for thing in scene.things]
    unique = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    if not unique:
        return None
    thing = unique[int(rng.integers(len(unique)))]
    return Question("colour", "colour", f"What colour is the {thing.shape}?", thing.colour, thing.kind)


def place(scene: Scene, rng: np.random.Generator) -> Question:
    """Where an object is: one of nine cells."""
    return place_of(scene.things[int(rng.integers(len(scene.things)))])


def place_of(thing: Thing) -> Question:
    """Where one object is."""
    return Question("place", "place", f"Where is the {thing.name}?", thing.place, thing.kind)


def content(scene: Scene, rng: np.random.Generator) -> Question:
    """What is in a cell: an object (three questions in four) or nothing."""
    cells = {thing.cell: thing for thing in scene.things}
    if rng.random() < 0.75:
        cell = list(cells)[int(rng.integers(len(cells)))]
    else:
        empty = [cell for cell in range(9) if cell not in cells]
        cell = empty[int(rng.integers(len(empty)))]
    return content_of(cell, cells.get(cell))


def content_of(cell: int, thing: Thing | None) -> Question:
    """What is in one cell that holds `thing`."""
    answer = "nothing" if thing is None else thing.name
    return Question("content", "content", f"What is at the {place_name(cell)}?", answer, thing.kind if thing else None)


def benchmark_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """What a scene is asked in a benchmark: three of existence (one per category), and one of each other kind.

    One or two of the three existence questions, by chance, are about objects that are there.
    """
    positives = rng.permutation([True, False, bool(rng.random() < 0.5)])
    asked: list[Question | None] = [
        existence(scene, category, bool(positive), rng) for category, positive in zip(NEGATIVES, positives, strict=True)
    ]
    asked += [caption(scene, rng), count(scene, rng), colour(scene, rng), place(scene, rng), content(scene, rng)]
    return [question for question in asked if question is not None]


def _present_kind(scene: Scene, rng: np.random.Generator) -> int:
    return scene.things[int(rng.integers(len(scene.things)))].kind


def _absent_kind(scene: Scene, category: str, rng: np.random.Generator) -> int:
    if category == "adversarial":
        return top_absent(scene.kinds)
    absent = [kind for kind in range(NUM_KINDS) if kind not in scene.kinds]
    if category == "popular":
        absent = sorted(absent, key=lambda kind: -popularity()[kind])[:_POPULAR]
    return absent[int(rng.integers(len(absent)))]
