"""The world's truth as a model that is asked in words: it grades, writes and answers through the toolkit's prompts."""

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.errors import DataError
from pairsight.records import ATTRIBUTES
from pairsight.seeds import derived_seed
from pairsight.tiny.truth.annotator import Known, WorldTruth, rate
from pairsight.tiny.truth.asked import Grading, QuestionWriting, SceneWriting, asked_for, true_answer
from pairsight.tiny.truth.judge import verdict_on
from pairsight.tiny.world.captions import mentioned_kinds
from pairsight.tiny.world.picture_texts import MAX_OBJECTS, TOPICS, picture_text
from pairsight.tiny.world.recognise import Recognised, Recogniser
from pairsight.tiny.world.scenes import COLOURS, NUM_KINDS, SHAPES, type_weights

if TYPE_CHECKING:
    from PIL.Image import Image

_TRIES = 50
"""Draws of a text's objects, for each text wanted, until one comes that was not written yet."""


class TruthModel:
    """Says what is true of a world's images.

    Asked to grade, it follows `tiny.truth.rate`, so that its grades are those of `TruthAnnotator`. Asked to write
    text-to-image prompts or a question about an image, it words what the world can show; asked to judge a benchmark's
    answers, it follows `verdict_on`. Anything else it takes for a
    question about the image (or the text-only one that `truth.jsonl` holds) and answers it.

    Args:
        world: the folder that `pairsight tiny --out` wrote.

    Raises:
        DataError: it holds no world, or a damaged one.
    """

    def __init__(self, world: str | Path) -> None:
        folder = Path(world)
        if not (folder / "truth.jsonl").is_file():
            raise DataError(f"{folder} holds no world (truth.jsonl): write one with `pairsight tiny --out {folder}`")
        self._truth = WorldTruth(folder / "truth.jsonl")
        self._recogniser = Recogniser(self._truth, folder / "images")

    def say(self, text: str, picture: "Image | None" = None, seed: int = 0) -> str:
        """The answer to a user's message.

        Args:
            text: what is asked.
            picture: the image that comes with it.
            seed: of what is written; grades and answers do not depend on it.

        Raises:
            DataError: a text-only question that the world does not hold.
        """
        judged = verdict_on(text, lambda question: self._known(question, None).answer)
        if judged is not None:
            return judged
        asked = asked_for(text)
        rng = random.Random(derived_seed("truth", seed, text))
        if isinstance(asked, SceneWriting):
            return _scenes(asked, rng)
        if isinstance(asked, QuestionWriting):
            return _question(asked, rng)
        shown = None if picture is None else self._recogniser.recognise(picture)
        return self._grades(asked, shown) if isinstance(asked, Grading) else self._known(asked.question, shown).answer

    def _grades(self, asked: Grading, shown: Recognised | None) -> str:
        known = self._known(asked.question, shown)
        rated = [rate(known.kind, known.answer, known.present, text) for text in asked.answers]
        if asked.form == "json":
            graded = [
                {"answer": number, "reasons": why, **{name: int(scores[name]) for name in ATTRIBUTES}}
                for number, (scores, why) in enumerate(rated, start=1)
            ]
            return json.dumps({"answers": graded})
        reasons = [f"Answer {number}: {why}" for number, (_, why) in enumerate(rated, start=1)]
        grades = [
            "\n".join([f"Answer {number}", *(f"{name.capitalize()}: {scores[name]:.0f}" for name in ATTRIBUTES)])
            for number, (scores, _) in enumerate(rated, start=1)
        ]
        return "\n\n".join(["\n".join(reasons), *grades])

    def _known(self, question: str, shown: Recognised | None) -> Known:
        """What `truth.jsonl` says of the question; else what its words ask of the objects in the picture."""
        known = self._truth.find(None if shown is None else shown.image_sha256, question)
        if known is not None:
            return known
        if shown is None:
            raise DataError(f"the world's truth does not hold this question without an image: {question[:80]}")
        return Known(*true_answer(question, shown.things), frozenset(thing.kind for thing in shown.things))


def _scenes(asked: SceneWriting, rng: random.Random) -> str:
    """A numbered list of texts for the tiny text-to-image pipeline, their objects those of the topic's scenes."""
    scene_type = TOPICS.index(asked.topic) if asked.topic in TOPICS else derived_seed(asked.topic) % len(TOPICS)
    weights = type_weights()[scene_type].tolist()
    texts: dict[str, None] = {}
    for _ in range(_TRIES * asked.count):
        kinds = set(rng.choices(range(NUM_KINDS), weights, k=1 + rng.randrange(MAX_OBJECTS)))
        texts.setdefault(picture_text(asked.topic, sorted(kinds)))
        if len(texts) == asked.count:
            break
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def _question(asked: QuestionWriting, rng: random.Random) -> str:
    """A What or How question that the world has, about something that the text asks for where it can be."""
    kinds = mentioned_kinds(asked.text)
    kind = rng.choice(kinds) if kinds else rng.randrange(NUM_KINDS)
    colour, shape = COLOURS[kind % len(COLOURS)], SHAPES[kind % len(SHAPES)]
    shapes = f"{shape}{'es' if shape == 'cross' else 's'}"
    return rng.choice(
        [
            "What is in the image?",
            f"What colour is the {shape}?",
            f"How many {shapes} are in the image?",
            f"How many {colour} objects are in the image?",
        ]
    )
