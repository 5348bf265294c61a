"""From a scene to its picture: 48 × 48 pixels, soft-edged shapes on a graded, noisy ground tinted by scene type."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsight.tiny.world.scenes import Scene, Thing

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[np.float64]

IMAGE_SIZE = 48
_CELL = IMAGE_SIZE / 3
_RADII = (4.0, 6.2)  # pixels, small and large
INK = MappingProxyType(
    {
        "red": (0.86, 0.12, 0.14),
        "green": (0.10, 0.62, 0.20),
        "blue": (0.14, 0.26, 0.85),
        "yellow": (0.95, 0.86, 0.12),
        "purple": (0.56, 0.16, 0.66),
        "orange": (0.96, 0.52, 0.08),
    }
)
# One tint per scene type, all pale, so that the ground survives noise that hides small objects.
_TINTS = ((0.80, 0.70, 0.66), (0.66, 0.78, 0.68), (0.66, 0.72, 0.84), (0.80, 0.78, 0.62), (0.74, 0.66, 0.80))


def render(scene: Scene) -> NDArray[np.uint8]:
    """The picture of a scene.

    Args:
        scene: what is in it; its `pixel_seed` fixes ground and noise.

    Returns:
        48 × 48 × 3 bytes, RGB.

    Source: ours.
    """
    rng = np.random.default_rng(list(scene.pixel_seed))
    picture = _ground(scene.type, rng)
    for thing in scene.things:
        ink = np.clip(np.array(INK[thing.colour]) + rng.normal(0, 0.03, 3), 0, 1)
        mask = shape_mask(thing)[..., None]
        picture = picture * (1 - mask) + ink * mask
    noise_level = rng.uniform(0.01, 0.05)
    picture = picture + rng.normal(0, noise_level, picture.shape)
    return np.asarray(np.round(np.clip(picture, 0, 1) * 255), dtype=np.uint8)


def render_image(scene: Scene) -> "Image":
    """The picture of a scene as a PIL image."""
    from PIL import Image

    return Image.fromarray(render(scene))


def _ground(scene_type: int, rng: np.random.Generator) -> Array:
    """A linear grade between two jitters of the type's tint, in a random direction."""
    tint = np.array(_TINTS[scene_type])
    first, second = (np.clip(tint + rng.normal(0, 0.04, 3) + rng.normal(0, 0.05), 0, 1) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / (IMAGE_SIZE - 1) - 0.5
    grade = np.clip(np.cos(angle) * xs + np.sin(angle) * ys + 0.5, 0, 1)[..., None]
    return np.asarray(first * (1 - grade) + second * grade)


def shape_mask(thing: Thing) -> Array:
    """Coverage 0–1 of each pixel, from the shape's signed distance (soft over one pixel)."""
    centre_x = (thing.cell % 3 + 0.5) * _CELL + thing.dx - 0.5
    centre_y = (thing.cell // 3 + 0.5) * _CELL + thing.dy - 0.5
    ys, xs = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE]
    distance = _DISTANCES[thing.shape](xs - centre_x, ys - centre_y, _RADII[thing.large])
    return np.asarray(np.clip(0.5 - distance, 0, 1))


def _circle(x: Array, y: Array, radius: float) -> Array:
    return np.hypot(x, y) - radius


def _square(x: Array, y: Array, radius: float) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.86 * radius


def _triangle(x: Array, y: Array, radius: float) -> Array:
    sides = np.abs(x) * 0.8944 - (y + radius) * 0.4472  # two sides from the apex (0, -radius), slope 2
    return np.asarray(np.maximum(sides, y - 0.85 * radius))


def _cross(x: Array, y: Array, radius: float) -> Array:
    arm = 0.32 * radius
    upright = np.maximum(np.abs(x) - arm, np.abs(y) - radius)
    level = np.maximum(np.abs(y) - arm, np.abs(x) - radius)
    return np.minimum(upright, level)


def _ring(x: Array, y: Array, radius: float) -> Array:
    return np.abs(np.hypot(x, y) - 0.74 * radius) - 0.26 * radius


_DISTANCES: Mapping[str, Callable[[Array, Array, float], Array]] = MappingProxyType(
    {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring}
)
