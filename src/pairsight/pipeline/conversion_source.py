"""What a conversion reads: a run, tables that Pairsight wrote, or a dataset of any known format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pairsight.errors import ConfigError
from pairsight.formats.datasets.format import Gives
from pairsight.formats.datasets.reading import Reading, read_records
from pairsight.formats.pairs import holds_our_pairs, read_pairs
from pairsight.images.source import WithImages
from pairsight.pipeline.conversion_options import ConvertOptions
from pairsight.pipeline.select import load_candidates, select_once
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import table_rows


def read_source(options: ConvertOptions, gives: Gives, say: Callable[[str], None]) -> WithImages[Any]:
    """The records that are converted.

    Args:
        options: of the conversion.
        gives: what is wanted: pairs, candidates or demonstrations.
        say: takes each sentence about the reading.

    Raises:
        DataError: no such dataset, or one that cannot be read.
        ConfigError: options of datasets beside a run, or candidates of pairs.
    """
    run = (Path(options.data) / "run.yaml").is_file()
    if run or (gives != "candidates" and holds_our_pairs(Path(options.data))):
        what = "is a run" if run else "was written by Pairsight"
        if given := [name for name in ("images", "format", "columns") if name in options.given()]:
            raise ConfigError(f"{options.data} {what}, and says itself what it holds: leave --{given[0]} out")
        return _of_run(options.data, gives) if run else read_pairs(options.data)
    found = read_records(
        options.data,
        Reading(
            options.images,
            options.format,
            options.columns,
            options.on_error,
            options.allow_download,
            as_candidates=gives == "candidates",
        ),
    )
    for sentence in found.sentences():
        say(sentence)
    return found


def _of_run(run: str, gives: Gives) -> WithImages[Any]:
    """A run's candidates, or what its build chose from them."""
    folder = RunFolder.open(run)
    if gives != "candidates" and table_rows(folder.data).get("pairs"):
        return read_pairs(run, folder.blobs)
    candidates = load_candidates(run)
    if gives == "candidates":
        return candidates
    if candidates.strategy is None:
        raise ConfigError(f"{run} was built without a strategy and has no {gives}: --to takes a layout of candidates")
    return select_once(candidates, candidates.strategy)
