"""Words of an English text as NLTK splits them; with NLTK where it and its punkt data are installed.

Source: the rules of NLTK's `word_tokenize` (github.com/nltk/nltk, release 3.10.4), told as tables. Without punkt a
sentence ends at every . ? or ! before a space, so that the point after an abbreviation becomes a word of its own: a
fallback.
"""

import functools
import re
from collections.abc import Callable

from pairsight.benchmarks.nltk_package import nltk_package

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
    """The words of a text by NLTK's rules, sentences ended without punkt."""
    return [word for sentence in _SENTENCE_END.sub(r"\1\n", text).split("\n") for word in _sentence_words(sentence)]


@functools.cache
def tokenizer(nltk_data: str | None = None) -> tuple[Tokenizer, str]:
    """The best tokenizer here, and what to call it where it is a fallback (empty for NLTK's own).

    Args:
        nltk_data: the folder of NLTK's data; None: where NLTK looks.
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
