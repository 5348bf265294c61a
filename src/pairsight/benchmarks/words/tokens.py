"""English text split into words, base forms and nouns, by NLTK if it and its data are installed, else by fallbacks.

Source: the rules of NLTK's `word_tokenize` (github.com/nltk/nltk, release 3.10.4), written as tables. Without punkt, a
sentence ends at every . ? or ! before a space, so that the period after an abbreviation becomes a separate word.
"""

import functools
import importlib
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pairsight.errors import ConfigError


@functools.cache
def nltk_package(folder: str | None) -> Any:
    """The `nltk` package, with `folder` first in its data path; None if NLTK is not installed.

    Raises:
        ConfigError: the given folder does not exist, or NLTK is not installed.
    """
    try:
        nltk = importlib.import_module("nltk")
    except ImportError:
        if folder is not None:
            raise ConfigError(
                f"nltk_data {folder} needs NLTK, which is not installed: pip install 'pairsight[words]'"
            ) from None
        return None
    if folder is not None:
        if not Path(folder).is_dir():
            raise ConfigError(
                f"nltk_data {folder} is not a folder: give the one that holds tokenizers/punkt_tab, "
                f"taggers/averaged_perceptron_tagger_eng and corpora/wordnet (github.com/nltk/nltk_data)"
            )
        nltk.data.path.insert(0, str(Path(folder).resolve()))
    return nltk


Tokenizer = Callable[[str], list[str]]

_OPENING = (
    (r"([«“‘„]|`+)", r" \1 "), (r'^"', r"``"), (r"(``)", r" \1 "), (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
    (r"(?i)(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"\1 "),
)  # fmt: skip
_MARKS = (
    (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "), (r"([:,])([^\d])", r" \1 \2"), (r"([:,])$", r" \1 "),
    (r"\.{2,}", r" \g<0> "), (r"[;@#$%&]", r" \g<0> "), (r"[\u2012-\u2015]", r" \g<0> "),
    (r"[?!]", r" \g<0> "), (r"([^'])' ", r"\1 ' "), (r"[*]", r" \g<0> "),
    (r"[\]\[(){}<>]", r" \g<0> "), (r"--", r" -- "),
)  # fmt: skip
_CLOSING = (
    (r"([»”’])", r" \1 "), (r"''", r" '' "), (r'"', r" '' "), (r"\s+", r" "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "), (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    (r"(?i)\b(can)(not)\b", r" \1 \2 "), (r"(?i)\b(d)('ye)\b", r" \1 \2 "), (r"(?i)\b(gim|lem)(me)\b", r" \1 \2 "),
    (r"(?i)\b(gon)(na)\b", r" \1 \2 "), (r"(?i)\b(got)(ta)\b", r" \1 \2 "), (r"(?i)\b(more)('n)\b", r" \1 \2 "),
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "), (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
)  # fmt: skip
_STEPS = tuple(
    tuple((re.compile(pattern), replacement) for pattern, replacement in step) for step in (_OPENING, _MARKS, _CLOSING)
)
_SENTENCE_END = re.compile(r"(?<=[.?!])([\])}>\"'»”’]*)\s+")


def split_words(text: str) -> list[str]:
    """The words of a text by NLTK's rules, with sentences split without punkt."""
    return [word for sentence in _SENTENCE_END.sub(r"\1\n", text).split("\n") for word in _sentence_words(sentence)]


@functools.cache
def tokenizer(nltk_data: str | None = None) -> tuple[Tokenizer, str]:
    """The best available tokenizer, and its label if it is a fallback ("" for NLTK's).

    Args:
        nltk_data: the folder of NLTK's data; None: NLTK's search path.
    """
    nltk = nltk_package(nltk_data)
    try:
        if nltk is not None:
            nltk.word_tokenize("A word. Another.")
            found: Tokenizer = nltk.word_tokenize
            return found, ""
    except LookupError:
        pass
    return split_words, "words split by NLTK's rules without its punkt data"


def _sentence_words(sentence: str) -> list[str]:
    opening, marks, closing = _STEPS
    text = sentence
    for pattern, replacement in (*opening, *marks):
        text = pattern.sub(replacement, text)
    text = f" {text} "
    for pattern, replacement in closing:
        text = pattern.sub(replacement, text)
    return text.split()


Lemma = Callable[[str], str]
Nouns = Callable[[str], list[str]]
Tagger = Callable[[list[str]], list[tuple[str, str]]]

_OVERRIDES = {"leaves": "leaf", "people": "people", "glasses": "glass", "men": "men"}
"""Where WordNet's lemmatizer differs from the fallbacks: `men` and `people` are separate nouns in WordNet."""

_KEPT = ("ss", "us", "is")
_ENDINGS = (("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ies", "y"), ("ves", "f"), ("s", ""))


@functools.cache
def noun_lemma(nltk_data: str | None = None) -> tuple[Lemma, str]:
    """The best available lemmatizer of nouns, and its label if it is a fallback ("" for WordNet's).

    Args:
        nltk_data: the folder of NLTK's data; None: NLTK's search path.
    """
    nltk = nltk_package(nltk_data)
    try:
        if nltk is not None:
            lemmatizer = nltk.stem.WordNetLemmatizer()
            lemmatizer.lemmatize("dogs")
            return functools.cache(lemmatizer.lemmatize), ""
    except LookupError:
        pass
    return _fallback_lemma()


@functools.cache
def tagged_nouns(nltk_data: str | None = None) -> tuple[Nouns, str] | None:
    """A function from text to nouns in base form, and the labels of its fallbacks; None if there is no tagger."""
    split, split_label = tokenizer(nltk_data)
    lemma, lemma_label = noun_lemma(nltk_data)
    tag, tag_label = _nltk_tagger(nltk_data), ""
    if tag is None:
        tag, tag_label = _textblob_tagger(), "nouns tagged by textblob's pattern tagger"
    if tag is None:
        return None
    tagger = tag

    def nouns(text: str) -> list[str]:
        return [lemma(word) for word, kind in tagger(split(text)) if kind.startswith("NN")]

    return nouns, "; ".join(label for label in (split_label, lemma_label, tag_label) if label)


def known_nouns(vocabulary: Collection[str], nltk_data: str | None = None) -> Nouns:
    """A function from text to its words whose base form is in the vocabulary: a fallback without tagger."""
    split, _ = tokenizer(nltk_data)
    lemma, _ = noun_lemma(nltk_data)

    def nouns(text: str) -> list[str]:
        bases = [word if word in vocabulary else lemma(word) for word in split(text)]
        return [base for base in bases if base in vocabulary]

    return nouns


def _fallback_lemma() -> tuple[Lemma, str]:
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
