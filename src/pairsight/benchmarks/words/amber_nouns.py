"""AMBER's nouns: which present and which absent objects a description names.

Source: J. Wang et al. (2311.07397); the rule is that of `inference.py` (github.com/junyangwang0410/AMBER).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pairsight.benchmarks.words.similarity import Similar, word_similarity
from pairsight.benchmarks.words.tokens import Nouns, known_nouns, tagged_nouns


@dataclass(frozen=True)
class AmberWords:
    """AMBER's word lists: object -> words that may name it, and nouns that are never wrong."""

    association: Mapping[str, Sequence[str]]
    safe_words: Collection[str]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The nouns that count."""
        return frozenset(self.association) | frozenset(word for words in self.association.values() for word in words)


@dataclass(frozen=True, slots=True)
class CaptionCounts:
    """Counts of one description: nouns and unsupported nouns, true objects and those covered, likely hallucinations and
    those made.
    """

    unsupported: int
    nouns: int
    covered: int
    truth: int
    made_up: int
    likely: int


def count_caption(
    nouns: Sequence[str],
    truth: Sequence[str],
    likely: Sequence[str],
    *,
    words: AmberWords,
    similar: Similar,
) -> CaptionCounts:
    """Score the nouns of a description.

    Args:
        nouns: its nouns in base form, only those of the vocabulary, in order.
        truth: the objects that are present.
        likely: objects that a model may hallucinate.
        words: the words that may name an object, and the safe words.
        similar: whether two words have nearly the same meaning.
    """
    present, made_up = _Objects(truth, words.association), _Objects(likely, words.association)
    unsupported = 0
    for noun in nouns:
        if noun in words.safe_words or present.hit_exact(noun):
            continue
        made_up.hit_exact(noun)
        made_up.hit_similar(noun, similar)
        if not present.hit_similar(noun, similar):
            unsupported += 1
    return CaptionCounts(unsupported, len(nouns), present.num_hit, len(truth), made_up.num_hit, len(likely))


class _Objects:
    """Objects with the words that may name them: first the associated words of all objects, then the objects."""

    def __init__(self, objects: Sequence[str], association: Mapping[str, Sequence[str]]) -> None:
        associated = [(word, index) for index, name in enumerate(objects) for word in association[name]]
        self._words = [*associated, *((name, index) for index, name in enumerate(objects))]
        self._hit: set[int] = set()

    @property
    def num_hit(self) -> int:
        """The number of objects named so far."""
        return len(self._hit)

    def hit_exact(self, noun: str) -> bool:
        """Mark the first object that this noun names."""
        return self._mark(lambda word: word == noun)

    def hit_similar(self, noun: str, similar: Similar) -> bool:
        """Mark the first object that a similar word names."""
        return self._mark(lambda word: similar(noun, word))

    def _mark(self, matches: Callable[[str], bool]) -> bool:
        index = next((index for word, index in self._words if matches(word)), None)
        if index is not None:
            self._hit.add(index)
        return index is not None


@dataclass(frozen=True)
class NounReader:
    """Finds the nouns of descriptions and compares them with objects, by the original's tools if available.

    Args:
        nltk_data: folder of NLTK's data; None: NLTK's search path.
        vectors: a spaCy model or a file of word vectors; None: en_core_web_lg.
        similarity: cosine above which two words mean the same.
    """

    nltk_data: str | None
    vectors: str | None
    similarity: float

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces missing tools of the original: the tagger and the word vectors."""
        tagged = tagged_nouns(self.nltk_data)
        nouns = "nouns are the words that AMBER's vocabulary knows, untagged" if tagged is None else tagged[1]
        return tuple(label for label in (nouns, self._similar[1]) if label)

    def count(self, text: str, truth: Sequence[str], likely: Sequence[str], words: AmberWords) -> CaptionCounts:
        """Score a description; see `count_caption`."""
        tagged = tagged_nouns(self.nltk_data)
        find: Nouns = known_nouns(words.vocabulary, self.nltk_data) if tagged is None else tagged[0]
        nouns = [noun for noun in find(text) if noun in words.vocabulary]
        return count_caption(nouns, truth, likely, words=words, similar=self._similar[0])

    @cached_property
    def _similar(self) -> tuple[Similar, str]:
        return word_similarity(self.vectors, self.similarity)
