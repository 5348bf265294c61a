"""The world's truth as annotator: five attributes from 0 to 4, by rule instead of by opinion."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pairsight.benchmarks.files.official import FileRecord, UniqueIds, read_jsonl
from pairsight.benchmarks.suites.pope import official_answer
from pairsight.models.protocols import Annotator
from pairsight.records import ATTRIBUTES, QUALITY_ATTRIBUTES, Annotation, Completion, ItemError, Prompt
from pairsight.tiny.train.scoring import normalise
from pairsight.tiny.world.captions import mentioned_kinds
from pairsight.tiny.world.questions import SHORT_ANSWER_SUFFIX, VISUAL_KINDS
from pairsight.tiny.world.scenes import COLOURS, SHAPES, kind_name, kind_of

Use = Literal["prompt", "benchmark"]


@dataclass(frozen=True, slots=True)
class TruthQuestion:
    """One question: who asks it (a prompt to align on, or the benchmark), its image and answer, the kinds present."""

    id: str
    use: Use
    image: str | None
    image_sha256: str | None
    kind: str
    category: str
    question: str
    answer: str
    objects: tuple[Mapping[str, str], ...] = ()

    @property
    def present(self) -> frozenset[int]:
        """The kinds in the picture; none for text-only questions."""
        return frozenset(kind_of(thing["colour"], thing["shape"]) for thing in self.objects)

    def to_plain(self) -> dict[str, object]:
        """The row as JSON-ready values."""
        return {
            "id": self.id,
            "use": self.use,
            "image": self.image,
            "image_sha256": self.image_sha256,
            "kind": self.kind,
            "category": self.category,
            "question": self.question,
            "answer": self.answer,
            "objects": [dict(thing) for thing in self.objects],
        }


def write_truth(path: Path, rows: Sequence[TruthQuestion]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row.to_plain()) + "\n" for row in rows), encoding="utf-8")


def read_truth(path: Path) -> Iterator[TruthQuestion]:
    """The rows of a `truth.jsonl`.

    Raises:
        DataError: a bad row, with file, line and id.
    """
    ids = UniqueIds()
    for raw in read_jsonl(path):
        record = raw.with_id("id")
        ids.add(record)
        image = record.values.get("image")
        kind = record.choice("kind", (*VISUAL_KINDS, "text"))
        if (image is None) != (kind == "text"):
            raise record.error(f"a question of kind '{kind}' must {'not ' if kind == 'text' else ''}have an image")
        yield TruthQuestion(
            id=record.id,
            use="prompt" if record.choice("use", ("prompt", "benchmark")) == "prompt" else "benchmark",
            image=None if image is None else record.text("image"),
            image_sha256=None if image is None else record.text("image_sha256"),
            kind=kind,
            category=record.text("category"),
            question=record.text("question"),
            answer=record.text("answer"),
            objects=_objects(record),
        )


def bare_question(text: str) -> str:
    """A question without the short-answer instruction and without space around it: what rows are found by."""
    return text.replace(SHORT_ANSWER_SUFFIX.strip(), "").strip()


def _objects(record: FileRecord) -> tuple[Mapping[str, str], ...]:
    objects = record.values.get("objects")
    if not isinstance(objects, list):
        raise record.error("'objects' must be a list")
    for thing in objects:
        if not isinstance(thing, dict) or thing.get("colour") not in COLOURS or thing.get("shape") not in SHAPES:
            raise record.error(f"an object needs a colour of {', '.join(COLOURS)} and a shape of {', '.join(SHAPES)}")
    return tuple(objects)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a question: its kind, its true answer ("" where unknown), kinds present."""

    kind: str
    answer: str
    present: frozenset[int]


class WorldTruth:
    """The rows of a `truth.jsonl`, by image and question.

    Raises:
        DataError: no such file, or a bad row.
    """

    def __init__(self, path: str | Path) -> None:
        file = Path(path)
        rows = list(read_truth(file))
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        self.scenes: dict[str, TruthQuestion] = {row.image_sha256: row for row in rows if row.image_sha256}
        """Of each image one row: its objects are those of all its rows."""
        self._rows = {(row.image_sha256, bare_question(row.question)): row for row in rows}

    def find(self, image_sha256: str | None, question: str) -> Known | None:
        """What the file says of a question about an image (None: about none); None when it does not hold it."""
        row = self._rows.get((image_sha256, bare_question(question)))
        return None if row is None else Known(row.kind, row.answer, row.present)


VERSION = 1
_AFTER_FAULTS = MappingProxyType({0: 4, 1: 2})  # more faults than one: 1
_FORM = re.compile(r"^(There is )?(an? \w+ \w+)(, an? \w+ \w+)*( and an? \w+ \w+)?\.?$")
_COMPLEXITY_STEPS = (1, 3, 8, 14)  # distinct words up to which complexity is 0, 1, 2, 3
_VERBOSITY_STEPS = (0.5, 0.8, 1.25, 1.75)  # words over the true answer's words up to which verbosity is 0, 1, 2, 3


class TruthAnnotator(Annotator):
    """An annotator that knows a world's `truth.jsonl`.

    A prompt is found by its image and question; a question about a known image that the file does not hold is
    rated as a caption; anything else is an error that is not retried.
    """

    def __init__(self, path: str | Path) -> None:
        self._truth = WorldTruth(path)

    @property
    def fingerprint(self) -> str:
        """This version of the rules, and the file's hash."""
        return f"tiny-truth-{VERSION}-{self._truth.sha256[:16]}"

    def annotate(self, prompt: Prompt, completions: Sequence[Completion]) -> list[Annotation | ItemError]:
        """Rate every completion by `rate`; in order."""
        image = prompt.images[0].sha256 if prompt.images else None
        known = self._truth.find(image, prompt.question)
        if known is None and image in self._truth.scenes:
            known = Known("caption", "", self._truth.scenes[image].present)
        if known is None:
            detail = f"the world's truth knows neither this image nor this question: {prompt.question[:80]}"
            return [ItemError("unknown_prompt", detail, retryable=False) for _ in completions]
        return [
            Annotation(one.id, "tiny-truth", *rate(known.kind, known.answer, known.present, one.text))
            for one in completions
        ]


def rate(kind: str, answer: str, present: frozenset[int], text: str) -> tuple[dict[str, float], str]:
    """Rate a completion from the truth.

    A caption: helpfulness 4, 2, 1 for none, one or more objects left out (0: none named); correctness 4, 2, 1 for
    none, one or more mentions of absent objects (0: none right), so that leaving out and making up weigh the same;
    coherence 4, less 2 for saying an object twice and less 2 for broken form. Any other question: helpfulness and
    correctness 4 when right, else 1 and 0; coherence 4, or 2 when its length is wrong. Complexity
    counts distinct words, verbosity compares words with the true answer's: scales, not qualities.

    Args:
        kind: the question's kind.
        answer: its true answer ("" where unknown).
        present: kinds in the picture.
        text: the completion.

    Returns:
        The five scores, whole numbers 0–4, and a line that says why.

    Source: ours; the anchors of Li et al. (2402.10884), applied to a world whose truth is known.
    """
    words = text.split()
    if not words:
        return dict.fromkeys(ATTRIBUTES, 0.0), "Empty."
    quality, why = _rate_caption(present, text) if kind == "caption" else _rate_short(kind, answer, text)
    usual = len(answer.split()) if answer else 1 + 3 * len(present) + 1
    complexity = sum(len({word.strip(".,").lower() for word in words}) > step for step in _COMPLEXITY_STEPS)
    verbosity = sum(len(words) / usual > step for step in _VERBOSITY_STEPS)
    scores = dict(zip(QUALITY_ATTRIBUTES, map(float, quality), strict=True))
    return scores | {"complexity": float(complexity), "verbosity": float(verbosity)}, why


def _rate_caption(present: frozenset[int], text: str) -> tuple[tuple[int, int, int], str]:
    named = mentioned_kinds(text)
    absent = [kind for kind in named if kind not in present]
    left_out = sorted(present.difference(named))
    helpfulness = 0 if len(left_out) == len(present) else _AFTER_FAULTS.get(len(left_out), 1)
    correctness = 0 if len(absent) == len(named) else _AFTER_FAULTS.get(len(absent), 1)
    twice = len(set(named)) < len(named)
    coherence = 4 - 2 * twice - 2 * (_FORM.match(text.strip()) is None)
    faults = [f"{kind_name(kind)} is not there" for kind in absent]
    faults += [f"{kind_name(kind)} is left out" for kind in left_out]
    return (helpfulness, correctness, coherence), f"{'; '.join(faults) or 'All objects are named'}."


def _rate_short(kind: str, answer: str, text: str) -> tuple[tuple[int, int, int], str]:
    read = official_answer(text) if kind == "existence" else normalise(text)
    right = read == normalise(answer)
    fits = len(normalise(text).split()) <= len(answer.split()) + 1
    quality = (4, 4, 4) if right else (1, 0, 4 if fits else 2)
    return quality, "Right." if right else f"Wrong: {answer}."
