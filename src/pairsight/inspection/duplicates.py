"""What a dataset repeats: equal pairs, equal questions, images with many pairs; and images of benchmarks in it."""

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsight.errors import DataError, RunError
from pairsight.images.source import FileImages, ImageSource, image_names
from pairsight.inspection.measures import Meter, Rated
from pairsight.records import ImageRef, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Repetition:
    """Counts of repetitions (`repeated_*`: copies beyond the first), pairs without an image, and cut completions."""

    repeated_pairs: int
    repeated_questions: int
    contradictions: int
    num_images: int
    num_text_only: int
    num_cut: int
    pairs_per_image: Mapping[int, int]

    @property
    def images_used_more_than_once(self) -> int:
        """Images that two or more pairs refer to."""
        return sum(count for uses, count in self.pairs_per_image.items() if uses > 1)


class RepetitionMeter(Meter[Repetition]):
    """Equal comparisons, equal questions on equal images, pairs that contradict one another, and image use.

    Two comparisons are equal when question, images and both texts are; they contradict when one's chosen is the
    other's rejected. Texts are compared with white space collapsed, by hashes of 63 bits: 8 bytes each for a pair, a
    comparison and an image of a pair are held, three times as many while they are counted.
    """

    def __init__(self) -> None:
        self._questions, self._comparisons, self._images = array("q"), array("q"), array("q")
        self._num_text_only = self._num_cut = 0

    def add(self, rated: Rated) -> None:
        """See `Meter`."""
        for pair in rated.pairs:
            question, chosen = question_key(pair.prompt), squeeze(pair.chosen.text)
            self._questions.append(hash(question))
            for one in pair.rejected:
                rejected = squeeze(one.text)
                swapped = chosen > rejected
                low, high = (rejected, chosen) if swapped else (chosen, rejected)
                self._comparisons.append(hash((question, low, high)) & ~1 | swapped)
            self._images.extend({hash(image.sha256) for image in pair.prompt.images})
            self._num_text_only += not pair.prompt.images
            self._num_cut += sum(one.finish_reason == "length" for one in (pair.chosen, *pair.rejected))

    def result(self) -> Repetition:
        """See `Meter`."""
        seen = np.unique(np.asarray(self._comparisons))
        uses, counts = np.unique(np.unique(np.asarray(self._images), return_counts=True)[1], return_counts=True)
        return Repetition(
            repeated_pairs=len(self._comparisons) - len(seen),
            repeated_questions=len(self._questions) - len(np.unique(np.asarray(self._questions))),
            contradictions=int(((seen[1:] == seen[:-1] + 1) & (seen[:-1] % 2 == 0)).sum()),
            num_images=int(counts.sum()),
            num_text_only=self._num_text_only,
            num_cut=self._num_cut,
            pairs_per_image=dict(zip(uses.tolist(), counts.tolist(), strict=True)),
        )


def question_key(prompt: Prompt) -> tuple[tuple[str, ...], ...]:
    """All turns of a prompt with their images: equal for prompts that ask the same of the same images."""
    return tuple((m.role, squeeze(m.text), *(image_key(image) for image in m.images)) for m in prompt.messages)


def image_key(image: ImageRef) -> str:
    """What distinguishes two images: the file's hash and the distortion."""
    return image.sha256 if image.distortion is None else f"{image.sha256} {image.distortion}"


def squeeze(text: str) -> str:
    """The text with white space collapsed."""
    return " ".join(text.split())


NUM_BITS = 256
SIDE = 64
NEAR = 24
"""Two pictures that differ in at most this many of the 256 bits are called near copies (ours).

Measured on 600 rendered scenes and 46 pictures of all sorts: different ones differ in 26 bits or more, copies after
JPEG at quality 60 or resizing by up to 7 in fewer than 24 in 87–98 of 100 cases. Crops are not found.
"""

_FLAT = 2.0
"""Pictures whose grey values vary by less (standard deviation, of 255) have nothing to be recognised by."""

Hash = NDArray[np.uint64]


def perceptual_hash(picture: "Image") -> Hash | None:
    """The 256 bits of a picture as four unsigned numbers; None for a picture of one flat tone."""
    from PIL import Image as Pillow

    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Pillow.Resampling.BOX), dtype=np.float64)
    if grey.std() < _FLAT:
        return None
    low = (_cosines() @ grey @ _cosines().T).ravel()
    low[0] = np.median(low[1:])
    bits = low > np.median(low)
    return np.packbits(bits).view(np.uint64)


def distances(hashes_N4: Hash, others_M4: Hash) -> NDArray[np.int64]:
    """The number of differing bits of every two hashes: (N, M)."""
    total_NM = np.zeros((len(hashes_N4), len(others_M4)), dtype=np.int64)
    for word_N, word_M in zip(hashes_N4.T, others_M4.T, strict=True):
        total_NM += np.bitwise_count(word_N[:, None] ^ word_M[None, :])
    return total_NM


def stacked(hashes: Sequence[Hash]) -> Hash:
    """Hashes as one array (N, 4)."""
    return np.stack(hashes) if hashes else np.empty((0, NUM_BITS // 64), dtype=np.uint64)


@cache
def _cosines() -> NDArray[np.float64]:
    """The 16 lowest rows of the cosine transform of 64 points."""
    frequency, point = np.arange(16)[:, None], np.arange(SIDE)[None, :]
    cosines: NDArray[np.float64] = np.cos(np.pi * frequency * (2 * point + 1) / (2 * SIDE))
    return cosines


_ROWS = 1_000
"""Hashes compared at once with all of the benchmark's: 1,000 × 10,000 takes 80 MB."""


@dataclass(frozen=True, slots=True)
class Match:
    """An image of the data beside the benchmark's file; `distance` counts differing bits, 0 for the same file."""

    sha256: str
    benchmark_image: str
    distance: int


@dataclass(frozen=True, slots=True)
class Contamination:
    """The data's images that are also in a benchmark's folder, each with the benchmark's nearest file."""

    folder: str
    num_images: int
    num_benchmark_images: int
    same: tuple[Match, ...]
    near: tuple[Match, ...]
    num_unreadable: int


def find_contamination(refs: Iterable[ImageRef], images: ImageSource, folder: Path) -> Contamination:
    """Compare the data's images with all images in a benchmark's folder.

    Args:
        refs: the images of the data; distortions are ignored.
        images: where they are.
        folder: the benchmark's images, folders in it included.

    Raises:
        DataError: the folder does not exist or holds no image.
    """
    names = image_names(folder) if folder.is_dir() else []
    if not names:
        raise DataError(f"{folder} holds no images: name the folder of a benchmark's images", "missing_file")
    benchmark = FileImages(folder)
    found = benchmark.refs(names)
    theirs = {name: ref for name, ref in found.items() if isinstance(ref, ImageRef)}
    ours = list(dict.fromkeys(ImageRef(ref.sha256) for ref in refs))
    by_sha = {ref.sha256: name for name, ref in theirs.items()}
    same = [Match(ref.sha256, by_sha[ref.sha256], 0) for ref in ours if ref.sha256 in by_sha]
    rest = [ref for ref in ours if ref.sha256 not in by_sha]
    our_hashes, our_failures = _hashes(rest, images)
    their_hashes, their_failures = _hashes(list(theirs.values()), benchmark)
    near = _near(rest, our_hashes, list(theirs), their_hashes)
    unreadable = len(names) - len(theirs) + our_failures + their_failures
    return Contamination(str(folder), len(ours), len(names), tuple(same), tuple(near), unreadable)


def _hashes(refs: Sequence[ImageRef], images: ImageSource) -> tuple[list[Hash | None], int]:
    def one(ref: ImageRef) -> Hash | DataError | RunError | None:
        try:
            return perceptual_hash(images.open(ref))
        except (DataError, RunError) as error:
            return error

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = list(pool.map(one, refs))
    hashes = [None if isinstance(one, Exception) else one for one in found]
    return hashes, sum(isinstance(one, Exception) for one in found)


def _near(
    ours: Sequence[ImageRef], our_hashes: Sequence[Hash | None], names: Sequence[str], hashes: Sequence[Hash | None]
) -> list[Match]:
    left = [(ref, one) for ref, one in zip(ours, our_hashes, strict=True) if one is not None]
    right = [(name, one) for name, one in zip(names, hashes, strict=True) if one is not None]
    others_M4 = stacked([one for _, one in right])
    matches: list[Match] = []
    for start in range(0, len(left) if right else 0, _ROWS):
        part = left[start : start + _ROWS]
        distance_NM = distances(stacked([one for _, one in part]), others_M4)
        nearest_N = distance_NM.argmin(axis=1)
        for (ref, _), row, column in zip(part, distance_NM, nearest_N, strict=True):
            if row[column] <= NEAR:
                matches.append(Match(ref.sha256, right[column][0], int(row[column])))
    return matches
