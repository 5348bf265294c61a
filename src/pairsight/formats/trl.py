"""Preference pairs and demonstrations as the Parquet tables that TRL reads, with our columns and a lossless record.

One row per rejected completion. `prompt`, `chosen`, `rejected` (or `completion`) are message lists, `images` the bytes
of the files, and the schema's metadata makes `datasets.load_dataset("parquet", …)` cast them to Image.
Source: TRL's vision dataset formats ("Dataset formats" in its documentation).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from pairsight.errors import DataError
from pairsight.formats.tables import IMAGES, MESSAGES, in_batches, num_words, with_features
from pairsight.images.load import read_bytes
from pairsight.images.source import ImageSource
from pairsight.records import (
    IMAGE_MARK,
    Annotation,
    Completion,
    Demonstration,
    ImageRef,
    Message,
    PreferencePair,
    Prompt,
    to_json,
)

Plain = dict[str, object]


def to_plain(message: Message) -> Plain:
    """A message with its images where the text's marks are, or before the text when it has none."""
    pieces = message.text.split(IMAGE_MARK)
    if len(pieces) - 1 != len(message.images):
        pieces = [""] * len(message.images) + [message.text]
    content: list[Plain] = []
    for index, piece in enumerate(pieces):
        if index > 0:
            content.append({"type": "image", "text": None})
        if piece.strip():
            content.append({"type": "text", "text": piece.strip()})
    return {"role": message.role, "content": content}


def from_plain(value: object, images: Sequence[ImageRef], location: str) -> tuple[Message, ...]:
    """A text or a message list as messages that hold `images` in order.

    Raises:
        DataError: another shape, an unknown kind of content, or another number of image parts than `images`; a list
            without any image part takes all images before its first user message.
    """
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns) or not turns:
        raise DataError(f"{location} must be text or a list of messages, found {value!r:.60}", "wrong_type")
    texts = [(str(turn.get("role", "")), _text(turn.get("content"), location)) for turn in turns]
    marks = sum(text.count(IMAGE_MARK) for _, text in texts)
    if marks not in (0, len(images)):
        raise DataError(f"{location} has {marks} image parts for {len(images)} images", "image_marks")
    left, unplaced, messages = list(images), marks == 0, []
    for role, text in texts:
        count = text.count(IMAGE_MARK) if not unplaced else len(left) if role == "user" else 0
        own, left = tuple(left[:count]), left[count:]
        messages.append(Message(role, text.replace(IMAGE_MARK, "").strip() if len(own) == 1 else text, own))
    if left:
        raise DataError(f"{location} has images but no user message to hold them", "image_marks")
    return tuple(messages)


def _text(content: object, location: str) -> str:
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        raise DataError(f"{location}: content must be text or a list of parts, found {content!r:.60}", "wrong_type")
    pieces = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image":
            pieces.append(IMAGE_MARK)
        elif kind == "text" and isinstance(part.get("text"), str):
            pieces.append(part["text"].strip())
        else:
            raise DataError(f"{location}: a part must be an image or a text, found {part!r:.60}", "wrong_type")
    return "\n".join(pieces).strip()


PAIRS_SCHEMA = with_features(
    pa.schema(
        [
            ("id", pa.string()),
            ("prompt", MESSAGES),
            ("chosen", MESSAGES),
            ("rejected", MESSAGES),
            ("images", IMAGES),
            ("pair_id", pa.string()),
            ("prompt_id", pa.string()),
            ("rejected_index", pa.int32()),
            ("source", pa.string()),
            ("strategy", pa.string()),
            ("weight", pa.float64()),
            ("chosen_words", pa.int32()),
            ("rejected_words", pa.int32()),
            ("chosen_scores", pa.string()),
            ("rejected_scores", pa.string()),
            ("record", pa.string()),
        ]
    )
)
"""`*_scores` are JSON objects attribute -> score, null where unscored; `record` is in a pair's first row only."""

DEMONSTRATIONS_SCHEMA = with_features(
    pa.schema(
        [
            ("id", pa.string()),
            ("prompt", MESSAGES),
            ("completion", MESSAGES),
            ("images", IMAGES),
            ("prompt_id", pa.string()),
            ("source", pa.string()),
            ("strategy", pa.string()),
            ("weight", pa.float64()),
            ("completion_words", pa.int32()),
            ("record", pa.string()),
        ]
    )
)


def pair_batches(pairs: Iterable[PreferencePair], images: ImageSource) -> Iterator[pa.RecordBatch]:
    """The rows of `pairs` with schema `PAIRS_SCHEMA`, a few at a time, in order.

    Raises:
        DataError: an image is missing, or a prompt shows a distorted one: training sees the clean image.
    """
    return in_batches((row for pair in pairs for row in _pair_rows(pair, images)), PAIRS_SCHEMA)


def demonstration_batches(demonstrations: Iterable[Demonstration], images: ImageSource) -> Iterator[pa.RecordBatch]:
    """The rows of `demonstrations` with schema `DEMONSTRATIONS_SCHEMA`, a few at a time, in order."""
    return in_batches((_demonstration_row(one, images) for one in demonstrations), DEMONSTRATIONS_SCHEMA)


def _pair_rows(pair: PreferencePair, images: ImageSource) -> Iterator[Plain]:
    shared = _prompt_columns(pair.prompt, images) | {
        "chosen": _completion(pair.chosen),
        "pair_id": pair.id,
        "strategy": pair.strategy,
        "weight": pair.weight,
        "chosen_words": num_words(pair.chosen.text),
        "chosen_scores": _scores(pair.annotations, pair.chosen),
    }
    for index, rejected in enumerate(pair.rejected):
        yield shared | {
            "id": pair.id if len(pair.rejected) == 1 else f"{pair.id}#{index}",
            "rejected": _completion(rejected),
            "rejected_index": index,
            "rejected_words": num_words(rejected.text),
            "rejected_scores": _scores(pair.annotations, rejected),
            "record": to_json(pair) if index == 0 else None,
        }


def _demonstration_row(demonstration: Demonstration, images: ImageSource) -> Plain:
    return _prompt_columns(demonstration.prompt, images) | {
        "id": demonstration.id,
        "completion": _completion(demonstration.completion),
        "strategy": demonstration.strategy,
        "weight": demonstration.weight,
        "completion_words": num_words(demonstration.completion.text),
        "record": to_json(demonstration),
    }


def _prompt_columns(prompt: Prompt, images: ImageSource) -> Plain:
    files = []
    for ref in prompt.images:
        if ref.distortion is not None:
            raise DataError(f"prompt '{prompt.id}' shows a distorted image: training tables hold clean ones")
        files.append({"bytes": read_bytes(images.path(ref)), "path": ref.sha256})
    return {
        "prompt": [to_plain(message) for message in prompt.messages],
        "images": files,
        "prompt_id": prompt.id,
        "source": prompt.source,
    }


def _completion(completion: Completion) -> list[Plain]:
    return [{"role": "assistant", "content": [{"type": "text", "text": completion.text.strip()}]}]


def _scores(annotations: Sequence[Annotation], completion: Completion) -> str | None:
    found: Mapping[str, float] | None = next(
        (one.scores for one in annotations if one.completion_id == completion.id), None
    )
    return None if found is None else json.dumps(dict(found))
