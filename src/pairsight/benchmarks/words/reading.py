"""Reading yes or no out of an answer, in any case and wording: what `robust` means for yes-no benchmarks (ours)."""

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
    """The first yes or no as a word in any case; else a denial, else an affirmation; None when there is none (ours)."""
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


_SAYS = re.compile(
    r"(?:answer|option|choice)(?:\s+(?:is|would be|should be))?\s*[:：]?\s*[\"'(\[*（]*([A-Z])(?![A-Za-z])"
    r"|(?:答案|选项|选择)(?:是|为|应该是)?\s*[:：]?\s*[\"'(\[*（]*([A-Z])(?![A-Za-z])"
)
_STARTS = re.compile(r"\s*[\"'(\[*（]*([A-Z])(?:[\"')\]*）]+|[.:,、，。：]|\s*$|\s*\n|\s+-\s)")
_ALONE = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])(?![A-Za-z0-9'’])")


def option_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter an answer gives, None when it gives none or several.

    In this order: the letter at the start (`B`, `(B)`, `B.`, `B: text`); the one letter named by "answer is B",
    "option B" or 答案是B; the one option letter that stands alone (the article "A" only as the last word); the one
    option whose text the answer is or contains.

    Args:
        text: the answer.
        options: letter -> the option's text; letters that are no option never count.
    """
    start = _STARTS.match(text)
    if start and start[1] in options:
        return start[1]
    said = {letter for match in _SAYS.finditer(text) for letter in match.groups() if letter in options}
    if len(said) == 1:
        return said.pop()
    alone = {match[1] for match in _ALONE.finditer(text) if match[1] in options and not _is_article(text, match)}
    if len(alone) == 1 and not said:
        return alone.pop()
    return _by_text(text, options) if not said and not alone else None


def _is_article(text: str, match: re.Match[str]) -> bool:
    return match[1] == "A" and re.match(r"\s+[a-z]", text[match.end() :]) is not None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    answer = _plain(text)
    plain = {letter: _plain(option) for letter, option in options.items()}
    same = [letter for letter, option in plain.items() if option == answer]
    if len(same) == 1:
        return same[0]
    inside = [letter for letter, option in plain.items() if option and _contains(answer, option)]
    # an option inside a longer option that is also there ("red" in "dark red") does not count
    longest = [a for a in inside if not any(a != b and plain[a] in plain[b] for b in inside)]
    return longest[0] if len(longest) == 1 else None


def _contains(answer: str, option: str) -> bool:
    if option not in answer or not option.isascii():
        return option in answer
    return re.search(rf"(?<!\w){re.escape(option)}(?!\w)", answer) is not None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?,;:'\"。，")
