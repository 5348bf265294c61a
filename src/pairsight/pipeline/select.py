"""Candidates of a finished build -> pairs, with the build's own strategy or another; no model is asked again."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight import selection
from pairsight.build_record import BuildRecord
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.formats.tables import ROWS_PER_BATCH
from pairsight.images.source import WithImages
from pairsight.records import Candidates, Demonstration, Dropped, PreferencePair
from pairsight.registry import NamedPiece, plugins, strategies
from pairsight.selection.strategy import Selection, Strategy, choices, choose, make_strategy
from pairsight.store.blobs import BlobStore
from pairsight.store.durable import file_sha256
from pairsight.store.lock import folder_lock
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import Sealing, sealed_rows, sealed_tables, verified_files
from pairsight.version import __version__

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
    dropped: Sequence[Dropped] = ()

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
    from pairsight.formats.record_tables import read_candidates, spooled
    from pairsight.formats.tables import DROPPED_SCHEMA

    folder = RunFolder.open(run)
    items = read_candidates(verified_files(folder.data, "candidates"))
    dropped = (Dropped(**row) for row in sealed_rows(folder.data, "dropped", DROPPED_SCHEMA))
    made = spooled(Dropped, (one for one in dropped if not one.stage.startswith("select")))
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
) -> tuple[Examples, Sequence[Dropped]]:
    """Choose what to learn from, prompt by prompt; what is chosen is kept in a file, and made again when asked for.

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
    from pairsight.formats.record_tables import Spool

    examples: Spool[Any] = Spool(_kind(chosen))
    dropped = Spool(Dropped)
    for found in _choices(candidates, chosen):
        (dropped if isinstance(found, Dropped) else examples).add(found)
    return WithImages(examples.table(), candidates.images), dropped.table()


def _choices(candidates: WithImages[Candidates], strategy: Strategy) -> Iterator[Any]:
    """Each example and each thing dropped, prompt by prompt."""
    yield from candidates.dropped if isinstance(candidates, CandidateSet) else ()
    for one in candidates:
        found = choices(one, strategy)
        yield from [found] if isinstance(found, Dropped) else found


def _kind(strategy: Strategy) -> type[Any]:
    return Demonstration if strategy.makes_demonstrations else PreferencePair


def select_once(candidates: CandidateSet, strategy: Strategy) -> Examples:
    """What a strategy chooses from a run's candidates, kept in `RUN/selections/` so that it is not chosen again.

    What is kept is that of this code, these options and these candidates. A strategy of the user's own, whose code may
    be anywhere, always chooses again.

    Raises:
        RunError: the disk is full or the folder read-only.
    """
    from pairsight.formats.record_tables import RECORD_SCHEMA, RecordTable, record_batches

    if not type(strategy).__module__.startswith("pairsight."):
        return select(candidates, strategy)[0]
    run = RunFolder.open(candidates.run)
    code = [file_sha256(file) for file in sorted(Path(selection.__file__).parent.glob("*.py"))]
    sources = [shard.sha256 for shard in sealed_tables(run.data)["candidates"]]
    identity = json.dumps([__version__, code, sources, strategy.name, strategy.to_plain()], sort_keys=True)
    folder = run.selections / hashlib.sha256(identity.encode()).hexdigest()[:32]
    files = _kept(folder)
    if files is None:
        with folder_lock(run.selections):  # the processes of one training choose at the same time
            files = _kept(folder)
            if files is None:
                made = (one for one in _choices(candidates, strategy) if not isinstance(one, Dropped))
                with Sealing(folder) as sealing:
                    table = sealing.table("examples", RECORD_SCHEMA)
                    for batch in record_batches(made):
                        table.write(batch)
                files = verified_files(folder, "examples")
    return WithImages(RecordTable(_kind(strategy), files), candidates.images)


def _kept(folder: Path) -> list[Path] | None:
    """The files of an earlier choice; None where it was not made, or is damaged."""
    try:
        return verified_files(folder, "examples")
    except RunError:
        return None


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
