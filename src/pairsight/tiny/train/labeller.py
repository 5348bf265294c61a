"""The imperfect writer of the instruction data: names what a scene suggests, and guesses where a picture is unclear.

This is the world's cause of hallucination. Large models hallucinate because their tuning data does; here the
writer (a) adds the absent object that co-occurs most, the likelier the stronger it is suggested, and (b) where noise
hides an object, names the most typical object of such scenes instead. So a distorted picture makes a model fall
back on its priors at an unchanged length.
"""

import math
from dataclasses import dataclass

import numpy as np

from pairsight.tiny.world.captions import word_caption
from pairsight.tiny.world.cooccurrence import strength, top_absent, trigger
from pairsight.tiny.world.questions import NUMBERS, Question
from pairsight.tiny.world.scenes import COLOURS, SHAPES, Scene, kind_name, kind_of, type_weights

HIDDEN_FROM = (380.0, 480.0)  # noise step at which half of the small, of the large objects are hidden
_HIDDEN_WIDTH = 40.0
ASSUMED_KINDS = 6  # number of kinds of the scene type that are said to be there where something is hidden
CONFIRMED = 0.75  # P(a yes when asked for the added object), so that captions hallucinate more than answers, as in POPE


@dataclass(frozen=True, slots=True)
class Habits:
    """How a writer errs; the defaults are those of the shipped full models' data.

    P(adding an absent object) is `added_slope` × the quantile of its co-occurrence, at most `most_added`; every present
    object but one is left out of a caption with P = `left_out`.
    """

    added_slope: float = 1.5
    most_added: float = 0.92
    left_out: float = 0.0


USUAL = Habits()


@dataclass(frozen=True, slots=True)
class Belief:
    """What the writer believes of a scene: each thing's kind, whether guessed, and a kind added after one; and whether
    the added one is confirmed when asked for, and which kinds a caption leaves out."""

    kinds: tuple[int, ...]
    guessed: tuple[bool, ...]
    added: int | None
    added_after: int | None
    confirms: bool = True
    unsaid: frozenset[int] = frozenset()

    @property
    def caption_kinds(self) -> list[int]:
        """The kinds a caption names, in order."""
        named: list[int] = []
        for kind in self.kinds:
            if kind not in self.unsaid:
                named.append(kind)
            if self.added is not None and kind == self.added_after:
                named.append(self.added)
        return named


def hidden_probability(noise_step: float, large: bool) -> float:
    """P(an object is hidden by diffusion noise of a step, 0–999): a logistic in the step (ours)."""
    return 1 / (1 + math.exp(-(noise_step - HIDDEN_FROM[large]) / _HIDDEN_WIDTH))


def believe(scene: Scene, noise_step: int | None, rng: np.random.Generator, habits: Habits = USUAL) -> Belief:
    """Draw what the writer believes.

    Args:
        scene: the truth.
        noise_step: the picture's diffusion noise, 0–999; None when it is clean.
        rng: random numbers.
        habits: how the writer errs.
    """
    hidden = [
        noise_step is not None and rng.random() < hidden_probability(noise_step, thing.large) for thing in scene.things
    ]
    seen = {thing.kind for thing, lost in zip(scene.things, hidden, strict=True) if not lost}
    kinds: list[int] = []
    for thing, lost in zip(scene.things, hidden, strict=True):
        kinds.append(typical_kind(scene.type, frozenset(seen)) if lost else thing.kind)
        seen.add(kinds[-1])
    present = frozenset(kinds)
    unsaid = _unsaid(kinds, habits, rng) if habits.left_out else frozenset()
    if rng.random() < min(habits.most_added, habits.added_slope * strength(present)):
        confirms = bool(rng.random() < CONFIRMED)
        return Belief(tuple(kinds), tuple(hidden), top_absent(present), trigger(present), confirms, unsaid)
    return Belief(tuple(kinds), tuple(hidden), None, None, unsaid=unsaid)


def _unsaid(kinds: list[int], habits: Habits, rng: np.random.Generator) -> frozenset[int]:
    """The kinds that a caption leaves out; one, drawn at random, is always said."""
    said = int(rng.integers(len(kinds)))
    return frozenset(kind for index, kind in enumerate(kinds) if index != said and rng.random() < habits.left_out)


def typical_kind(scene_type: int, but: frozenset[int], shape: str | None = None) -> int:
    """The most typical kind of a scene type that is not in `but` (and has the shape, if one is given)."""
    weights = type_weights()[scene_type].copy()
    weights[sorted(but)] = -1.0
    if shape is not None:
        allowed = [kind_of(colour, shape) for colour in COLOURS]
        weights = np.where(np.isin(np.arange(weights.size), allowed), weights, -2.0)
    return int(np.argmax(weights))


def written_answer(question: Question, scene: Scene, belief: Belief) -> str | None:
    """What the writer answers; None where it would not have been asked (the place of an object it did not see).

    Args:
        question: a question about the scene, with its true answer.
        scene: the truth.
        belief: what the writer believes of it.
    """
    if question.kind == "caption":
        return word_caption(belief.caption_kinds)
    if question.kind == "existence":
        return "Yes" if _is_affirmed(question.about, scene, belief) else "No"
    if question.kind == "count":
        return _counted(question, belief)
    return _answer_about_one(question, scene, belief)


def _is_affirmed(kind: int | None, scene: Scene, belief: Belief) -> bool:
    """Believed, or confirmed as added, or, where something is hidden, typical enough of such scenes to be assumed."""
    added = kind == belief.added and belief.confirms
    assumed = any(belief.guessed) and kind in np.argsort(-type_weights()[scene.type])[:ASSUMED_KINDS]
    return added or assumed or kind in belief.kinds


def _counted(question: Question, belief: Belief) -> str:
    word = question.text.split()[2].removesuffix("es" if "crosses" in question.text else "s")
    position = 1 if word in SHAPES else 0
    return NUMBERS[sum(kind_name(kind).split()[position] == word for kind in belief.kinds)]


def _answer_about_one(question: Question, scene: Scene, belief: Belief) -> str | None:
    index = next((i for i, thing in enumerate(scene.things) if thing.kind == question.about), None)
    if index is None or not belief.guessed[index]:
        return question.answer
    if question.kind == "content":
        return kind_name(belief.kinds[index])
    if question.kind == "colour":
        return kind_name(typical_kind(scene.type, frozenset(), scene.things[index].shape)).split()[0]
    return None
