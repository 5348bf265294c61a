"""Candidates of a finished build -> pairs, with the build's own strategy or another; no model is asked again."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import ConfigError, DataError, RunError
from pairsight.formats.tables import ROWS_PER_BATCH
from pairsight.images.source import WithImages
from pairsight.options import BuildRecord
from pairsight.records import Candidates, Dropped
from pairsight.registry import NamedPiece, plugins, strategies
from pairsight.selection.strategy import Selection, Strategy, choose, make_strategy
from pairsight.store.blobs import BlobStore
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import Sealing, sealed_rows, verified_files

if TYPE_CHECKING:
    import pyarrow as pa


Examples = WithImages[Any]
"""Pairs or demonstrations, as the strategy says, with their images."""


@dataclass(frozen=True, slots=True)
class CandidateSet(WithImages[Candidates]):
    """A finished build's candidates, with its run, its own strategy and what the recipe dropped.

    `built_with` is the strategy itself after `build`; read from a run folder, it is the strategy's name and options.
    """

    run: Path = Path()
    built_with: Strategy | NamedPiece | None = None
    dropped: tuple[Dropped, ...] = ()

    @property
    def strategy(self) -> Strategy | None:
        """The build's own strategy; ConfigError where it is code that the user did not name in this call."""
        if not isinstance(self.built_with, NamedPiece):
            return self.built_with
        return make_strategy(self.built_with.name, **self.built_with.options)


def load_candidates(run: str | Path) -> CandidateSet:
    """The candidates that a finished build left in a run folder.

    Raises:
        RunError: there is no run, or its build is not finished.
    """
    from pairsight.formats.tables import DROPPED_SCHEMA, read_candidates

    folder = RunFolder.open(run)
    items = tuple(read_candidates(verified_files(folder.data, "candidates")))
    dropped = (Dropped(**row) for row in sealed_rows(folder.data, "dropped", DROPPED_SCHEMA))
    made = tuple(one for one in dropped if not one.stage.startswith("select"))
    return CandidateSet(items, folder.blobs, folder.path, strategy_of_run(folder), made)


def strategy_of_run(folder: RunFolder) -> NamedPiece | None:
    """The name (or `file.py:Class`) and the options of the strategy that a run was built with; None for none.

    Raises:
        RunError: `strategy` in `run.yaml` is something else.
    """
    strategy, found = BuildRecord.from_plain(folder.config).built_with, folder.config.get("strategy")
    if strategy is None and found:
        raise RunError(f"{folder.path / 'run.yaml'}: 'strategy' must have a name and options, found {found!r:.60}")
    return strategy


def select(
    candidates: WithImages[Candidates] | Iterable[Candidates | Dropped],
    strategy: str | Strategy | None = None,
    **options: Any,
) -> tuple[Examples, tuple[Dropped, ...]]:
    """Choose what to learn from.

    Args:
        candidates: what `build` or `load_candidates` returned.
        strategy: a strategy or its name; default: the one that the run was built with.
        options: the strategy's options, when a name is given.

    Returns:
        Pairs (or demonstrations, as the strategy says) with their images, and everything dropped with its reason.

    Raises:
        ConfigError: an unknown strategy or option, options without a strategy's name, or no strategy for candidates
            that come from no run.
    """
    if options and not isinstance(strategy, str):
        raise ConfigError(f"options {', '.join(options)} need the name of their strategy: strategy='NAME'")
    if isinstance(strategy, str):
        with plugins(strategy):
            strategy = make_strategy(strategy, **options)
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


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a build wrote: how many pairs (or demonstrations), and how many items were dropped by (stage, reason)."""

    num_examples: int
    dropped: Mapping[tuple[str, str], int]


def seal_build(
    run: RunFolder,
    made: Iterable[Candidates | Dropped],
    strategy: Strategy,
    advance: Callable[[int], None] = lambda count: None,
    results: "Iterable[pa.RecordBatch] | None" = None,
) -> Sealed:
    """Write candidates, completions, annotations, pairs (or demonstrations) and drops; all are published at the end.

    Args:
        run: the run's folder.
        made: what the recipe made and dropped, in order; read once.
        strategy: what chooses.
        advance: called with the number of items of `made` that were written since the last call.
        results: rows of the table that `salvage` rebuilds a ledger from, read after `made`; None: no such table.

    Raises:
        RunError: the disk is full or the folder read-only; earlier tables are then kept.
        ConfigError: the strategy returns pairs where it declares demonstrations, or the reverse.
    """
    from pairsight.formats import tables, trl
    from pairsight.store import sealed_results

    demonstrates = strategy.makes_demonstrations
    schemas = {
        "candidates": tables.CANDIDATES_SCHEMA,
        "completions": tables.COMPLETIONS_SCHEMA,
        "annotations": tables.ANNOTATIONS_SCHEMA,
        **({"demonstrations": trl.DEMONSTRATIONS_SCHEMA} if demonstrates else {"pairs": trl.PAIRS_SCHEMA}),
        "dropped": tables.DROPPED_SCHEMA,
    }
    dropped: Counter[tuple[str, str]] = Counter()
    num_examples = 0
    with Sealing(run.data) as sealing:
        writers = {name: sealing.table(name, schema) for name, schema in schemas.items()}
        sealing.remove("pairs" if demonstrates else "demonstrations")
        source = iter(made)
        while part := list(islice(source, ROWS_PER_BATCH)):
            selection = choose(part, strategy)
            for name, batches in _rows(part, selection, demonstrates, run.blobs).items():
                for batch in batches:
                    writers[name].write(batch)
            num_examples += len(selection.pairs) + len(selection.demonstrations)
            dropped.update((one.stage, one.reason) for one in selection.dropped)
            advance(len(part))
        if results is not None:
            kept = sealing.table(sealed_results.TABLE, sealed_results.SCHEMA)
            for batch in results:
                kept.write(batch)
    return Sealed(num_examples, dict(dropped))


def _rows(
    part: list[Candidates | Dropped], selection: Selection, demonstrates: bool, images: BlobStore
) -> "dict[str, Iterator[pa.RecordBatch]]":
    """Name of a table -> its rows for this part of what was made."""
    from pairsight.formats import tables, trl

    candidates = [one for one in part if isinstance(one, Candidates)]
    if demonstrates:
        chosen = {"demonstrations": trl.demonstration_batches(selection.demonstrations, images)}
    else:
        chosen = {"pairs": trl.pair_batches(selection.pairs, images)}
    return {
        "candidates": tables.candidates_batches(candidates),
        "completions": tables.completion_batches(one for c in candidates for one in c.completions),
        "annotations": tables.annotation_batches(one for c in candidates for one in c.annotations),
        **chosen,
        "dropped": tables.dropped_batches(selection.dropped),
    }
