"""One picture under every distortion, side by side: what `pairsight show distortions` draws.

Noise on normalised pixels is drawn at the picture's own size and clipped, hence only an approximation of what a model
sees (`preview`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image as Pillow
from PIL import ImageDraw

from pairsight.images.distort import AUGMENTATIONS, make_distortion, preview

if TYPE_CHECKING:
    from PIL.Image import Image

STEPS = (200, 500, 700, 800, 900, 999)
"""Diffusion steps that are shown: from those of SeVa's Fig. 7."""
_MARGIN, _LABEL, _COLUMNS = 6, 16, 4


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on the sheet: its label, and whether it is only an approximation."""

    label: str
    picture: "Image"
    approximate: bool = False


def views(picture: "Image", names: Sequence[str] = (), *, seed: int = 0, views_each: int = 1) -> list[Shown]:
    """A picture as it is and under each distortion.

    Args:
        picture: upright RGB.
        names: distortions; default: every augmentation, and diffusion at `STEPS`.
        seed: of the first view of each; the next ones take the following numbers.
        views_each: how many views of each distortion.

    Raises:
        ConfigError: an unknown distortion.
    """
    found = [Shown("original", picture)]
    for name in names or (*AUGMENTATIONS, *(f"diffusion:{step}" for step in STEPS)):
        for number in range(views_each):
            distortion = make_distortion(name, seed + number)
            label = name if views_each == 1 else f"{name}, seed {seed + number}"
            found.append(Shown(label, preview(picture, distortion), distortion.space != "image"))
    return found


def contact_sheet(shown: Sequence[Shown], side: int = 224) -> "Image":
    """All pictures in rows of four, each at most `side` pixels wide and high, with its label; ≈: an approximation."""
    columns = min(_COLUMNS, len(shown))
    width, height = side + _MARGIN, side + _LABEL + _MARGIN
    rows = -(-len(shown) // columns)
    sheet = Pillow.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, one in enumerate(shown):
        left, top = _MARGIN + number % columns * width, _MARGIN + number // columns * height
        small = one.picture.copy()
        small.thumbnail((side, side))
        sheet.paste(small, (left, top + _LABEL))
        draw.text((left, top), f"{'approx. ' if one.approximate else ''}{one.label}"[:40], fill=(0, 0, 0))
    return sheet
