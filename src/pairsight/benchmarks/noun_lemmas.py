"""The base form of a noun, and the nouns of a text: WordNet's and NLTK's where installed, else a named stand-in.

Stand-ins: `lemminflect` for the base form, `textblob`'s tagger for the nouns, and without either a list of endings,
and the words that a given vocabulary knows.
"""

import functools
import importlib
from collections.abc import Callable, Collection
from typing import Any

from pairsight.benchmarks.nltk_package import nltk_package
from pairsight.benchmarks.word_tokens import tokenizer

Lemma = Callable[[str], str]
Nouns = Callable[[str], list[str]]
Tagger = Callable[[list[str]], list[tuple[str, str]]]

_OVERRIDES = {"leaves": "leaf", "people": "people", "glasses": "glass", "men": "men"}
"""What WordNet's lemmatizer gives and the stand-ins do not: it knows `men` and `people` as nouns of their own."""

_KEPT = ("ss", "us", "is")
_ENDINGS = (("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ies", "y"), ("ves", "f"), ("s", ""))


@functools.cache
def noun_lemma(nltk_data: str | None = None) -> tuple[Lemma, str]:
    """The best lemmatizer of nouns here, and what to call it where it is a fallback (empty for WordNet's).

    Args:
        nltk_data: the folder of NLTK's data; None: where NLTK looks.
    """
    nltk = nltk_package(nltk_data)
    try:
        if nltk is not None:
            lemmatizer = nltk.stem.WordNetLemmatizer()
            lemmatizer.lemmatize("dogs")
            return functools.cache(lemmatizer.lemmatize), ""
    except LookupError:
        pass
    return _stand_in()


@functools.cache
def tagged_nouns(nltk_data: str | None = None) -> tuple[Nouns, str] | None:
    """The nouns of a text in their base form, and what stands in for NLTK's tools; None without any tagger."""
    split, split_label = tokenizer(nltk_data)
    lemma, lemma_label = noun_lemma(nltk_data)
    tag, tag_label = _nltk_tagger(nltk_data), ""
    if tag is None:
        tag, tag_label = _textblob_tagger(), "nouns tagged by textblob's pattern tagger"
    if tag is None:
        return None
    chosen = tag

    def nouns(text: str) -> list[str]:
        return [lemma(word) for word, kind in chosen(split(text)) if kind.startswith("NN")]

    return nouns, "; ".join(label for label in (split_label, lemma_label, tag_label) if label)


def known_nouns(vocabulary: Collection[str], nltk_data: str | None = None) -> Nouns:
    """The words of a text whose base form is in the vocabulary, untagged: the stand-in that needs no package."""
    split, _ = tokenizer(nltk_data)
    lemma, _ = noun_lemma(nltk_data)

    def nouns(text: str) -> list[str]:
        bases = [word if word in vocabulary else lemma(word) for word in split(text)]
        return [base for base in bases if base in vocabulary]

    return nouns


def _stand_in() -> tuple[Lemma, str]:
    lemminflect = _imported("lemminflect")
    if lemminflect is None:
        return functools.cache(_by_ending), "base forms by a list of endings"

    def by_lemminflect(word: str) -> str:
        forms = lemminflect.getLemma(word, upos="NOUN")
        return _OVERRIDES.get(word) or (str(forms[0]) if forms else word)

    return functools.cache(by_lemminflect), "base forms by lemminflect"


def _by_ending(word: str) -> str:
    if word in _OVERRIDES:
        return _OVERRIDES[word]
    if len(word) < 4 or word.endswith(_KEPT):
        return word
    return next((word.removesuffix(end) + new for end, new in _ENDINGS if word.endswith(end)), word)


def _nltk_tagger(nltk_data: str | None) -> Tagger | None:
    """NLTK's tagger, loaded once."""
    nltk = nltk_package(nltk_data)
    try:
        return None if nltk is None else nltk.tag.PerceptronTagger().tag
    except LookupError:
        return None


def _textblob_tagger() -> Tagger | None:
    taggers = _imported("textblob.en.taggers")
    if taggers is None:
        return None
    tagger = taggers.PatternTagger()

    def tag(words: list[str]) -> list[tuple[str, str]]:
        tagged = tagger.tag(" ".join(words), tokenize=False) if words else []
        return [(str(word), str(kind)) for word, kind in tagged]

    return tag


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
