"""A tiny model, a few images and pairs on them, made once for all tests of the trainer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import families
from pairsight.images.source import FileImages
from pairsight.records import PreferencePair
from preference_pairs import NUM_IMAGES, pair


@dataclass(frozen=True)
class Small:
    """A tiny LLaVA's folder, images, and a maker of pairs."""

    model: Path
    images: FileImages
    pairs: Callable[[int], list[PreferencePair]]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("small")
    pixels = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(NUM_IMAGES):
        picture = Image.fromarray(pixels.integers(0, 255, (28, 28, 3), dtype=np.uint8))
        picture.save(folder / "images" / f"{number}.png")
    images = FileImages(folder / "images")

    def pairs(count: int) -> list[PreferencePair]:
        return [pair(images, number) for number in range(count)]

    return Small(families.build("llava", folder / "model"), images, pairs)
