"""What the toolkit's own prompts ask of a language model, read back from their words: to grade, to write, to answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

from pairsight.models.annotation.prompt import Form, annotation_prompt
from pairsight.records import Message, Prompt
from pairsight.tiny.truth.annotator import bare_question
from pairsight.tiny.world.captions import word_caption
from pairsight.tiny.world.questions import NUMBERS
from pairsight.tiny.world.scenes import COLOURS, COLUMNS, ROWS, SHAPES, Thing

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
    """Write this many text-to-image prompts on a topic."""

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
    """What a user's message asks for; anything but our prompts is a question to be answered."""
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
    starts, position = [], 0
    for number in range(1, count + 1):
        mark = _ANSWER.format(number)
        position = body.find(mark, position)
        if position < 0:
            return None
        starts.append((position, position + len(mark)))
        position += len(mark)
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


_COLOUR, _SHAPE = f"({'|'.join(COLOURS)})", f"({'|'.join(SHAPES)})"
_PLACE = f"((?:{'|'.join(ROWS)}) (?:{'|'.join(COLUMNS)}))"
_EXISTENCE = re.compile(rf"is there an? {_COLOUR} {_SHAPE} in the (?:image|picture)", re.IGNORECASE)
_COUNT_ANSWER = re.compile(rf"how many (?:{_COLOUR} objects|{_SHAPE}(?:e?s)?) are", re.IGNORECASE)
_COLOUR_OF = re.compile(rf"what colou?r is the {_SHAPE}", re.IGNORECASE)
_PLACE_OF = re.compile(rf"where is the {_COLOUR} {_SHAPE}", re.IGNORECASE)
_CONTENT = re.compile(rf"what is at the {_PLACE}", re.IGNORECASE)


def true_answer(question: str, things: Sequence[Thing]) -> tuple[str, str]:
    """A question's kind and true answer, worded as the world words it; any other question asks for a caption.

    Args:
        question: e.g. "What colour is the ring?"; an instruction to answer shortly changes nothing.
        things: what is in the picture, in reading order.
    """
    text = bare_question(question)
    if found := _EXISTENCE.search(text):
        return "existence", "Yes" if _name(found) in {thing.name for thing in things} else "No"
    if found := _COUNT_ANSWER.search(text):
        word = (found[1] or found[2]).lower()
        number = sum(word in (thing.colour, thing.shape) for thing in things)
        return "count", NUMBERS[min(len(NUMBERS) - 1, number)]
    if found := _COLOUR_OF.search(text):
        colours = [thing.colour for thing in things if thing.shape == found[1].lower()]
        return "colour", " and ".join(colours) or "none"
    if found := _PLACE_OF.search(text):
        places = [thing.place for thing in things if thing.name == _name(found)]
        return "place", " and ".join(places) or "nowhere"
    if found := _CONTENT.search(text):
        return "content", next((thing.name for thing in things if thing.place == found[1].lower()), "nothing")
    return "caption", word_caption([thing.kind for thing in things])


def _name(found: "re.Match[str]") -> str:
    return f"{found[1]} {found[2]}".lower()
