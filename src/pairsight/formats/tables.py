"""Tables of candidates, completions, annotations and drops: flat columns for people, a lossless record for us."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from pairsight.records import Annotation, Candidates, Completion, Dropped, to_json

MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))),
        ]
    )
)
"""A message list as chat templates take it; an image part has no text."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An image file as `datasets` keeps it."""
IMAGES = pa.list_(IMAGE)

ROWS_PER_BATCH = 256


def with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with `datasets`' own description of it, in which an `IMAGE` is an Image."""
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def in_batches(rows: Iterable[Mapping[str, object]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as record batches of `ROWS_PER_BATCH`; no more rows (and their images) are in memory at once."""
    part: list[Mapping[str, object]] = []
    for row in rows:
        part.append(row)
        if len(part) == ROWS_PER_BATCH:
            yield pa.RecordBatch.from_pylist(part, schema)
            part = []
    if part:
        yield pa.RecordBatch.from_pylist(part, schema)


def _feature(kind: pa.DataType) -> dict[str, object]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


CANDIDATES_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("question", pa.string()),
        ("source", pa.string()),
        ("num_completions", pa.int32()),
        ("record", pa.string()),
    ]
)
COMPLETIONS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_id", pa.string()),
        ("sample_index", pa.int32()),
        ("text", pa.string()),
        ("words", pa.int32()),
        ("distortion", pa.string()),
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("record", pa.string()),
    ]
)
ANNOTATIONS_SCHEMA = pa.schema(
    [
        ("completion_id", pa.string()),
        ("annotator", pa.string()),
        ("scores", pa.string()),
        ("critique", pa.string()),
        ("record", pa.string()),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [("item_id", pa.string()), ("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)


def candidates_batches(candidates: Iterable[Candidates]) -> Iterator[pa.RecordBatch]:
    """A row per prompt, with schema `CANDIDATES_SCHEMA`."""
    return in_batches(map(_candidates_row, candidates), CANDIDATES_SCHEMA)


def completion_batches(completions: Iterable[Completion]) -> Iterator[pa.RecordBatch]:
    """A row per completion, with schema `COMPLETIONS_SCHEMA`; `distortion` names what its image went through."""
    return in_batches(map(_completion_row, completions), COMPLETIONS_SCHEMA)


def annotation_batches(annotations: Iterable[Annotation]) -> Iterator[pa.RecordBatch]:
    """A row per annotation, with schema `ANNOTATIONS_SCHEMA`; `scores` is a JSON object."""
    return in_batches(map(_annotation_row, annotations), ANNOTATIONS_SCHEMA)


def dropped_batches(dropped: Iterable[Dropped]) -> Iterator[pa.RecordBatch]:
    """A row per thing left out, with schema `DROPPED_SCHEMA`."""
    return in_batches(map(_dropped_row, dropped), DROPPED_SCHEMA)


def _candidates_row(candidates: Candidates) -> Mapping[str, object]:
    prompt = candidates.prompt
    return {
        "prompt_id": prompt.id,
        "question": prompt.question,
        "source": prompt.source,
        "num_completions": len(candidates.completions),
        "record": to_json(candidates),
    }


def _completion_row(completion: Completion) -> Mapping[str, object]:
    distortions = [image.distortion for image in completion.images or () if image.distortion is not None]
    names = [
        f"{'rendered ' if one.space == 'rendered' else ''}{one.name} {_values(one.parameters)}".strip()
        for one in distortions
    ]
    return {
        "id": completion.id,
        "prompt_id": completion.prompt_id,
        "sample_index": completion.sample_index,
        "text": completion.text,
        "words": num_words(completion.text),
        "distortion": ", ".join(names) or None,
        "finish_reason": completion.finish_reason,
        "model": completion.model,
        "seed": completion.seed,
        "record": to_json(completion),
    }


def _annotation_row(annotation: Annotation) -> Mapping[str, object]:
    return {
        "completion_id": annotation.completion_id,
        "annotator": annotation.annotator,
        "scores": json.dumps(dict(annotation.scores)),
        "critique": annotation.critique,
        "record": to_json(annotation),
    }


def _dropped_row(dropped: Dropped) -> Mapping[str, object]:
    return {
        "item_id": dropped.item_id,
        "stage": dropped.stage,
        "reason": dropped.reason,
        "detail": dropped.detail,
    }


def _values(parameters: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in parameters.items())


_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def num_words(text: str) -> int:
    """Words by white space; in Chinese, Japanese and Korean script each character counts (ours)."""
    return len(_WORD.findall(text))
