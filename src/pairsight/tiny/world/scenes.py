"""The world: scenes of coloured shapes on a grid, drawn from five latent scene types that make objects co-occur.

A scene is reproducible from (part, seed, index) alone, so parts never share a scene and `scenes(part, n, seed)`
does not depend on `n`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.errors import ConfigError

Part = Literal["train", "align", "validation", "held_out"]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
NUM_KINDS = len(COLOURS) * len(SHAPES)
NUM_TYPES = 5

# The streams of random numbers; a part is one stream. The base models saw only "train".
_PART_CODES: dict[str, int] = {"train": 1, "align": 2, "validation": 3, "held_out": 4}
_WORLD_CODE = 48_2026
_NUM_TYPICAL = 10  # kinds typical of a scene type
_TYPICAL_DECAY = 0.8  # each is this much rarer than the one before
_TYPICAL_MASS = 0.92  # the rest is spread over all kinds
_OBJECT_COUNTS = (0.15, 0.3, 0.3, 0.25)  # probabilities of 1, 2, 3, 4 objects
_JITTER = 1.5  # pixels


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a scene: its kind (0–29), size, grid cell (0–8, row by row) and offset in pixels."""

    kind: int
    large: bool
    cell: int
    dx: float = 0.0
    dy: float = 0.0

    @property
    def colour(self) -> str:
        """The colour's word."""
        return COLOURS[self.kind % len(COLOURS)]

    @property
    def shape(self) -> str:
        """The shape's word."""
        return SHAPES[self.kind % len(SHAPES)]

    @property
    def name(self) -> str:
        """Colour and shape, e.g. "red circle"."""
        return kind_name(self.kind)

    @property
    def place(self) -> str:
        """Row and column, e.g. "top left"."""
        return place_name(self.cell)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's truth: its latent type, its objects in reading order, and the seed of its pixels."""

    id: str
    type: int
    things: tuple[Thing, ...]
    pixel_seed: tuple[int, ...]

    @property
    def kinds(self) -> frozenset[int]:
        """The kinds that are in the scene; each is there once."""
        return frozenset(thing.kind for thing in self.things)


def kind_name(kind: int) -> str:
    """The words of a kind, e.g. 0 -> "red circle" (colour `kind % 6`, shape `kind % 5`: a bijection, as 6 ⟂ 5)."""
    return f"{COLOURS[kind % len(COLOURS)]} {SHAPES[kind % len(SHAPES)]}"


@cache
def kind_of(colour: str, shape: str) -> int:
    """The kind of a colour and a shape, the inverse of `kind_name`."""
    wanted = f"{colour} {shape}"
    return next(kind for kind in range(NUM_KINDS) if kind_name(kind) == wanted)


def place_name(cell: int) -> str:
    """The words of a cell, e.g. 0 -> "top left", 5 -> "middle right"."""
    return f"{ROWS[cell // 3]} {COLUMNS[cell % 3]}"


@cache
def type_weights() -> NDArray[np.float64]:
    """P(kind | scene type), 5 × 30, rows sum to 1.

    Source: ours. Type t's typical kinds are (11t + 7r) mod 30 for r = 0…9, with weights ∝ 0.8^r: windows that
    overlap, so that one object does not give the type away.
    """
    weights = np.full((NUM_TYPES, NUM_KINDS), (1 - _TYPICAL_MASS) / NUM_KINDS)
    decay = _TYPICAL_DECAY ** np.arange(_NUM_TYPICAL)
    for scene_type in range(NUM_TYPES):
        typical = (11 * scene_type + 7 * np.arange(_NUM_TYPICAL)) % NUM_KINDS
        weights[scene_type, typical] += _TYPICAL_MASS * decay / decay.sum()
    return weights


def popularity() -> NDArray[np.float64]:
    """P(kind) over all scene types, 30 numbers that sum to 1."""
    return np.asarray(type_weights().mean(axis=0))


def stream(part: str, seed: int, *index: int) -> np.random.Generator:
    """The random numbers of one item of a part, the same on every machine.

    Args:
        part: "train", "align", "validation" or "held_out".
        seed: 0 or more; worlds of different seeds share no scene.
        index: further integers, e.g. the scene's index.

    Raises:
        ConfigError: an unknown part or a negative seed.
    """
    return np.random.default_rng(_entropy(part, seed, *index))


def scenes(part: Part, n: int, seed: int = 0, start: int = 0) -> list[Scene]:
    """`n` scenes of a part from index `start` on.

    Args:
        part: "train", "align", "validation" or "held_out"; parts are disjoint streams.
        n: how many, 0 or more.
        seed: 0 or more; another seed, other scenes.
        start: index of the first.

    Raises:
        ConfigError: an unknown part, or a negative number.
    """
    if n < 0 or start < 0:
        raise ConfigError(f"scenes: n and start must be 0 or more, found {n} and {start}")
    return [_draw_scene(part, seed, index) for index in range(start, start + n)]


def _entropy(part: str, seed: int, *index: int) -> list[int]:
    if part not in _PART_CODES:
        raise ConfigError(f"unknown part '{part}'; known: {', '.join(_PART_CODES)}")
    if seed < 0:
        raise ConfigError(f"the world's seed must be 0 or more, found {seed}")
    return [_WORLD_CODE, _PART_CODES[part], seed, *index]


def _draw_scene(part: str, seed: int, index: int) -> Scene:
    rng = stream(part, seed, index)
    scene_type = int(rng.integers(NUM_TYPES))
    count = 1 + int(rng.choice(len(_OBJECT_COUNTS), p=_OBJECT_COUNTS))
    kinds = rng.choice(NUM_KINDS, size=count, replace=False, p=type_weights()[scene_type])
    cells = np.sort(rng.permutation(9)[:count])
    offsets = rng.uniform(-_JITTER, _JITTER, size=(count, 2))
    large = rng.random(count) < 0.5
    things = tuple(
        Thing(int(kind), bool(big), int(cell), round(float(dx), 2), round(float(dy), 2))
        for kind, big, cell, (dx, dy) in zip(kinds, large, cells, offsets, strict=True)
    )
    return Scene(f"{part}-{seed}-{index:06d}", scene_type, things, tuple(_entropy(part, seed, index, 1)))
