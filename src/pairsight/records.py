"""The nouns: frozen records that travel from prompts to preference pairs.

They hold text, numbers and hashes, never pixels or tensors, so that they pickle, compare and serialise
cheaply. An edit makes a new record (`dataclasses.replace`).
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pairsight.errors import DataError

IMAGE_MARK = "<image>"
"""The mark of an image inside a message's text, in every format we read and write."""


@dataclass(frozen=True, slots=True)
class Distortion:
    """A seeded change of an image; several in one, each after the other, are joined by `+` in the name.

    `normalised` ones end on the processor's pixel tensor and do not give a picture; `rendered` ones are these drawn as
    a picture of 8 bits, at the size that the model's processor gives its tensor (see `images/rendering.py`).
    """

    name: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    space: Literal["image", "normalised", "rendered"] = "image"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by the SHA-256 of its file's bytes, with the distortion to apply when it is used."""

    sha256: str
    distortion: Distortion | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Images go where the text has `<image>` marks, or before the text if it has none."""

    role: str
    text: str
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: one or more messages, the last from the user."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images of all messages, in order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def question(self) -> str:
        """The last user message's text without image marks."""
        texts = [m.text for m in self.messages if m.role == "user"]
        return texts[-1].replace(IMAGE_MARK, "").strip() if texts else ""

    def with_line(self, line: str) -> "Prompt":
        """The same prompt with a line below its last message."""
        *others, last = self.messages
        return replace(self, messages=(*others, replace(last, text=f"{last.text}\n{line}")))

    def with_images(self, images: Sequence[ImageRef]) -> "Prompt":
        """The same prompt with other images instead of its first ones."""
        waiting = iter([*images, *self.images[len(images) :]])
        messages = (replace(m, images=tuple(next(waiting) for _ in m.images)) for m in self.messages)
        return replace(self, messages=tuple(messages))


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One completion to be made: the prompt, which sample of it, its seed, and other images than the prompt's."""

    prompt: Prompt
    sample_index: int = 0
    seed: int = 0
    images: tuple[ImageRef, ...] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model said. `images` is None when it saw the prompt's own images.

    `derived_from` is None for what a recipe's models drew, else where it comes from: "annotator" or "dataset". A
    rejected completion that a dataset gives on other images is trained on these; one that was drawn is not.
    """

    id: str
    prompt_id: str
    text: str
    finish_reason: str
    model: str
    seed: int
    sample_index: int
    images: tuple[ImageRef, ...] | None = None
    derived_from: str | None = None


ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What annotators score a completion by, each from 0 to 4, as HelpSteer does (Z. Wang et al. 2311.09528)."""
QUALITY_ATTRIBUTES = ATTRIBUTES[:3]
"""Those that say how good it is; complexity and verbosity are scales."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotator's scores of one completion, by attribute, and its reasons.

    `position` is the index at which the annotator was shown the completion; None when it saw no order.
    """

    completion_id: str
    annotator: str
    scores: Mapping[str, float]
    critique: str = ""
    position: int | None = None


@dataclass(frozen=True, slots=True)
class ImageCandidate:
    """A generated image beside what made it and what scorers said of it."""

    image: ImageRef
    text: str
    guidance_scale: float
    seed: int
    scores: Mapping[str, float]
    selected: bool


@dataclass(frozen=True, slots=True)
class Candidates:
    """A prompt with its completions and their annotations: what a strategy chooses from.

    `images` are those among which the prompt's own was selected, where it was generated.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    annotations: tuple[Annotation, ...] = ()
    images: tuple[ImageCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One prompt, the chosen completion and one or more rejected ones: one object from recipe to loss."""

    id: str
    prompt: Prompt
    chosen: Completion
    rejected: tuple[Completion, ...]
    strategy: str
    annotations: tuple[Annotation, ...] = ()
    contrast_images: tuple[ImageRef, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the completion to imitate."""

    id: str
    prompt: Prompt
    completion: Completion
    strategy: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something left out, at which stage and why; `reason` is a short word to count by."""

    item_id: str
    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ItemError:
    """The failure of one item of a stage: `reason` is a short word to count by, `retryable` whether retry may help."""

    reason: str
    detail: str = ""
    retryable: bool = True


Record = TypeVar("Record")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def to_json(record: object) -> str:
    """One record (a dataclass or plain values) as JSON, lossless, not-a-number and infinities included.

    Equal records give equal text.
    """
    return _adapter(type(record)).dump_json((record,)).decode()[1:-1]


def from_json(cls: type[Record], text: str, location: str) -> Record:
    """The record of class `cls` in `text`; DataError naming `location` when it holds none."""
    try:
        (record,) = _adapter(cls).validate_json(f"[{text}]")
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(piece) for piece in problem["loc"][1:])
        raise DataError(f"{location} holds no {cls.__name__} ({where}: {problem['msg']})", "bad_record") from None
    return record  # type: ignore[no-any-return]


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        # a config cannot be given for a bare dataclass, so the record travels as a tuple of one
        _ADAPTERS[cls] = TypeAdapter(tuple[cls], config=ConfigDict(ser_json_inf_nan="constants"))  # type: ignore[valid-type]
    return _ADAPTERS[cls]


@contextmanager
def paused_collection() -> Iterator[None]:
    """Python's search for reference cycles pauses inside, while millions of records without cycles are made.

    Its cost grows with what is alive: two fifths of reading a large file of prompts, a fifth of scoring answers.

    Source: ours, measured.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
