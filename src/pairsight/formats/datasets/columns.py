"""A dataset of any other layout, whose columns the user names: `--columns prompt=question,chosen=a,rejected=b`."""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Example, Format, Gives, Picture, RowCompletion, Turn, location_of
from pairsight.formats.datasets.trl import conversational
from pairsight.formats.datasets.turns import asked, pictures_of, spoken
from pairsight.formats.rows import Row


class Columns(Format):
    """`prompt` (text or messages), `chosen`, `rejected` (one or a list), and `image`, `id`, `system`, `source`."""

    title: ClassVar[str] = "named columns"
    known: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected", "image", "id", "system", "source")

    def example(self, row: Row) -> Example:
        """One pair; DataError where `prompt`, `chosen` or `rejected` is not there."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns, images = _prompt(row, location)
        worse = row.required("rejected")
        rejected = worse if isinstance(worse, list) and all(isinstance(one, str) for one in worse) else [worse]
        return Example(
            identity,
            location,
            asked(turns, location),
            images,
            (
                RowCompletion(spoken(row.required("chosen"), f"{location}: 'chosen'"), preferred=True),
                *(RowCompletion(spoken(one, f"{location}: 'rejected'"), preferred=False) for one in rejected),
            ),
            row.optional_text("source"),
        )


class ColumnsDemonstrations(Format):
    """`prompt` (text or messages) and `completion`, to imitate, and `image`, `id`, `system`, `source`."""

    title: ClassVar[str] = "named columns, to imitate"
    gives: ClassVar[Gives] = "demonstrations"
    known: ClassVar[tuple[str, ...]] = ("prompt", "completion", "image", "id", "system", "source")

    def example(self, row: Row) -> Example:
        """One demonstration; DataError where `prompt` or `completion` is not there."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns, images = _prompt(row, location)
        said = RowCompletion(spoken(row.required("completion"), f"{location}: 'completion'"))
        return Example(identity, location, asked(turns, location), images, (said,), row.optional_text("source"))


def _prompt(row: Row, location: str) -> tuple[tuple[Turn, ...], tuple[Picture, ...]]:
    """What is asked, with the images inside it or beside it."""
    turns, inside = conversational(row, "prompt", "user", location)
    if system := row.optional_text("system"):
        turns = (Turn("system", system), *turns)
    images = pictures_of(row.values.get("image"), f"{location}: 'image'")
    if images and inside:
        raise DataError(f"{location} has images both in 'prompt' and in 'image'", "image_marks")
    return turns, images or inside
