"""Whether two words have nearly the same meaning: by spaCy's vectors, as in AMBER, or by a file of word vectors."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pairsight.benchmarks.files.official import read_lines
from pairsight.errors import ConfigError, DataError

Similar = Callable[[str, str], bool]
OFFICIAL = "en_core_web_lg"


def word_similarity(vectors: str | None, threshold: float) -> tuple[Similar, str]:
    """A test whether the cosine of two words' vectors exceeds the threshold, and what replaces the original's vectors.

    Args:
        vectors: a spaCy model's name, or a text file of `word number number …` lines; None: `en_core_web_lg` if it is
            installed, else only equal words are similar.
        threshold: the cosine to exceed.

    Returns:
        The test, and the fallback's label; "" for the original's vectors.

    Raises:
        DataError: a line of the file is not a word and the same number of numbers as the others.
        ConfigError: neither a file nor an installed spaCy model.
    """
    if vectors is not None and Path(vectors).is_file():
        return _cosine(_read_vectors(Path(vectors)), threshold), f"word vectors from {Path(vectors).name}"
    name = vectors or OFFICIAL
    if importlib.util.find_spec("spacy") is None or importlib.util.find_spec(name.replace("-", "_")) is None:
        if vectors is not None:
            raise ConfigError(f"vectors '{vectors}' is neither a file nor an installed spaCy model")
        return (lambda first, second: first == second), f"no word vectors ({OFFICIAL} is not installed)"
    return _by_spacy(name, threshold), "" if name == OFFICIAL else f"word vectors of {name}"


def _by_spacy(name: str, threshold: float) -> Similar:
    import spacy

    model = spacy.load(name)

    @functools.cache
    def document(word: str) -> Any:
        return model(word)

    @functools.lru_cache(maxsize=1 << 20)
    def similar(first: str, second: str) -> bool:
        return bool(document(first).similarity(document(second)) > threshold)

    return similar


def _cosine(vectors: dict[str, np.ndarray[Any, np.dtype[np.float32]]], threshold: float) -> Similar:
    def similar(first: str, second: str) -> bool:
        if first not in vectors or second not in vectors:
            return False
        return bool(float(vectors[first] @ vectors[second]) > threshold)

    return similar


def _read_vectors(path: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Unit vectors by word; a first line of two numbers (word2vec's header) is skipped."""
    found: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    size = 0
    for number, line in read_lines(path):
        word, *numbers = line.rstrip().split(" ")
        if number == 1 and len(numbers) == 1:
            continue
        size = size or len(numbers)
        try:
            vector = np.array(numbers, dtype=np.float32)
        except ValueError:
            raise DataError(f"{path}:{number}: a word and numbers are expected, found {line[:40]!r}") from None
        if len(vector) != size or size == 0:
            raise DataError(f"{path}:{number}: {size} numbers are expected, found {len(vector)}")
        length = float(np.linalg.norm(vector))
        found[word] = vector / length if length else vector
    return found
