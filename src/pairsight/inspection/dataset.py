"""What a run folder or a pairs file holds, read for inspection prompt by prompt, and where the images are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pairsight.config import read_yaml
from pairsight.errors import DataError, RunError
from pairsight.formats.tables import num_words
from pairsight.images.source import ImageSource
from pairsight.inspection.measures import CompletionFacts, Rated, facts_of_pair
from pairsight.inspection.roles import Roles, read_roles
from pairsight.options import BuildRecord
from pairsight.records import Candidates, PreferencePair


@dataclass(frozen=True, slots=True)
class Dataset:
    """The data part of a run, or preference pairs alone; what is not there is empty or zero.

    `rated` is what it holds, prompt by prompt, read again each time that it is gone through; `dropped` counts reasons.
    """

    name: str
    pairs: Sequence[PreferencePair] = ()
    rated: Iterable[Rated] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_prompts: int = 0
    num_completions: int = 0
    num_demonstrations: int = 0
    images: ImageSource | None = None
    roles: Roles = field(default_factory=lambda: Roles({}))


def read_dataset(path: Path) -> Dataset:
    """Read a run folder, or a Parquet file (or folder) of pairs; records are read when they are asked for.

    Raises:
        RunError: a run that is not built yet, or whose sealed tables are damaged.
        DataError: no pairs there, or rows that cannot be read.
    """
    if (path / "run.yaml").is_file():
        return _read_run(path)
    from pairsight.formats.pairs import read_pairs

    pairs = read_pairs(path)
    together = ByPrompt(pairs)
    return Dataset(path.name, pairs, together, num_prompts=together.num_prompts, images=pairs.images)


def _read_run(run: Path) -> Dataset:
    from pairsight.formats.tables import DROPPED_SCHEMA
    from pairsight.store.blobs import BlobStore
    from pairsight.store.run_folder import check_links
    from pairsight.store.sealed import sealed_rows, table_rows

    check_links(run)
    record = BuildRecord.from_plain(read_yaml(run / "run.yaml"))
    data = run / "data"
    tables = table_rows(data)
    if "pairs" not in tables and "demonstrations" not in tables:
        raise RunError(f"{run} is not built yet: it has no finished table of pairs; run the same build command again")
    pairs = _pairs(run) if tables.get("pairs") else ()
    dropped = sealed_rows(data, "dropped", DROPPED_SCHEMA) if tables.get("dropped") else ()
    return Dataset(
        name=run.name,
        pairs=pairs,
        rated=OfRun(run, pairs, _candidates(data)) if tables.get("annotations") else Unrated(pairs),
        dropped=dict(Counter(f"{row['reason']} ({row['stage']})" for row in dropped).most_common()),
        num_prompts=tables.get("candidates", 0) if record.num_prompts is None else record.num_prompts,
        num_completions=tables.get("completions", 0),
        num_demonstrations=tables.get("demonstrations", 0),
        images=BlobStore(run),
        roles=read_roles(run, record),
    )


def _pairs(run: Path) -> Sequence[PreferencePair]:
    from pairsight.formats.pairs import read_pairs
    from pairsight.store.blobs import BlobStore
    from pairsight.store.sealed import verified_files

    verified_files(run / "data", "pairs")
    return read_pairs(run, BlobStore(run))


def _candidates(data: Path) -> Sequence[Candidates]:
    from pairsight.formats.record_tables import read_candidates
    from pairsight.store.sealed import verified_files

    return read_candidates(verified_files(data, "candidates"))


@dataclass(frozen=True, slots=True)
class Unrated:
    """Pairs of which no annotator said anything: each is by itself."""

    pairs: Sequence[PreferencePair]

    def __iter__(self) -> Iterator[Rated]:
        return (Rated(pairs=(pair,)) for pair in self.pairs)


@dataclass(frozen=True, slots=True)
class OfRun:
    """The candidates of a run with the pairs that were chosen from them, in the same order."""

    run: Path
    pairs: Sequence[PreferencePair]
    candidates: Sequence[Candidates]

    def __iter__(self) -> Iterator[Rated]:
        waiting = iter(self.pairs)
        pair = next(waiting, None)
        for one in self.candidates:
            facts = tuple(CompletionFacts(c.id, c.prompt_id, num_words(c.text)) for c in one.completions)
            own, ids = list[PreferencePair](), {fact.id for fact in facts}
            while pair is not None and (pair.prompt.id == one.prompt.id or pair.chosen.id in ids):
                own.append(pair)
                pair = next(waiting, None)
            yield Rated(facts, one.annotations, tuple(own))
        if pair is not None:
            raise DataError(
                f"{self.run / 'data'}: the pair '{pair.id}' follows from no candidates, or not in their order; run the "
                "same build command again, which writes both tables"
            )


class ByPrompt:
    """Pairs alone, those of one prompt together: each holds its completions and what annotators said of them.

    Eight bytes a pair are held; a prompt whose pairs lie apart is held until its last pair.
    """

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        import numpy as np

        self._pairs = pairs
        hashes = np.fromiter((hash(pair.prompt.id) for pair in pairs), np.int64, len(pairs))
        prompts, counts = np.unique(hashes, return_counts=True)
        self.num_prompts = len(prompts)
        self._several = dict(zip(prompts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))

    def __iter__(self) -> Iterator[Rated]:
        held: dict[int, list[PreferencePair]] = {}
        for pair in self._pairs:
            key = hash(pair.prompt.id)
            together = held.setdefault(key, [])
            together.append(pair)
            if len(together) == self._several.get(key, 1):
                yield _rated(held.pop(key))


def _rated(pairs: Sequence[PreferencePair]) -> Rated:
    """All that the pairs of one prompt hold."""
    facts = {fact.id: fact for pair in pairs for fact in facts_of_pair(pair)}
    return Rated(tuple(facts.values()), tuple(one for pair in pairs for one in pair.annotations), tuple(pairs))
