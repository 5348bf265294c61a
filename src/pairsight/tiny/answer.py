"""The true answer to any of the world's questions, from the words of the question and the objects in the picture."""

import re
from collections.abc import Sequence

from pairsight.tiny.captions import word_caption
from pairsight.tiny.questions import NUMBERS
from pairsight.tiny.scenes import COLOURS, COLUMNS, ROWS, SHAPES, Thing
from pairsight.tiny.truth_rows import bare_question

_COLOUR, _SHAPE = f"({'|'.join(COLOURS)})", f"({'|'.join(SHAPES)})"
_PLACE = f"((?:{'|'.join(ROWS)}) (?:{'|'.join(COLUMNS)}))"
_EXISTENCE = re.compile(rf"is there an? {_COLOUR} {_SHAPE} in the (?:image|picture)", re.IGNORECASE)
_COUNT = re.compile(rf"how many (?:{_COLOUR} objects|{_SHAPE}(?:e?s)?) are", re.IGNORECASE)
_COLOUR_OF = re.compile(rf"what colou?r is the {_SHAPE}", re.IGNORECASE)
_PLACE_OF = re.compile(rf"where is the {_COLOUR} {_SHAPE}", re.IGNORECASE)
_CONTENT = re.compile(rf"what is at the {_PLACE}", re.IGNORECASE)


def true_answer(question: str, things: Sequence[Thing]) -> tuple[str, str]:
    """A question's kind and true answer, worded as the world words it; whatever is none of its questions is a caption.

    Args:
        question: e.g. "What colour is the ring?"; an instruction to answer shortly changes nothing.
        things: what is in the picture, in reading order.
    """
    text = bare_question(question)
    if found := _EXISTENCE.search(text):
        return "existence", "Yes" if _name(found) in {thing.name for thing in things} else "No"
    if found := _COUNT.search(text):
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
