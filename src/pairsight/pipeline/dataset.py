"""A dataset that a user names instead of a run: what it gives, and the examples that are chosen from it."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from pairsight.config import option_facts
from pairsight.errors import ConfigError, DataError
from pairsight.formats.containers.find import find
from pairsight.formats.datasets.detect import chosen, detect, named
from pairsight.formats.datasets.format import Gives
from pairsight.formats.datasets.reading import DatasetRecords, Reading, read_records
from pairsight.formats.pairs import holds_our_pairs, read_pairs
from pairsight.formats.record_tables import spooled
from pairsight.images.source import WithImages
from pairsight.options import AlignOptions
from pairsight.pipeline.select import Examples, select
from pairsight.records import Dropped
from pairsight.registry import NamedPiece
from pairsight.selection.strategy import Strategy

_MOST_LISTED = 10_000
"""Lines of a list of what was left out."""


def kind_of(options: AlignOptions) -> tuple[Gives, NamedPiece | None]:
    """What a dataset gives, by its first rows, and the strategy that chooses from its candidates by default.

    Raises:
        DataError, ConfigError: as `read_records`.
    """
    if holds_our_pairs(Path(options.data)) or _is_of_prompts(options):
        return "pairs", None
    try:
        found = find(options.data, allow_download=options.allow_download)
    except DataError as error:
        if error.reason == "missing_file":  # the reading says so, after the options are checked
            return "pairs", None
        raise
    named_by_user = options.format is not None or options.columns is not None
    detected = chosen(found, options.format, options.columns) if named_by_user else detect(found)
    gives = detected.format.gives
    return "candidates" if gives == "pairs" and options.strategy is not None else gives, detected.format.strategy


def examples_of(options: AlignOptions, strategy: Strategy | None, say: Callable[[str], None]) -> Examples:
    """The examples of a dataset: its pairs or demonstrations, or what a strategy chooses from its candidates.

    Args:
        options: which dataset, and how it is read.
        strategy: what chooses; None for data that needs no choice.
        say: is told what was found, in sentences.

    Raises:
        DataError, ConfigError: as `read_records`; or an option that changes nothing for this data.
    """
    path = Path(options.data)
    if holds_our_pairs(path):
        _refuse(options, strategy, "holds pairs that Pairsight chose")
        return read_pairs(path)
    if options.format is not None and _is_of_prompts(options):
        from pairsight.formats.completions import read_given_pairs
        from pairsight.formats.prompts import make_format

        _refuse(options, strategy, f"is read by the format {options.format}", allowed="format")
        return read_given_pairs(options.data, make_format(options.format))
    records = read_records(options.data, reading_of(options, as_candidates=strategy is not None))
    for sentence in records.sentences():
        say(sentence)
    if records.gives != "candidates":
        if strategy is not None:
            raise ConfigError(
                f"--strategy chooses among completions, and {options.data} has demonstrations; leave --strategy out"
            )
        return records
    if strategy is None:
        raise ConfigError(f"{options.data} has candidates: name what chooses among them, --strategy NAME")
    examples, without = select(WithImages(records.items, records.images), strategy)
    say(f"strategy {strategy.name}: {len(examples):,} examples of {len(records):,} prompts, {len(without):,} without")
    return replace(records, items=examples.items, dropped=spooled(Dropped, chain(records.dropped, without)))


def reading_of(options: AlignOptions, *, as_candidates: bool = False) -> Reading:
    """How a dataset is read."""
    return Reading(
        images=options.images,
        format=options.format,
        columns=options.columns,
        on_error=options.on_error or "stop",
        allow_download=options.allow_download,
        as_candidates=as_candidates,
    )


def left_out(examples: Examples) -> dict[str, bytes]:
    """The file `dropped.jsonl` of what was left out of a dataset, one JSON object a line; of very many the first."""
    dropped = examples.dropped if isinstance(examples, DatasetRecords) else ()
    lines = [
        json.dumps({"item_id": one.item_id, "reason": one.reason, "detail": one.detail}, ensure_ascii=False)
        for one in islice(dropped, _MOST_LISTED)
    ]
    return {"dropped.jsonl": "".join(f"{line}\n" for line in lines).encode()} if lines else {}


def reference_in_words(examples: Examples, out: Path) -> str:
    """How the log-probs of a dataset's own reference differ from ours; "" where it has none."""
    from pairsight.training.data.given_reference import compared

    return compared(out, examples.references) if isinstance(examples, DatasetRecords) else ""


def _is_of_prompts(options: AlignOptions) -> bool:
    """Whether the user names a format of prompts with completions, such as one of their own."""
    return options.format is not None and named(options.format) is None


def _refuse(options: AlignOptions, strategy: Strategy | None, why: str, allowed: str = "") -> None:
    facts = option_facts(AlignOptions)
    given = [name for name in options.given() if facts[name].needs == "a dataset" and name != allowed]
    if strategy is not None:
        raise DataError(
            f"--strategy chooses from a run's candidates, and {options.data} already holds chosen pairs; leave "
            "--strategy out"
        )
    if given:
        flag = given[0].replace("_", "-")
        raise ConfigError(f"--{flag} changes nothing, {options.data} {why}; leave it out")
