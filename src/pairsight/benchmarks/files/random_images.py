"""Images that have nothing to do with a question: drawn from a folder, each question's from its own seed."""

import random
from pathlib import Path

from pairsight.benchmarks.files.official import FileRecord, SampleImages
from pairsight.errors import DataError
from pairsight.records import ImageRef
from pairsight.seeds import derived_seed

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class RandomImages:
    """The images of a folder, in the order of their names.

    Args:
        folder: the folder; its own files only.
        seed: with a question's id, which images it is shown.

    Raises:
        DataError: no such folder, or fewer than two images in it.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        if not folder.is_dir():
            raise DataError(f"random_images: there is no folder {folder}", reason="missing_file")
        self._files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
        self._seed = seed
        if len(self._files) < 2:
            raise DataError(f"random_images: {folder} has {len(self._files)} images; two or more are needed")

    def refs(self, record: FileRecord, images: SampleImages, count: int) -> list[ImageRef]:
        """Different images for a question.

        Args:
            record: the question, with its id.
            images: where they are kept for the model.
            count: how many.
        """
        drawn = random.Random(derived_seed(self._seed, "random image", record.id)).sample(self._files, count)
        return [record.image_of(images, file.read_bytes(), file.name) for file in drawn]
