"""TRL's preference rows: `prompt`, `chosen` and `rejected`, as texts or messages; or the prompt at the start of both.

Source: "Dataset formats" in TRL's documentation: explicit prompt, implicit prompt, and vision datasets with `images`.
"""

from pathlib import Path
from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets import layouts
from pairsight.formats.datasets.format import (
    Example,
    Format,
    Gives,
    Head,
    Picture,
    Plain,
    RowCompletion,
    Turn,
    location_of,
)
from pairsight.formats.datasets.turns import asked, llava_pictures, turns_of
from pairsight.formats.rows import Row


class Trl(Format):
    """An explicit prompt; `chosen` and `rejected` may begin with it again, as in ultrafeedback_binarized."""

    title: ClassVar[str] = "TRL, explicit prompt"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    known: ClassVar[tuple[str, ...]] = (
        "id",
        "prompt_id",
        "image",
        "images",
        "score_chosen",
        "score_rejected",
        "messages",
    )
    numbers_ids: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = ("parquet", "save_to_disk", "jsonl")

    def example(self, row: Row) -> Example:
        """One pair; DataError where the completions are not one message after the prompt."""
        identity = row.identity("id")
        location = location_of(row, identity)
        prompt, inside = conversational(row, "prompt", "user", location)
        chosen, rejected = (conversational(row, name, "assistant", location)[0] for name in ("chosen", "rejected"))
        return _pair(
            row, identity, (prompt, _after(prompt, chosen, location), _after(prompt, rejected, location)), inside
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        return layouts.trl_pair(example, self.title)

    def next_step(self, target: Path, file: str) -> str:
        """How `datasets` loads it."""
        return f"{_loaded(target, file)} for trl.DPOTrainer"


class TrlImplicit(Format):
    """No prompt: `chosen` and `rejected` are conversations that begin alike."""

    title: ClassVar[str] = "TRL, implicit prompt"
    columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    known: ClassVar[tuple[str, ...]] = ("id", "image", "images", "score_chosen", "score_rejected")
    numbers_ids: ClassVar[bool] = False

    def detect(self, head: Head) -> bool:
        """Whether both are lists of more than one message."""
        found = [head.first.values.get(name) for name in self.columns]
        return super().detect(head) and all(isinstance(one, list) and len(one) > 1 for one in found)

    def example(self, row: Row) -> Example:
        """One pair; DataError where the two differ before their last message."""
        identity = row.identity("id")
        location = location_of(row, identity)
        (chosen, inside), (rejected, _) = (
            conversational(row, name, "assistant", location) for name in ("chosen", "rejected")
        )
        prompt = chosen[:-1]
        if prompt != rejected[:-1]:
            what = "'chosen' and 'rejected' differ before their last message"
            raise DataError(f"{location}: {what}", "different_prompts")
        return _pair(row, identity, (prompt, chosen[-1:], rejected[-1:]), inside)


class TrlDemonstrations(Format):
    """`prompt` and `completion`, to imitate."""

    title: ClassVar[str] = "TRL, prompt and completion"
    gives: ClassVar[Gives] = "demonstrations"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    known: ClassVar[tuple[str, ...]] = ("id", "image", "images")
    containers: ClassVar[tuple[Container, ...]] = ("parquet", "save_to_disk", "jsonl")
    numbers_ids: ClassVar[bool] = False

    def example(self, row: Row) -> Example:
        """One demonstration; DataError where the completion is not one message."""
        identity = row.identity("id")
        location = location_of(row, identity)
        prompt, inside = conversational(row, "prompt", "user", location)
        (said,) = _after(prompt, conversational(row, "completion", "assistant", location)[0], location)
        pictures = llava_pictures(row, location) or inside
        return Example(identity, location, asked(prompt, location), pictures, (RowCompletion(said.text),))

    def write(self, example: Example) -> tuple[Plain, ...]:
        """One row."""
        return layouts.trl_demonstration(example, self.title)

    def next_step(self, target: Path, file: str) -> str:
        """How `datasets` loads it."""
        return f"{_loaded(target, file)} for trl.SFTTrainer"


def _loaded(target: Path, file: str) -> str:
    if file.endswith("save_to_disk"):
        return f"datasets.load_from_disk('{target}')"
    kind = "json" if file.endswith(".jsonl") else "parquet"
    return f"datasets.load_dataset('{kind}', data_files='{target / file}', split='train')"


def conversational(row: Row, name: str, role: str, location: str) -> tuple[tuple[Turn, ...], tuple[Picture, ...]]:
    """A field that is a text or messages, as turns; a text is said by `role`."""
    value = row.required(name)
    return ((Turn(role, row.text(name)),), ()) if isinstance(value, str) else turns_of(value, f"{location}: '{name}'")


def _after(prompt: tuple[Turn, ...], turns: tuple[Turn, ...], location: str) -> tuple[Turn, ...]:
    """The turns of a completion without the prompt, where they begin with it."""
    left = turns[len(prompt) :] if len(turns) > len(prompt) and turns[: len(prompt)] == prompt else turns
    if len(left) != 1 or left[0].role != "assistant":
        raise DataError(f"{location}: a completion must be one assistant message, found {len(left)}", "wrong_type")
    return left


def _pair(row: Row, identity: str, turns: tuple[tuple[Turn, ...], ...], inside: tuple[Picture, ...]) -> Example:
    prompt, chosen, rejected = turns
    location = location_of(row, identity)
    beside = llava_pictures(row, location)
    if beside and inside:
        raise DataError(f"{location} has images both in its messages and beside them", "image_marks")
    return Example(
        identity,
        location,
        asked(prompt, location),
        beside or inside,
        (
            RowCompletion(chosen[0].text, preferred=True, scores=_score(row, "score_chosen")),
            RowCompletion(rejected[0].text, preferred=False, scores=_score(row, "score_rejected")),
        ),
    )


def _score(row: Row, name: str) -> dict[str, float]:
    value = row.values.get(name)
    return {"score": float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else {}
