"""Which objects a picture of the world shows, by fitting every shape to every cell: the truth of generated pictures.

No model: a cell is the ground, or the one shape, size, offset and ink that explains its pixels best. On rendered
scenes it is all but always right, so what it finds in a generated picture counts as what is there.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pairsight.tiny.world.render import IMAGE_SIZE, INK, shape_mask
from pairsight.tiny.world.scenes import COLOURS, SHAPES, Thing, kind_of

_CELL = IMAGE_SIZE // 3
_OFFSETS = (-1.5, -0.5, 0.5, 1.5)  # pixels; the world's jitter
_LEAST_CONTRAST = 0.17
"""How far (root mean square over RGB, 0–1) a shape's ink must differ from the ground to count as there (ours)."""
_LEAST_FIT = 0.5
"""The least share of a cell's variance that a shape must explain (ours)."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object found in a picture: kind (0–29), cell (0–8), and the share of the cell's variance it explains."""

    kind: int
    cell: int
    fit: float


def read_picture(pixels: NDArray[np.uint8]) -> list[Found]:
    """The objects in a picture, in reading order.

    Per cell and mask m the pixels are fitted as ground + m·(ink − ground) by least squares, the ground a plane over
    the cell; the mask that leaves least is taken.

    Args:
        pixels: 48 × 48 × 3 bytes.

    Source: ours.
    """
    values = np.asarray(pixels, dtype=np.float64) / 255
    found = (_read_cell(values[y : y + _CELL, x : x + _CELL], cell) for cell, (y, x) in enumerate(_CORNERS))
    return [one for one in found if one is not None]


def kinds_in(pixels: NDArray[np.uint8]) -> frozenset[int]:
    """The kinds that a picture shows."""
    return frozenset(one.kind for one in read_picture(pixels))


_CORNERS = [(row * _CELL, column * _CELL) for row in range(3) for column in range(3)]


def _read_cell(values: NDArray[np.float64], cell: int) -> Found | None:
    flat = values.reshape(-1, 3)
    labels, solvers, directions = _fits()
    plane = _plane()
    rest = flat - plane @ (plane.T @ flat)
    total = float((rest**2).sum())
    # The mask's part orthogonal to the plane explains (direction · pixels)² of what the plane leaves.
    explained = ((directions @ rest) ** 2).sum(axis=1)
    best = int(np.argmax(explained))
    fit = float(explained[best]) / max(total, 1e-9)
    ground, _, _, contrast = solvers[best] @ flat  # the ground at the cell's centre, its slopes, ink − ground
    ink = ground + contrast
    if float(np.sqrt((contrast**2).mean())) < _LEAST_CONTRAST or fit < _LEAST_FIT:
        return None
    colour = min(COLOURS, key=lambda name: float(((ink - np.array(INK[name])) ** 2).sum()))
    return Found(kind_of(colour, labels[best]), cell, fit)


@cache
def _plane() -> NDArray[np.float64]:
    """An orthonormal basis of planes over a cell, 256 × 3."""
    ys, xs = np.mgrid[0:_CELL, 0:_CELL] / (_CELL - 1) - 0.5
    basis, _ = np.linalg.qr(np.stack([np.ones(_CELL**2), xs.ravel(), ys.ravel()], axis=1))
    return np.asarray(basis)


@cache
def _fits() -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Of every mask: its shape's name, the least-squares solver [4 × 256], and its direction off the plane [256]."""
    ys, xs = np.mgrid[0:_CELL, 0:_CELL] / (_CELL - 1) - 0.5
    ground = np.stack([np.ones(_CELL**2), xs.ravel(), ys.ravel()], axis=1)
    labels, solvers, directions = [], [], []
    plane = _plane()
    for shape in SHAPES:
        kind = kind_of(COLOURS[0], shape)
        for large in (False, True):
            for dx in _OFFSETS:
                for dy in _OFFSETS:
                    mask = shape_mask(Thing(kind, large, 0, dx, dy))[:_CELL, :_CELL].ravel()
                    off = mask - plane @ (plane.T @ mask)
                    labels.append(shape)
                    solvers.append(np.linalg.pinv(np.column_stack([ground, mask])))
                    directions.append(off / np.linalg.norm(off))
    return labels, np.array(solvers), np.array(directions)
