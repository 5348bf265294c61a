"""A build's results as sealed tables, chosen and written a few hundred prompts at a time, however many there are."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pairsight.formats.schema import ROWS_PER_BATCH
from pairsight.records import Candidates, Dropped
from pairsight.selection.select import Selection, select
from pairsight.selection.strategy import Strategy
from pairsight.store.blobs import BlobStore
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import Sealing

if TYPE_CHECKING:
    import pyarrow as pa


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
) -> Sealed:
    """Write candidates, completions, annotations, pairs (or demonstrations) and drops; all are published at the end.

    Args:
        run: its folder.
        made: what the recipe made and dropped, in order; read once.
        strategy: what chooses.
        advance: told how many more of `made` are written.

    Raises:
        RunError: the disk is full or the folder read-only; earlier tables then stay.
        ConfigError: the strategy chooses something else than it says.
    """
    from pairsight.formats import tables, trl

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
            selection = select(part, strategy)
            for name, batches in _rows(part, selection, demonstrates, run.blobs).items():
                for batch in batches:
                    writers[name].write(batch)
            num_examples += len(selection.pairs) + len(selection.demonstrations)
            dropped.update((one.stage, one.reason) for one in selection.dropped)
            advance(len(part))
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
