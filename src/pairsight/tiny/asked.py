"""What the toolkit's own prompts ask of a language model, read back from their words: to grade, to write, to answer."""

import re
from dataclasses import dataclass
from functools import cache
from typing import get_args

from pairsight.models.annotation_prompt import Form, annotation_prompt
from pairsight.records import Message, Prompt

_QUESTION = "[Question]\n"
_CONVERSATION = "[Conversation, ending in the question]\n"
_ANSWER = "\n\n[Answer {}]\n"
_COUNT = re.compile(r"got (\d+) answers?\. Grade")
_IMAGE = re.compile(r"\[image(?: \d+)?\]")
_SCENES = re.compile(r"Write (\d+) prompts for a text-to-image model on the topic '([^\n]+?)'\.")
_INSTRUCTION = re.compile(r'An image was made from this text: "(.*)"\. Write one question about the image', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Grading:
    """Grade these answers to a question, in the order shown."""

    question: str
    answers: tuple[str, ...]
    form: Form


@dataclass(frozen=True, slots=True)
class SceneWriting:
    """Write so many text-to-image prompts on a topic."""

    count: int
    topic: str


@dataclass(frozen=True, slots=True)
class QuestionWriting:
    """Write a question about an image that was made from this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Answering:
    """Answer this question."""

    question: str


Asked = Grading | SceneWriting | QuestionWriting | Answering


def asked_for(text: str) -> Asked:
    """What a user's message asks for; whatever is none of our prompts is a question to be answered."""
    text = text.strip()
    if found := _COUNT.search(text):
        grading = _grading(text, int(found[1]))
        if grading is not None:
            return grading
    if found := _SCENES.match(text):
        return SceneWriting(int(found[1]), found[2])
    if found := _INSTRUCTION.match(text):
        return QuestionWriting(found[1])
    return Answering(text)


def _grading(text: str, count: int) -> Grading | None:
    """The question and the answers of an annotation prompt; None when its parts are not all there."""
    form, body = next(
        ((form, text.removesuffix(end)) for form, end in _endings().items() if text.endswith(end)), ("", "")
    )
    starts, place = [], 0
    for number in range(1, count + 1):
        mark = _ANSWER.format(number)
        place = body.find(mark, place)
        if place < 0:
            return None
        starts.append((place, place + len(mark)))
        place += len(mark)
    ends = [start for start, _ in starts[1:]] + [len(body)]
    answers = tuple(body[start:end] for (_, start), end in zip(starts, ends, strict=True))
    return Grading(_question(body[: starts[0][0]]), answers, "json" if form == "json" else "text")


def _question(head: str) -> str:
    """The question that the answers are to: the only one, or the last turn of a conversation."""
    _, mark, turns = head.partition(_CONVERSATION)
    question = turns.rpartition("user: ")[2] if mark else head.partition(_QUESTION)[2]
    return _IMAGE.sub("", question).strip()


@cache
def _endings() -> dict[Form, str]:
    """How annotation prompts end, by the form that they ask for."""
    probe = Prompt("", (Message("user", "?"),))
    asked: dict[Form, str] = {form: annotation_prompt(probe, ["."], form).question for form in get_args(Form)}
    return {form: text.partition(f"{_ANSWER.format(1)}.")[2] for form, text in asked.items()}
