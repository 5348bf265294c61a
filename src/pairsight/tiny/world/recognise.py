"""Which scene of a world a picture shows, however it was encoded or resized on its way; else, what is seen in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsight.images.load import open_image
from pairsight.tiny.truth.annotator import WorldTruth
from pairsight.tiny.world.read_picture import read_picture
from pairsight.tiny.world.render import IMAGE_SIZE
from pairsight.tiny.world.scenes import COLUMNS, ROWS, Thing, kind_of

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 12
_FARTHEST = 5.0
"""Mean distance in 0–255 up to which a picture is a scene (ours; of 600 scenes the two most alike are 6.6 apart, and
one sent as JPEG of quality 40, or half as large, is at most 4.9 from itself)."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a picture shows: the image of the world that it is (None for any other picture), and its objects."""

    image_sha256: str | None
    things: tuple[Thing, ...]


class Recogniser:
    """Knows all images of a world by sight: by their pixels, averaged down to 12 × 12.

    Args:
        truth: the world's truth.
        images: its folder of images.

    Raises:
        DataError: an image is missing or damaged.
    """

    def __init__(self, truth: WorldTruth, images: Path) -> None:
        self._rows = list(truth.scenes.values())
        seen = [_small(open_image(images / str(row.image))) for row in self._rows]
        self._seen = np.stack(seen) if seen else np.empty((0, 3 * _SIDE**2), dtype=np.int16)

    def recognise(self, picture: "Image") -> Recognised:
        """The scene that a picture shows, or the objects that `read_picture` finds in one that is not from the world.

        Args:
            picture: RGB, of any size and shape.
        """
        distances = np.abs(self._seen - _small(picture)).mean(axis=1)
        if distances.size and float(distances.min()) <= _FARTHEST:
            row = self._rows[int(distances.argmin())]
            cells = [
                ROWS.index(name[0]) * 3 + COLUMNS.index(name[1]) for name in (o["place"].split() for o in row.objects)
            ]
            kinds = [kind_of(thing["colour"], thing["shape"]) for thing in row.objects]
            return Recognised(row.image_sha256, tuple(Thing(k, False, c) for k, c in zip(kinds, cells, strict=True)))
        pixels = np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE)), dtype=np.uint8)
        return Recognised(None, tuple(Thing(found.kind, False, found.cell) for found in read_picture(pixels)))


def _small(picture: "Image") -> NDArray[np.int16]:
    from PIL.Image import Resampling

    return np.asarray(picture.resize((_SIDE, _SIDE), Resampling.BOX), dtype=np.int16).ravel()
