"""Completions with scores, from which every strategy chooses: VLFeedback, UltraFeedback and HelpSteer.

Source: the fields of MMInstruction/VLFeedback, openbmb/UltraFeedback, nvidia/HelpSteer and HelpSteer2. Without a named
strategy VLFeedback's pairs are the best over the worst by the sum of its three aspects (2312.10665 takes the mean),
UltraFeedback's by `overall_score` (as 2310.16944 takes the best), HelpSteer's by the preference rule of Li et al.
"""

import math
from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets import layouts
from pairsight.formats.datasets.format import Example, Format, Gives, Head, Plain, RowCompletion, Turn, location_of
from pairsight.formats.datasets.turns import asked, llava_pictures, pictures_of, with_leading_mark
from pairsight.formats.rows import Row
from pairsight.records import ATTRIBUTES
from pairsight.registry import NamedPiece

_NO_RATING = ("", "n/a", "na", "none", "null")


class UltraFeedback(Format):
    """`instruction` and `completions` with a rating and a rationale for each aspect, `overall_score` and `critique`."""

    title: ClassVar[str] = "UltraFeedback"
    gives: ClassVar[Gives] = "candidates"
    columns: ClassVar[tuple[str, ...]] = ("instruction", "completions")
    known: ClassVar[tuple[str, ...]] = (
        "id", "source", "models", "correct_answers", "incorrect_answers", "image", "images",
    )  # fmt: skip
    strategy: ClassVar[NamedPiece | None] = NamedPiece("best_over_worst", {"column": "overall_score"})
    containers: ClassVar[tuple[Container, ...]] = ("jsonl", "json", "parquet", "save_to_disk")

    def detect(self, head: Head) -> bool:
        """Whether the completions are annotated."""
        return super().detect(head) and _annotated(head.first)

    def example(self, row: Row) -> Example:
        """One prompt with its completions; DataError where one is not a completion."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns = asked((Turn("user", row.text("instruction")),), location)
        completions = rated_completions(row, location)
        return Example(
            identity, location, turns, llava_pictures(row, location), completions, row.optional_text("source")
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """One row."""
        return layouts.ultrafeedback(example, self.title)


class VlFeedback(Format):
    """`prompt`, the image at `img_path` (or `image`), and `completions` rated in three aspects from 1 to 5."""

    title: ClassVar[str] = "VLFeedback"
    gives: ClassVar[Gives] = "candidates"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "completions")
    known: ClassVar[tuple[str, ...]] = ("id", "img_path", "image", "models", "source")
    strategy: ClassVar[NamedPiece | None] = NamedPiece(
        "preference_rule",
        {
            "weights": {"helpfulness": 1.0, "visual_faithfulness": 1.0, "ethical_considerations": 1.0},
            "min_margin": 1.0,
            "rejected": "lowest",
        },
    )
    containers: ClassVar[tuple[Container, ...]] = ("parquet", "save_to_disk", "jsonl", "json")

    def detect(self, head: Head) -> bool:
        """Whether the completions are annotated."""
        return super().detect(head) and _annotated(head.first)

    def example(self, row: Row) -> Example:
        """One prompt with its completions; DataError where one is not a completion."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns = asked((Turn("user", with_leading_mark(row.text("prompt"))),), location)
        held = pictures_of(row.values.get("image"), f"{location}: 'image'")
        images = held or pictures_of(row.values.get("img_path"), f"{location}: 'img_path'")
        return Example(identity, location, turns, images, rated_completions(row, location))

    def write(self, example: Example) -> tuple[Plain, ...]:
        """One row."""
        return layouts.vlfeedback(example, self.title)


class HelpSteer(Format):
    """`prompt`, one `response` a row and five scores from 0 to 4; following rows of one prompt are its completions."""

    title: ClassVar[str] = "HelpSteer"
    gives: ClassVar[Gives] = "candidates"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "response", *ATTRIBUTES)
    known: ClassVar[tuple[str, ...]] = ("id", "image", "images")
    groups: ClassVar[bool] = True
    strategy: ClassVar[NamedPiece | None] = NamedPiece("preference_rule")
    containers: ClassVar[tuple[Container, ...]] = ("jsonl", "json", "csv", "parquet", "save_to_disk")

    def example(self, row: Row) -> Example:
        """One completion with its scores; DataError where a score is not a number."""
        identity = row.identity("id")
        location = location_of(row, identity)
        scores = {name: _rating(row.required(name), f"{location}: '{name}'") for name in ATTRIBUTES}
        if missing := [name for name, value in scores.items() if value is None]:
            raise DataError(f"{location}: '{missing[0]}' must be a number", "wrong_type")
        given = {name: value for name, value in scores.items() if value is not None}
        turns = asked((Turn("user", row.text("prompt")),), location)
        one = RowCompletion(row.text("response"), scores=given)
        return Example(identity, location, turns, llava_pictures(row, location), (one,))

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each completion."""
        return layouts.helpsteer(example, self.title)


def rated_completions(row: Row, location: str) -> tuple[RowCompletion, ...]:
    """The completions of a row, a list of objects or, as `datasets` also keeps it, an object of lists."""
    found = row.required("completions")
    if isinstance(found, dict) and found and all(isinstance(one, list) for one in found.values()):
        lengths = {len(one) for one in found.values()}
        if len(lengths) != 1:
            raise DataError(f"{location}: the lists of 'completions' have different lengths", "wrong_type")
        found = [dict(zip(found, one, strict=True)) for one in zip(*found.values(), strict=True)]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"{location}: 'completions' must be a list of objects, found {found!r:.60}", "wrong_type")
    return tuple(
        _rated(Row(f"{location}: completion {number}", number, one)) for number, one in enumerate(found, start=1)
    )


def _rated(one: Row) -> RowCompletion:
    """A completion with its ratings by aspect, in lower case with underscores; what is not rated is left out."""
    aspects = one.values.get("annotations") or {}
    if not isinstance(aspects, dict):
        raise DataError(f"{one.location}: 'annotations' must be an object, found {aspects!r:.60}", "wrong_type")
    scores, reasons = dict[str, float](), list[str]()
    for name, note in aspects.items():
        if note is None:
            continue
        if not isinstance(note, dict):
            raise DataError(
                f"{one.location}: '{name}' must be an object with a Rating, found {note!r:.40}", "wrong_type"
            )
        value = _rating(note.get("Rating"), f"{one.location} '{name}'")
        if value is not None:
            scores[str(name).strip().lower().replace(" ", "_").replace("-", "_")] = value
        if isinstance(note.get("Rationale"), str) and note["Rationale"].strip():
            reasons.append(f"{name}: {note['Rationale'].strip()}")
    overall = _rating(one.values.get("overall_score"), f"{one.location} 'overall_score'")
    if overall is not None:
        scores["overall_score"] = overall
    critique = one.optional_text("critique")
    return RowCompletion(
        one.text("response"),
        one.optional_text("model"),
        scores=scores,
        critique="\n".join([*reasons, critique] if critique else reasons),
    )


def _rating(value: object, location: str) -> float | None:
    """A score that is a number or a text of one; None for none and "N/A"."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NO_RATING):
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not math.isfinite(number):
        raise DataError(f"{location}: a rating must be a number, found {value!r:.40}", "wrong_type")
    return number


def _annotated(row: Row) -> bool:
    """Whether a row's completions are objects with a `response`."""
    found = row.values.get("completions")
    one = found[0] if isinstance(found, list) and found else found
    return isinstance(one, dict) and "response" in one
