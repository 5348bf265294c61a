"""A dataset, or a run's pairs, in the layout of another tool: looked at once, said what is not kept, then written.

A conversion is all or nothing: it is written beside its place, under a hidden name, and gets its name when it is
complete. What a killed one leaves is removed by the next.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pairsight.errors import ConfigError, DataError
from pairsight.formats.containers.sinks import SINKS, SUFFIXES, Container, RowSchema, sink
from pairsight.formats.datasets.format import WEIGHT, Example, Format, Gives, Plain
from pairsight.formats.writing.examples import Record, example_of, lost_with
from pairsight.formats.writing.placed import ImagesAs, NamedImages, PlacedImages
from pairsight.formats.writing.roundtrip import missing
from pairsight.images.source import WithImages
from pairsight.pipeline.conversion_options import ConvertOptions
from pairsight.pipeline.conversion_target import drafted, free_target
from pairsight.records import PreferencePair
from pairsight.store.durable import cannot_write, write_file


@dataclass(frozen=True, slots=True)
class ConvertSpec:
    """A conversion, checked: what is read, as what it is written, and where."""

    options: ConvertOptions
    format: Format
    container: Container
    images_as: ImagesAs
    target: Path
    is_file: bool

    @property
    def file(self) -> str:
        """The name of the file of rows."""
        return self.target.name if self.is_file else f"{self.format.gives}.{self.container}"

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """From flat options.

        Raises:
            ConfigError: an unknown option or format, one that is only read, or a container that it is not written in.
            RunError: DST is there already.
        """
        options = ConvertOptions.parse(values, "convert")
        format = _written_format(options.to)
        target = free_target(options.out)
        suffix = SUFFIXES.get(target.suffix.lower())
        container = options.container or suffix or format.containers[0]
        if container not in format.containers:
            raise ConfigError(
                f"{format.title} is written as {', '.join(format.containers)}, not as {container}: no reader of it "
                "takes that"
            )
        if suffix is not None and suffix != container:
            raise ConfigError(f"{target} is to be a {suffix} file, and --container says {container}: leave one out")
        embeds = SINKS[container].holds_bytes or (format.embeds_in_text and options.images_as is None)
        images_as = options.images_as or ("embed" if embeds else "copy")
        if images_as == "embed" and not (SINKS[container].holds_bytes or format.embeds_in_text):
            raise ConfigError(f"{format.title} as {container} names its images as files: use --images-as copy or link")
        if suffix is not None and (images_as != "embed" or format.beside("")):
            what = "its images and rows" if images_as != "embed" else "several files"
            raise ConfigError(f"{target} is one file, and {format.title} as {container} is {what}: name a folder")
        return cls(options, format, container, images_as, target, suffix is not None)


def _written_format(name: str) -> Format:
    from pairsight.formats.datasets.detect import named
    from pairsight.registry import formats

    found = named(name)
    if found is None or not _is_written(type(found)):
        known = [one for one, made in formats.in_order() if issubclass(made, Format) and _is_written(made)]
        raise ConfigError(f"format '{name}' is only read; --to takes {', '.join(known)}")
    return found


def _is_written(format: type[Format]) -> bool:
    return format.keeps_records or format.write is not Format.write


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: where, how many records of which kind as how many rows, files of images, and what to do next.

    `left_out` counts by reason the records that the layout has no room for; `lost` what of others it does not keep.
    """

    target: Path
    gives: Gives
    num_records: int
    num_rows: int
    num_files: int
    next_step: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)


def convert_run(spec: ConvertSpec, say: Callable[[str], None] = print) -> Converted:
    """Convert a dataset.

    Args:
        spec: the conversion.
        say: takes each sentence about what is read and what is not kept, before anything is written.

    Raises:
        DataError: what cannot be read; see also `write_records`.
        RunError: the disk is full or may not be written.
    """
    from pairsight.pipeline.conversion_source import read_source

    return write_records(read_source(spec.options, spec.format.gives, say), spec, say)


def write_records(source: WithImages[Any], spec: ConvertSpec, say: Callable[[str], None] = print) -> Converted:
    """Write records in a format.

    Raises:
        DataError: records that the format has no room for (how many, and the first), unless `on_error` is "skip".
        RunError: the disk is full or may not be written.
    """
    if spec.format.keeps_records:
        return _write_own(source, spec)
    plan, format = _look(spec, source), spec.format
    for sentence in plan.sentences(format.gives, skips=spec.options.on_error == "skip"):
        say(sentence)
    if plan.refused and spec.options.on_error == "stop":
        raise DataError(
            f"{len(plan.refused):,} of {len(source):,} records do not fit into {format.title}; the first: "
            f"{plan.first_refusal}; --on-error skip leaves them out",
            "format",
        )
    if not plan.num_records:
        raise DataError(f"{spec.options.data}: nothing is left to write as {format.title}", "empty_file")
    with drafted(spec.target, is_file=spec.is_file) as draft:
        num_files = _write(spec, source, plan, draft)
    next_step = format.next_step(spec.target.parent if spec.is_file else spec.target, spec.file)
    return Converted(
        spec.target, format.gives, plan.num_records, plan.num_rows, num_files, next_step, plan.left_out, plan.lost
    )


@dataclass(slots=True)
class _Plan:
    """What a first look at all records found."""

    schema: RowSchema
    num_records: int = 0
    num_rows: int = 0
    refused: set[int] = field(default_factory=set)
    first_refusal: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def sentences(self, gives: str, *, skips: bool) -> Iterator[str]:
        """What is not kept and, where that is not an error, what is left out."""
        for what, count in self.lost.most_common():
            yield f"{count:,} of {self.num_records:,} {gives} {what} (the first: {self.first[what]})"
        for reason, count in self.left_out.most_common() if skips else ():
            yield f"left out, {reason}: {count:,}; the first: {self.first[reason]}"


def _look(spec: ConvertSpec, source: Sequence[Record]) -> _Plan:
    """Go through all records without opening an image: what becomes of each, and what is lost."""
    format, names, kind = spec.format, NamedImages(spec.images_as), SINKS[spec.container]
    plan = _Plan(RowSchema(format.title))
    for number, record in enumerate(source):
        try:
            example = example_of(record, format.gives, names)
            rows = _rows(format, example)
            lost = [*lost_with(record, format.gives), *missing(format, example, rows)]
            for refusal in filter(None, map(kind.refusal, rows)):
                raise DataError(f"{example.location} does not fit into {spec.container}: {refusal}", "container")
        except DataError as error:
            plan.refused.add(number)
            plan.left_out[error.reason] += 1
            plan.first.setdefault(error.reason, str(error))
            plan.first_refusal = plan.first_refusal or str(error)
            continue
        plan.num_records += 1
        plan.num_rows += len(rows)
        for what in lost:
            plan.lost[what] += 1
            plan.first.setdefault(what, example.location)
        if kind.needs_schema:
            for row in rows:
                plan.schema.add(row)
    return plan


def _write_own(source: WithImages[Any], spec: ConvertSpec) -> Converted:
    """Write pairs as our own table, of which nothing is lost."""
    from pyarrow.parquet import ParquetWriter

    from pairsight.formats.trl import PAIRS_SCHEMA, pair_batches

    if not isinstance(source[0], PreferencePair):
        raise DataError(f"{spec.options.data} has no pairs, and {spec.format.title}'s table holds pairs", "format")
    num_rows = 0
    with (
        drafted(spec.target, is_file=spec.is_file) as draft,
        ParquetWriter(draft / spec.file, PAIRS_SCHEMA, compression="zstd") as out,
    ):
        for batch in pair_batches(source, source.images):
            out.write_batch(batch)
            num_rows += batch.num_rows
    next_step = spec.format.next_step(spec.target.parent if spec.is_file else spec.target, spec.file)
    return Converted(spec.target, "pairs", len(source), num_rows, 0, next_step)


def _rows(format: Format, example: Example) -> Sequence[Plain]:
    """An example's rows, with its weight where it is not 1."""
    weight: Plain = {} if example.weight == 1 else {WEIGHT: example.weight}
    return [row | weight for row in format.write(example)]


def _write(spec: ConvertSpec, source: WithImages[Any], plan: _Plan, draft: Path) -> int:
    """Write rows and images into a folder; the number of image files."""
    images = PlacedImages(source.images, spec.images_as, draft)
    path = draft if spec.container == "save_to_disk" else draft / spec.file
    try:
        with sink(spec.container, path, plan.schema.schema()) as out:
            for number, record in enumerate(source):
                if number not in plan.refused:
                    for row in _rows(spec.format, example_of(record, spec.format.gives, images)):
                        out.write(row)
        for other, content in spec.format.beside(spec.file).items():
            write_file(draft / other, content.encode())
    except OSError as error:
        raise cannot_write(spec.target, error) from None
    return images.num_files
