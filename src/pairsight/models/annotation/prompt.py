"""What an annotator is asked: the image, the question, all completions, a labelling guide, reasons before scores.

Source: Li et al. 2402.10884, §3.2 and appendix, for the five attributes, their anchors and the order of reasons and
scores; the wording, the anchors of coherence and the JSON form are ours.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.wording import filled
from pairsight.records import ATTRIBUTES, IMAGE_MARK, ItemError, Message, Prompt
from pairsight.seeds import derived_seed

Form = Literal["text", "json"]

GUIDE: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {
        "helpfulness": (
            "does it do what the request asks?",
            "misses the point of the request",
            "serves it in part",
            "meets the whole intent of the request",
        ),
        "correctness": (
            "is what it says true of the image and of the world, with nothing made up?",
            "everything is wrong",
            "a mixture, or small things that are not in the image",
            "complete and free of errors",
        ),
        "coherence": (
            "is it clear, and does it agree with itself?",
            "cannot be understood",
            "has some lapses",
            "clear throughout",
        ),
        "complexity": (
            "how demanding is its language? This is a scale, not a quality.",
            "a child's language",
            "that of a high-school pupil",
            "that of an expert",
        ),
        "verbosity": (
            "how long is it for what was asked? This is a scale, not a quality.",
            "as short as can be",
            "of average length",
            "very long",
        ),
    }
)
"""attribute -> what it asks, and what 0, 2 and 4 mean."""

LOWEST, HIGHEST = 0, 4

_TASK = (
    "You grade answers of AI assistants. {image}A user asked the question below and got {count} {answers}. Grade each "
    "answer by the guide. Look closely first: say for each answer in a few sentences what is right and what is wrong "
    "with it, {look}and only then give its five grades. The order of the answers means nothing, and a longer answer "
    "is not a better one."
)
_TEXT_FORM = (
    "First write your reasons. Then write, for every answer in order, exactly these six lines with one whole number "
    "from 0 to 4 each:\n\nAnswer 1\nHelpfulness: \nCorrectness: \nCoherence: \nComplexity: \nVerbosity: "
)
_JSON_FORM = (
    'Reply with one JSON object and nothing else. It has the key "answers": a list with one object per answer, in '
    'order, with the keys "answer" (its number), "reasons" (a text, written before the grades), "helpfulness", '
    '"correctness", "coherence", "complexity" and "verbosity" (whole numbers from 0 to 4).'
)
_PROMPT = "{task}\n\n{guide}\n\n{question}\n\n{completions}\n\n{form}"


def shown_order(count: int, seed: int, prompt_id: str, *, shuffle: bool = True) -> tuple[int, ...]:
    """The order in which an annotator sees completions: position -> the index of a completion, shuffled by seed.

    Shuffled because annotators have position bias (ours); without `shuffle` they stay in their own order.
    """
    order = list(range(count))
    if shuffle:
        random.Random(derived_seed("annotation order", seed, prompt_id)).shuffle(order)
    return tuple(order)


def annotation_prompt(
    prompt: Prompt, texts: Sequence[str], form: Form = "text", options: AnnotationOptions = OURS
) -> Prompt:
    """The prompt for the annotator: one user message with the prompt's own images before its text.

    Args:
        prompt: what the completions answer; its images come before the text and marks become "[image k]".
        texts: the completions in the order shown.
        form: "text" for lines of scores, "json" for structured output (see `annotation_schema`).
        options: a user's own guide or prompt.
    """
    num_images = len(prompt.images)
    seen = "" if num_images == 0 else "Look at the image. " if num_images == 1 else f"Look at the {num_images} images. "
    task = _TASK.format(
        image=seen,
        count=len(texts),
        answers="answer" if len(texts) == 1 else "answers",
        look="checking every claim against the image, " if num_images else "",
    )
    shown = [f"[Answer {position}]\n{_without_marks(text)}" for position, text in enumerate(texts, start=1)]
    texts_by_placeholder = {
        "task": task,
        "guide": _guide() if options.guide is None else options.guide.strip(),
        "question": _conversation(prompt),
        "completions": "\n\n".join(shown),
        "form": _TEXT_FORM if form == "text" else _JSON_FORM,
        "count": str(len(texts)),
    }
    text = filled(_PROMPT if options.prompt is None else options.prompt, texts_by_placeholder)
    return replace(prompt, id=f"{prompt.id}:annotation", messages=(Message("user", text, prompt.images),))


def annotation_schema(count: int) -> dict[str, object]:
    """The JSON schema of an annotation of `count` completions, reasons before scores, for structured output."""
    scores = {name: {"type": "integer", "minimum": LOWEST, "maximum": HIGHEST} for name in ATTRIBUTES}
    answer = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}, "reasons": {"type": "string"}, **scores},
        "required": ["answer", "reasons", *ATTRIBUTES],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"answers": {"type": "array", "items": answer, "minItems": count, "maxItems": count}},
        "required": ["answers"],
        "additionalProperties": False,
    }


def _guide() -> str:
    lines = ["Guide: five grades from 0 to 4."]
    for name, (asks, low, middle, high) in GUIDE.items():
        lines.append(f"- {name.capitalize()}: {asks} 0: {low}; 2: {middle}; 4: {high}.")
    return "\n".join(lines)


def _conversation(prompt: Prompt) -> str:
    """The question, with the turns before it where there are any."""
    number = 0
    turns = []
    for message in prompt.messages:
        text = message.text
        for _ in message.images if IMAGE_MARK in text else ():
            number += 1
            text = text.replace(IMAGE_MARK, f"[image {number}]", 1)
        turns.append((message.role, _without_marks(text).strip()))
    if len(turns) == 1:
        return f"[Question]\n{turns[0][1]}"
    return "[Conversation, ending in the question]\n" + "\n".join(f"{role}: {text}" for role, text in turns)


def _without_marks(text: str) -> str:
    return text.replace(IMAGE_MARK, "[image]")


PARSER_VERSION = 2
"""Raised when the same answer would be read differently: calls then read their kept answers again, for free."""
READING_VERSION = 1
"""Of how scores are read once thinking is left out: a part of fingerprints, with which local annotations stay."""

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
        return [_from_json(answers.get(position), position) for position in range(1, count + 1)]
    sections = _sections(text, count)
    return [_from_lines(sections.get(position, ""), position) for position in range(1, count + 1)]


def _json_answers(text: str) -> dict[int, Mapping[str, object]] | None:
    """Position -> object, from the first JSON object in the text that holds a list "answers"; None without one."""
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


def _placed(answers: list[Any]) -> dict[int, Mapping[str, object]]:
    placed: dict[int, Mapping[str, object]] = {}
    for order, answer in enumerate(answers, start=1):
        if isinstance(answer, dict):
            number = answer.get("answer", order)
            placed.setdefault(number if _is_whole(number) else order, answer)
    return placed


def _from_json(answer: Mapping[str, object] | None, position: int) -> Scores | ItemError:
    if answer is None:
        return _unparsed(position)
    named = {str(name).lower(): value for name, value in answer.items()}
    scores: dict[str, float] = {}
    for name in ATTRIBUTES:
        if named.get(name) is None:
            return _missing(position, name)
        value = named[name]
        if not _is_whole(value) or not LOWEST <= value <= HIGHEST:
            return _bad(position, name, value)
        scores[name] = float(value)
    return scores


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _sections(text: str, count: int) -> dict[int, str]:
    """Position -> all text below headings of its number; without headings, cut where the first attribute recurs."""
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
    return {position: text[start:end] for position, (start, end) in enumerate(zip(starts, ends, strict=False), start=1)}


def _from_lines(section: str, position: int) -> Scores | ItemError:
    """The last score of each attribute counts: what comes before may be reasoning."""
    found = {match["name"].lower(): match for match in _SCORE.finditer(section)}
    if not found:
        return _unparsed(position)
    scores: dict[str, float] = {}
    for name in ATTRIBUTES:
        match = found.get(name)
        if match is None:
            return _missing(position, name)
        written = match["number"] or match["below"] or match["words"] or ""
        number = re.fullmatch(rf"(\d{{1,3}})(?:/{HIGHEST})?[.,]?", written)
        if number is None or not LOWEST <= int(number[1]) <= HIGHEST:
            return _bad(position, name, written.strip())
        scores[name] = float(number[1])
    return scores


def _unparsed(position: int) -> ItemError:
    return ItemError("unparsed", f"no scores for answer {position}", retryable=False)


def _missing(position: int, name: str) -> ItemError:
    return ItemError("missing_score", f"answer {position} has no {name}", retryable=False)


def _bad(position: int, name: str, value: object) -> ItemError:
    shown = str(value)[:40]
    detail = f"answer {position}: {name} is {shown!r}, not a whole number from {LOWEST} to {HIGHEST}"
    return ItemError("bad_score", detail, retryable=False)
