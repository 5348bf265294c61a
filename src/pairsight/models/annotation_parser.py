"""Reading an annotator's answer: five whole numbers from 0 to 4 per completion, from lines of text or from JSON.

What cannot be read invalidates only the completion it belongs to. Source: the rule is Li et al.'s (2402.10884) as far
as published ratings show it (`Helpfulness:4` and `Correctness 4`: the colon is optional); the details are ours.
"""

import json
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pairsight.models.annotation_prompt import ATTRIBUTES, HIGHEST, LOWEST
from pairsight.records import ItemError

PARSER_VERSION = 1
"""Raised when the same answer would be read differently."""

MOST_OBJECTS = 1000
"""Places in a text where JSON may begin that are tried (ours): each may cost as much as the text is long."""

Scores = Mapping[str, float]

_MARKUP = r"[ \t*_`#>\[\]()\"'.-]{0,12}"
_NAMES = "|".join(ATTRIBUTES)
_HEADING = re.compile(
    rf"^{_MARKUP}(?:(?:scores?|grades?|ratings?)[ \t]+(?:for|of)[ \t]+)?"
    rf"(?:answer|completion|response|candidate|assistant)[ \t]*\#?[ \t]*(?P<number>\d{{1,3}})\b"
    rf"(?={_MARKUP}(?::|$|{_NAMES}))",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTES = r"[*_`\"']{0,4}"
_SCORE = re.compile(
    rf"\b(?P<name>{_NAMES})\b{_QUOTES}[ \t]{{0,4}}(?:score|rating|grade)?{_QUOTES}[ \t]{{0,4}}"
    rf"(?:(?P<mark>[:=]?)[ \t]{{0,8}}{_QUOTES}[ \t(\[]{{0,4}}(?P<number>[+\-−]?\d[\d.,/]*)"
    rf"|[:=]?{_QUOTES}[ \t]*\n[ \t]*(?P<below>[+\-−]?\d[\d.,/]*)[ \t]*$"
    rf"|[:=](?P<words>[^\n]{{0,40}}))",
    re.IGNORECASE | re.MULTILINE,
)
"""A mention of an attribute is its score when a number follows, on its line or alone on the next, or a colon."""


def parse_annotation(text: str, count: int) -> list[Scores | ItemError]:
    """The scores of `count` completions in the order shown; never raises.

    Args:
        text: the annotator's answer: one JSON object (also inside other text), or lines of text with a heading such
            as "Answer 2" before each completion's scores. Without headings, scores are taken in order.

    Returns:
        Per completion, attribute -> whole number 0–4; or an `ItemError`: "unparsed" (nothing found of it),
        "missing_score" or "bad_score" (no whole number, or out of range).
    """
    answers = _json_answers(text)
    if answers is not None:
        return [_from_json(answers.get(place), place) for place in range(1, count + 1)]
    sections = _sections(text, count)
    return [_from_lines(sections.get(place, ""), place) for place in range(1, count + 1)]


def _json_answers(text: str) -> dict[int, Mapping[str, Any]] | None:
    """Place -> object, from the first JSON object in the text that holds a list "answers"; None when there is none."""
    decoder = json.JSONDecoder()
    for found in islice(re.finditer(r"\{", text), MOST_OBJECTS):
        try:
            value, _ = decoder.raw_decode(text, found.start())
        except RecursionError:
            return None
        except ValueError:
            continue
        answers = value.get("answers") if isinstance(value, dict) else None
        if isinstance(answers, list):
            return _placed(answers)
    return None


def _placed(answers: list[Any]) -> dict[int, Mapping[str, Any]]:
    placed: dict[int, Mapping[str, Any]] = {}
    for order, answer in enumerate(answers, start=1):
        if isinstance(answer, dict):
            number = answer.get("answer", order)
            placed.setdefault(number if _is_whole(number) else order, answer)
    return placed


def _from_json(answer: Mapping[str, Any] | None, place: int) -> Scores | ItemError:
    if answer is None:
        return _unparsed(place)
    named = {str(name).lower(): value for name, value in answer.items()}
    scores: dict[str, float] = {}
    for name in ATTRIBUTES:
        if named.get(name) is None:
            return _missing(place, name)
        value = named[name]
        if not _is_whole(value) or not LOWEST <= value <= HIGHEST:
            return _bad(place, name, value)
        scores[name] = float(value)
    return scores


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sections(text: str, count: int) -> dict[int, str]:
    """Place -> all text below headings with its number; without headings, cut where the first attribute comes again."""
    headings = list(_HEADING.finditer(text))
    if not headings:
        return {1: text} if count == 1 else _sections_by_order(text)
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    sections: dict[int, str] = {}
    for heading, end in zip(headings, ends, strict=True):
        number = int(heading["number"])
        sections[number] = sections.get(number, "") + "\n" + text[heading.end() : end]
    return sections


def _sections_by_order(text: str) -> dict[int, str]:
    scores = list(_SCORE.finditer(text))
    starts = [found.start() for found in scores if found["name"].lower() == scores[0]["name"].lower()]
    ends = [*starts[1:], len(text)]
    return {place: text[start:end] for place, (start, end) in enumerate(zip(starts, ends, strict=False), start=1)}


def _from_lines(section: str, place: int) -> Scores | ItemError:
    """The last score of each attribute counts: what comes before may be reasoning."""
    found = {match["name"].lower(): match for match in _SCORE.finditer(section)}
    if not found:
        return _unparsed(place)
    scores: dict[str, float] = {}
    for name in ATTRIBUTES:
        match = found.get(name)
        if match is None:
            return _missing(place, name)
        written = match["number"] or match["below"] or match["words"] or ""
        number = re.fullmatch(rf"(\d{{1,3}})(?:/{HIGHEST})?[.,]?", written)
        if number is None or not LOWEST <= int(number[1]) <= HIGHEST:
            return _bad(place, name, written.strip())
        scores[name] = float(number[1])
    return scores


def _unparsed(place: int) -> ItemError:
    return ItemError("unparsed", f"no scores for answer {place}", retryable=False)


def _missing(place: int, name: str) -> ItemError:
    return ItemError("missing_score", f"answer {place} has no {name}", retryable=False)


def _bad(place: int, name: str, value: object) -> ItemError:
    shown = str(value)[:40]
    detail = f"answer {place}: {name} is {shown!r}, not a whole number from {LOWEST} to {HIGHEST}"
    return ItemError("bad_score", detail, retryable=False)
