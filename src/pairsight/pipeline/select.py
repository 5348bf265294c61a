"""Candidates of a finished build -> pairs, again and with another strategy if wanted; nothing is computed anew."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import ConfigError, DataError, RunError
from pairsight.formats.tables import ROWS_PER_BATCH
from pairsight.images.source import WithImages
from pairsight.records import Candidates, Dropped
from pairsight.registry import plugins, strategies
from pairsight.selection.strategy import Selection, Strategy, choose
from pairsight.store.blobs import BlobStore
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import Sealing, verified_files

if TYPE_CHECKING:
    import pyarrow as pa


Examples = WithImages[Any]
"""Pairs or demonstrations, as the strategy says, with their images."""


@dataclass(frozen=True, slots=True)
class CandidateSet(WithImages[Candidates]):
    """A finished build's candidates, with its run, its own strategy and what the recipe dropped.

    `built_with` is the strategy or, as a run folder says it, its name and options.
    """

    run: Path = Path()
    built_with: Strategy | Mapping[str, object] | None = None
    dropped: tuple[Dropped, ...] = ()

    @property
    def strategy(self) -> Strategy | None:
        """The build's own strategy; ConfigError where it is code that the user does not name."""
        if not isinstance(self.built_with, Mapping):
            return self.built_with
        return make_strategy(str(self.built_with["name"]), {k: v for k, v in self.built_with.items() if k != "name"})


def make_strategy(name: str, options: dict[str, object] | None = None) -> Strategy:
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


def built_with(folder: RunFolder) -> dict[str, object] | None:
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


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a build came to: pairs (or demonstrations), and what was dropped by stage and reason."""

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
        run: its folder.
        made: what the recipe made and dropped, in order; read once.
        strategy: what chooses.
        advance: told how many more of `made` are written.
        results: rows of the table that `salvage` rebuilds a ledger from, read after `made`; None: no such table.

    Raises:
        RunError: the disk is full or the folder read-only; earlier tables then stay.
        ConfigError: the strategy chooses something else than it says.
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
    """Table -> its rows of this part."""
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
