"""What rows give back of the example that they were written for: a format's own reader says what it has no room for."""

from collections.abc import Iterator, Sequence

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Example, Format, Picture, Plain, RowCompletion, Turn
from pairsight.formats.rows import Row
from pairsight.records import IMAGE_MARK


def missing(format: Format, example: Example, rows: Sequence[Plain]) -> Iterator[str]:
    """What of an example its rows do not hold, each as the end of a sentence that begins with a number of records.

    Args:
        format: that wrote the rows, and now reads them.
        example: that was written.
        rows: what it became.

    Raises:
        DataError: the rows do not give back the messages, the images or the completions: such an example must not be
            written in this format.
    """
    back = [_read(format, example, row) for row in rows]
    if not back or any(_prompt(one) != _prompt(example) for one in back):
        raise DataError(f"{example.location}: {format.title} does not give back its messages and images", "format")
    given = [one for read in back for one in read.completions]
    if format.gives == "pairs":
        given = [one for number, one in enumerate(given) if one.preferred is False or number == 0]
    if list(map(_said, given)) != list(map(_said, example.completions)):
        raise DataError(f"{example.location}: {format.title} does not give back its completions", "format")
    if format.gives == "pairs" and len(rows) > 1:
        yield "have several rejected completions and become one row for each"
    if len(rows) == 1 and back[0].id != example.id:
        yield "have an id, which is not kept"
    if example.source and any(one.source != example.source for one in back):
        yield "say which dataset they are from, which is not kept"
    yield from _details(example.completions, given)


def _details(wanted: Sequence[RowCompletion], given: Sequence[RowCompletion]) -> Iterator[str]:
    both = list(zip(wanted, given, strict=True))
    if any(one.model and one.model != other.model for one, other in both):
        yield "say which model wrote a completion, which is not kept"
    if any(one.scores and dict(one.scores) != dict(other.scores) for one, other in both):
        yield "have scores that are not kept"
    if any(one.critique and one.critique.strip() != other.critique.strip() for one, other in both):
        yield "have an annotator's reasons, which are not kept"
    if any(one.preferred is not None and one.preferred != other.preferred for one, other in both):
        yield "say which completion was preferred, which is not kept"


def _read(format: Format, example: Example, row: Plain) -> Example:
    try:
        read = format.example(Row(example.location, 1, row))
    except DataError as error:
        raise DataError(f"{error}; {format.title} cannot be written so", "format") from None
    if not isinstance(read, Example):
        raise DataError(f"{example.location}: as {format.title} it would be left out: {read.detail}", "format")
    return read


def _prompt(example: Example) -> tuple[object, ...]:
    """What a model is shown: the turns, with images where the marks are, or before the first question."""
    unplaced = not any(IMAGE_MARK in turn.text for turn in example.turns)
    turns = list(example.turns)
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if unplaced and example.images and first is not None:
        turns[first] = Turn("user", IMAGE_MARK * len(example.images) + turns[first].text)
    shown = tuple((turn.role, tuple(piece.strip() for piece in turn.text.split(IMAGE_MARK))) for turn in turns)
    return shown, _images(example.images)


def _images(images: Sequence[Picture]) -> tuple[object, ...]:
    return tuple(one.name if one.data is None else one.data for one in images)


def _said(one: RowCompletion) -> tuple[object, ...]:
    return one.text, None if one.images is None else _images(one.images)
