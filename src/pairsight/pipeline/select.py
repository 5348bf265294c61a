"""Candidates of a finished build -> pairs, again and with another strategy if wanted; nothing is computed anew."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsight.errors import ConfigError, DataError, RunError
from pairsight.images.source import WithImages
from pairsight.records import Candidates, Dropped
from pairsight.registry import plugins, strategies
from pairsight.selection.strategy import Strategy
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import verified_files

Examples = WithImages[Any]
"""Pairs or demonstrations, as the strategy says, with their images."""


@dataclass(frozen=True, slots=True)
class CandidateSet(WithImages[Candidates]):
    """A finished build's candidates, with its run, its own strategy and what the recipe dropped.

    `built_with` is the strategy or, as a run folder says it, its name and options.
    """

    run: Path = Path()
    built_with: Strategy | Mapping[str, Any] | None = None
    dropped: tuple[Dropped, ...] = ()

    @property
    def strategy(self) -> Strategy | None:
        """The build's own strategy; ConfigError where it is code that the user does not name."""
        if not isinstance(self.built_with, Mapping):
            return self.built_with
        return make_strategy(str(self.built_with["name"]), {k: v for k, v in self.built_with.items() if k != "name"})


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
    made = tuple(one for one in dropped if not one.stage.startswith("select"))
    return CandidateSet(items, folder.blobs, folder.path, built_with(folder), made)


def built_with(folder: RunFolder) -> dict[str, Any] | None:
    """The name (or `file.py:Class`) and the options of the strategy that a run was built with; None for none.

    Raises:
        RunError: `run.yaml` says something else there.
    """
    found = folder.config.get("strategy")
    if not found:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise RunError(f"{folder.path / 'run.yaml'}: 'strategy' must have a name and options, found {found!r:.60}")
    return {**found, "name": str(folder.config.get("strategy_file") or found["name"])}


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

    if options and not isinstance(strategy, str):
        raise ConfigError(f"say which strategy takes {', '.join(options)}: strategy='NAME'")
    if isinstance(strategy, str):
        with plugins(strategy):
            strategy = make_strategy(strategy, options)
    own = candidates.strategy if strategy is None and isinstance(candidates, CandidateSet) else None
    chosen = strategy or own
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
