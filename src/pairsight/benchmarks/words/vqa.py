"""Normalisation of VQA answers: punctuation, digits, articles and contractions, quirks included.

Source: the rules of `vqaEval.py` (S. Antol et al., 1505.00468; github.com/GT-Vision-Lab/VQA) and of the M4C evaluator
used by TextVQA and LLaVA-1.5. The tables follow these rules, wrong entries included.
"""

import functools
import re

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Each mark is removed or becomes a space, in this order."""

ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = "none zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(max(0, value - 1)) for value, word in enumerate(_NUMBERS.split())}
"""Number words as digits; "none" is 0 too."""

_NOT = "ai are ca could did does do had has have is might must need ought sha should was were wo would"
_CONTRACTED = (
    "could've he'd he's how'd how'll how's it'd it'll ma'am might've must've not've o'clock should've somebody'll "
    "somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd "
    "they'll they're they've 'twas we've what'll what're what's what've when's where'd where's where've who'd who'll "
    "who's who've why'll why're why's would've y'all you'd you'll you're you've"
)
_TWICE = (
    "he'd've it'd've she'd've somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've you'd've"
)
_TWICE_NOT = "couldn't've hadn't've mightn't've shouldn't've wouldn't've"


def _contractions() -> dict[str, str]:
    table = {f"{stem}nt": f"{stem}n't" for stem in _NOT.split()}
    table |= {word.replace("'", ""): word for word in _CONTRACTED.split()}
    for word in f"{_TWICE} {_TWICE_NOT}".split():  # with one of the two apostrophes missing
        head, middle, tail = word.split("'")
        table[f"{head}{middle}'{tail}"] = word
        table[f"{head}'{middle}{tail}"] = word
    table["somebody'd"] = "somebodyd"  # a mistake of the originals
    table |= {"let's": "let's", "she's": "she's", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}
    for word in ("yall'll", "y'allll"):
        table[word] = "y'all'll"
    for word in ("yall'd've", "y'alld've", "y'all'dve"):
        table[word] = "y'all'd've"
    return table


CONTRACTIONS = _contractions()
"""Lower-case words only: the originals also list Im, Ive, Id've and I'dve, which no lower-cased answer contains."""

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32
"""The originals pass a flag as the number of substitutions, so that later periods stay."""


@functools.lru_cache(maxsize=65_536)
def vqa_normal(text: str) -> str:
    """A VQAv2 answer normalised by the official punctuation, digit, article and contraction rules."""
    return _words(_without_punctuation(text, _COMMA_IN_NUMBER))


@functools.lru_cache(maxsize=65_536)
def m4c_normal(text: str) -> str:
    """A TextVQA answer normalised by the M4C evaluator: commas and ? removed, 's split off, then as for VQAv2."""
    plain = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    plain = plain.replace("\n", " ").replace("\t", " ").strip()
    return _words(_without_punctuation(plain, _COMMAS_IN_NUMBER))


@functools.cache
def soft_score(agrees: tuple[bool, ...]) -> float:
    """The mean over leave-one-out sets of min(1, matches/3).

    A set leaves out one annotator; matches is how many of the others gave this answer. Summed in the annotators' order,
    as in the originals, to agree to the last digit.

    Args:
        agrees: whether each annotator gave this answer.
    """
    matches = sum(agrees)
    scores = [min(1, float(matches - agreed) / 3) for agreed in agrees]
    return float(sum(scores)) / len(scores)


def _without_punctuation(text: str, commas: re.Pattern[str]) -> str:
    has_number = commas.search(text) is not None
    plain = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_space or has_number else " ")
    return _PERIOD.sub("", plain, count=_PERIODS_REMOVED)


def _words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
