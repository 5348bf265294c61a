"""The `robust` parser for yes-no and multiple-choice answers: yes, no or an option letter in any wording (ours)."""

import functools
import re
from collections.abc import Mapping
from typing import Literal

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_DENIALS = frozenset({"not", "none", "nothing", "cannot", "without", "neither", "nor", "false", "nope"})
_AFFIRMATIONS = frozenset({"yeah", "yep", "true", "correct", "indeed", "certainly"})
_STATES_PRESENCE = re.compile(
    r"\b(?:there (?:is|are)|there's|i (?:can )?see|it (?:shows|contains|has|is)|shows|contains)\b"
)


@functools.lru_cache(maxsize=65_536)
def robust_yes_no(text: str) -> Literal["yes", "no"] | None:
    """The first word yes or no, in any case; else "no" for a denial, "yes" for an affirmation, or None (ours)."""
    lowered = text.lower().replace("’", "'")
    words = _WORD.findall(lowered)
    first = next((word for word in words if word in ("yes", "no")), None)
    if first is not None:
        return "yes" if first == "yes" else "no"
    if any(word in _DENIALS or word.endswith("n't") for word in words):
        return "no"
    if _STATES_PRESENCE.search(lowered) or any(word in _AFFIRMATIONS for word in words):
        return "yes"
    return None


_NAMES = re.compile(
    r"(?:answer|option|choice)(?:\s+(?:is|would be|should be))?\s*[:：]?\s*[\"'(\[*（]*([A-Z])(?![A-Za-z])"
    r"|(?:答案|选项|选择)(?:是|为|应该是)?\s*[:：]?\s*[\"'(\[*（]*([A-Z])(?![A-Za-z])"
)
_STARTS = re.compile(r"\s*[\"'(\[*（]*([A-Z])(?:[\"')\]*）]+|[.:,、，。：]|\s*$|\s*\n|\s+-\s)")
_ALONE = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])(?![A-Za-z0-9'’])")


def option_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The option letter that an answer gives; None if it gives none or several.

    In this order: the letter at the start (`B`, `(B)`, `B.`, `B: text`); the only letter named by "answer is B",
    "option B" or 答案是B; the only option letter that is a separate word ("A" before a lower-case word is the article);
    the only option whose text the answer equals or contains.

    Args:
        text: the answer.
        options: letter -> the option's text; other letters are ignored.
    """
    start = _STARTS.match(text)
    if start and start[1] in options:
        return start[1]
    named = {letter for match in _NAMES.finditer(text) for letter in match.groups() if letter in options}
    if len(named) == 1:
        return named.pop()
    alone = {match[1] for match in _ALONE.finditer(text) if match[1] in options and not _is_article(text, match)}
    if len(alone) == 1 and not named:
        return alone.pop()
    return _by_text(text, options) if not named and not alone else None


def _is_article(text: str, match: re.Match[str]) -> bool:
    return match[1] == "A" and re.match(r"\s+[a-z]", text[match.end() :]) is not None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    answer = _plain(text)
    plain = {letter: _plain(option) for letter, option in options.items()}
    equal = [letter for letter, option in plain.items() if option == answer]
    if len(equal) == 1:
        return equal[0]
    contained = [letter for letter, option in plain.items() if option and _contains(answer, option)]
    # an option within a longer contained option ("red" in "dark red") does not count
    longest = [a for a in contained if not any(a != b and plain[a] in plain[b] for b in contained)]
    return longest[0] if len(longest) == 1 else None


def _contains(answer: str, option: str) -> bool:
    if option not in answer or not option.isascii():
        return option in answer
    return re.search(rf"(?<!\w){re.escape(option)}(?!\w)", answer) is not None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?,;:'\"。，")
