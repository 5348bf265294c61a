"""Reads a dataset of any known format into records, row by row: nothing but a few rows is held in memory."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

from pairsight.errors import DataError
from pairsight.formats.containers.find import Found, find
from pairsight.formats.datasets.detect import Detected, chosen, detect
from pairsight.formats.datasets.format import WEIGHT, Example, GivenReference, Gives, all_pictures
from pairsight.formats.datasets.pictures import RowImages
from pairsight.formats.datasets.records import records_of
from pairsight.formats.datasets.turns import other_media
from pairsight.formats.image_columns import HOW, holds_image
from pairsight.formats.record_tables import Spool
from pairsight.formats.rows import Row
from pairsight.images.source import WithImages
from pairsight.records import Candidates, Demonstration, Dropped, ImageRef, PreferencePair
from pairsight.registry import NamedPiece

_LOG = logging.getLogger("pairsight.formats")
_TOGETHER = 128
"""Examples whose images are checked together."""
_Rooted = tuple[str, Example | Dropped]
"""An example and the folder, below the images', that its pictures' names are relative to."""
_KINDS: Mapping[Gives, type[Any]] = {
    "pairs": PreferencePair, "candidates": Candidates, "demonstrations": Demonstration,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """How a dataset is read.

    Attributes:
        images: the folder that image names are relative to; None: the dataset's own.
        format: a format's name, or `file.py:Class`; None: it is found out.
        columns: our names of columns and the file's, as in `prompt=question,image=img`.
        on_error: stop at the first bad row, or skip and list it.
        allow_download: whether a dataset on the hub and images at web addresses are fetched.
        as_candidates: whether pairs become candidates with a `preference`, for a strategy to choose from.
    """

    images: str | None = None
    format: str | None = None
    columns: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    allow_download: bool = False
    as_candidates: bool = False


@dataclass(frozen=True, slots=True)
class DatasetRecords(WithImages[Any]):
    """The records of a dataset with their images.

    Attributes:
        gives: pairs, candidates or demonstrations.
        why: what the format is, and how it was known.
        strategy: what chooses from candidates where the user names none.
        dropped: what was left out and why.
        references: log-probs of pairs under the dataset's own reference, where it has them.
        num_rows: rows that were read.
        renumbered: how many rows have an id that an earlier one has, and were numbered.
        weighted: how many rows have a weight other than 1.
        margins: how many rows have a margin, which no loss reads.
    """

    gives: Gives = "pairs"
    why: str = ""
    strategy: NamedPiece | None = None
    dropped: Sequence[Dropped] = ()
    references: Sequence[GivenReference] = ()
    num_rows: int = 0
    renumbered: int = 0
    weighted: int = 0
    margins: int = 0

    def sentences(self) -> list[str]:
        """What to know about the reading: the format, the numbers, and what was left out with an example of each."""
        said = [self.why, f"{self.num_rows:,} rows read: {len(self):,} {self.gives}"]
        counts, first = Counter[str](), dict[str, str]()
        for one in self.dropped:
            counts[one.reason] += 1
            first.setdefault(one.reason, one.detail)
        said += [f"left out, {reason}: {count:,}; the first: {first[reason]}" for reason, count in counts.most_common()]
        if self.renumbered:
            said.append(f"{self.renumbered:,} rows have an id that an earlier row has: they are called ID#2, ID#3, …")
        if self.weighted:
            said.append(f"{self.weighted:,} rows have a '{WEIGHT}' other than 1, by which their loss is multiplied")
        if self.margins:
            said.append(f"{self.margins:,} rows have a 'margin', which no loss reads")
        return said


def read_records(name: str | Path, reading: Reading = Reading()) -> DatasetRecords:
    """The records of a dataset: a file, a folder, or a name on the hub.

    Raises:
        DataError: no dataset there, of no known format, a bad row or image (with file, row and id), or nothing left.
        ConfigError: an unknown format, or names of columns that the file does not have.
    """
    found = find(str(name), allow_download=reading.allow_download)
    named = reading.format is not None or reading.columns is not None
    detected = chosen(found, reading.format, reading.columns) if named else detect(found)
    format = detected.format
    gives: Gives = "candidates" if reading.as_candidates and format.gives == "pairs" else format.gives
    images = RowImages(Path(reading.images) if reading.images is not None else found.images, reading.allow_download)
    reader = _Reader(found, detected, images, gives, reading.on_error)
    records: Spool[Any] = Spool(_KINDS[gives])
    left_out, references = Spool(Dropped), Spool(GivenReference)
    for made in reader.records():
        if isinstance(made, GivenReference):
            references.add(made)
        else:
            (left_out if isinstance(made, Dropped) else records).add(made)
    table, dropped = records.table(), left_out.table()
    if not table:
        first = f", {len(dropped)} left out; the first: {dropped[0].detail}" if dropped else ""
        raise DataError(f"{name} ({format.title}): nothing is left{first}", "empty_file")
    return DatasetRecords(
        table,
        images,
        gives,
        detected.why,
        format.strategy,
        dropped,
        references.table(),
        reader.num_rows,
        reader.renumbered,
        reader.weighted,
        reader.margins,
    )


@dataclass(slots=True)
class _Reader:
    """One reading of a dataset, and what it counts.

    Of every id eight bytes and a slot of a set are held.
    """

    found: Found
    detected: Detected
    images: RowImages
    gives: Gives
    on_error: str
    num_rows: int = 0
    renumbered: int = 0
    weighted: int = 0
    margins: int = 0
    ids: set[int] = field(default_factory=set)
    used_again: Counter[str] = field(default_factory=Counter)

    def records(self) -> Iterator[Any]:
        """Each record and each thing left out, in the order of the rows."""
        format = self.detected.format
        together = format.groups or self.gives != format.gives  # pairs on one prompt, from which a strategy chooses
        examples = self._grouped() if together else self._examples()
        while block := list(islice(examples, _TOGETHER)):
            kept = [(root, one) for root, one in block if isinstance(one, Example)]
            refs = self.images.refs((root, picture) for root, one in kept for picture in all_pictures(one))
            for root, one in block:
                if isinstance(one, Dropped):
                    yield one
                    continue
                try:
                    mine = {picture: _found(refs[root, picture], one) for picture in all_pictures(one)}
                    yield from records_of(self._unique(one), self.gives, mine, self.detected.name)
                except DataError as error:
                    yield self._bad(error, one.id)

    def _grouped(self) -> Iterator[_Rooted]:
        """The examples, those of one prompt together where their rows follow each other."""
        for (root, _, _), group in groupby(self._examples(), key=_prompt_of):
            several = [one for _, one in group]
            yield from ((root, one) for one in several if isinstance(one, Dropped))
            examples = [one for one in several if isinstance(one, Example)]
            if examples:
                completions = tuple(completion for one in examples for completion in one.completions)
                yield root, replace(examples[0], completions=completions)

    def _examples(self) -> Iterator[_Rooted]:
        """Each row's example, or why it is left out, with the folder below ours of its images."""
        format, names = self.detected.format, self.detected.names
        read = {*format.columns, *format.known}
        for part, row in self.found.rows():
            self.num_rows += 1
            try:
                if isinstance(row, DataError):
                    raise row
                known = names(row)
                one = other_media(known) or format.example(known)
                if isinstance(one, Example):
                    one = self._weighted(one, known)
                    self.margins += known.values.get("margin") is not None
                    _check_unread(known, one, read)
                    one = other_media(known, one.images) or one
            except DataError as error:
                one = self._bad(error)
            yield part.root, one

    def _weighted(self, example: Example, row: Row) -> Example:
        """The example with its row's `weight`, where it has one; DataError for one that is not a positive number."""
        given = row.values.get(WEIGHT)
        if given in (None, ""):
            return example
        try:
            weight = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else 0.0
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            message = f"{example.location}: '{WEIGHT}' must be a positive number, found {given!r:.40}"
            raise DataError(f"{message}; call the column something else if it is not a weight of the loss", "weight")
        self.weighted += weight != 1
        return replace(example, weight=weight)

    def _unique(self, example: Example) -> Example:
        """The example, with a number after an id that an earlier one has; DataError where that is not to be."""
        name = example.id
        while hash(name) in self.ids:
            if not self.detected.format.numbers_ids:
                raise DataError(f"{example.location}: the id is used before: ids must be unique", "duplicate_id")
            self.used_again[example.id] += 1
            name = f"{example.id}#{self.used_again[example.id] + 1}"
        self.ids.add(hash(name))
        if name == example.id:
            return example
        self.renumbered += 1
        return replace(example, id=name)

    def _bad(self, error: DataError, name: str = "") -> Dropped:
        """A line in the list of what is left out, or the error that ends the reading."""
        if self.on_error == "stop":
            raise DataError(f"{error}; --on-error skip leaves such rows out", error.reason)
        return Dropped(name or str(error).partition(":")[0], "read", error.reason, str(error))


def _found(ref: ImageRef | DataError, example: Example) -> ImageRef:
    if isinstance(ref, DataError):
        raise DataError(f"{example.location}: {ref}", ref.reason)
    return ref


def _prompt_of(row: _Rooted) -> tuple[str, Any, Any]:
    root, one = row
    return (root, one.turns, one.images) if isinstance(one, Example) else (root, one.item_id, ())


def _check_unread(row: Row, example: Example, read: Iterable[str]) -> None:
    """Refuse a row of which no image is read though a column holds one; beside one that is, name the column once."""
    for name, value in row.values.items():
        if name in read or (example.images and name in row.said) or not holds_image(name, value):
            continue
        if not example.images:
            raise DataError(
                f"{example.location}: column '{name}' holds images and is not read: --columns image={name} reads it "
                f"(found {value!r:.60}); {HOW}",
                "unread_image",
            )
        row.said.add(name)
        _LOG.warning("%s: column '%s' holds images too and is not read", example.location, name)
