"""Candidates of a finished build -> pairs, again and with another strategy if wanted; nothing is computed anew."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsight.errors import ConfigError, DataError
from pairsight.images.source import WithImages
from pairsight.records import Candidates, Dropped
from pairsight.registry import strategies
from pairsight.selection.strategy import Strategy
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import verified_files

Examples = WithImages[Any]
"""Pairs or demonstrations, as the strategy says, with their images."""


@dataclass(frozen=True, slots=True)
class CandidateSet(WithImages[Candidates]):
    """A finished build's candidates, with its run, its own strategy and what the recipe dropped."""

    run: Path = Path()
    strategy: Strategy | None = None
    dropped: tuple[Dropped, ...] = ()


def make_strategy(name: str, options: dict[str, Any] | None = None) -> Strategy:
    """The strategy called `name`, with options."""
    strategy: Strategy = strategies.get(name).parse(options or {}, f"strategy '{name}'")
    return strategy


def load_candidates(run: str | Path) -> CandidateSet:
    """The candidates that a finished build left in a run folder.

    Raises:
        RunError: no run, or its build is not finished.
    """
    import pyarrow.parquet as pq

    from pairsight.formats.tables import read_candidates

    folder = RunFolder.open(run)
    items = tuple(read_candidates(verified_files(folder.data, "candidates")))
    dropped: list[Dropped] = []
    for file in verified_files(folder.data, "dropped"):
        dropped += [Dropped(**row) for row in pq.read_table(file).to_pylist()]
    options = dict(folder.config.get("strategy") or {})
    strategy = make_strategy(str(options.pop("name")), options) if options else None
    made = tuple(one for one in dropped if not one.stage.startswith("select"))
    return CandidateSet(items, folder.blobs, folder.path, strategy, made)


def select(
    candidates: WithImages[Candidates] | Iterable[Candidates | Dropped],
    strategy: str | Strategy | None = None,
    **options: Any,
) -> tuple[Examples, tuple[Dropped, ...]]:
    """Choose what to learn from.

    Args:
        candidates: what `build` returned.
        strategy: a strategy or its name; default: the recipe's own, as the run says.
        options: the strategy's options, when a name is given.

    Returns:
        Pairs (or demonstrations, as the strategy says) with their images, and everything dropped with its reason.

    Raises:
        ConfigError: an unknown strategy or option, options without a strategy's name, or no strategy and the candidates
            know no run.
    """
    from pairsight.selection.select import select as choose

    own = candidates.strategy if isinstance(candidates, CandidateSet) else None
    if options and not isinstance(strategy, str):
        raise ConfigError(f"say which strategy takes {', '.join(options)}: strategy='NAME'")
    chosen = make_strategy(strategy, options) if isinstance(strategy, str) else strategy or own
    if chosen is None:
        raise ConfigError(f"name a strategy: {', '.join(strategies.names())}")
    if not isinstance(candidates, WithImages):
        raise DataError("select needs the candidates that build returned, with their images")
    earlier = candidates.dropped if isinstance(candidates, CandidateSet) else ()
    selection = choose(_with_drops(candidates, earlier), chosen)
    items: tuple[Any, ...] = selection.pairs or selection.demonstrations
    return WithImages(items, candidates.images), selection.dropped


def _with_drops(candidates: Iterable[Candidates], dropped: Iterable[Dropped]) -> Iterator[Candidates | Dropped]:
    yield from dropped
    yield from candidates
