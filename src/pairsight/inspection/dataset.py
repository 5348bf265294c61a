"""What a run folder or a pairs file holds, read for inspection prompt by prompt, and where the images are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.build_record import BuildRecord
from pairsight.config import read_yaml
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.formats.tables import num_words
from pairsight.images.source import ImageSource
from pairsight.inspection.measures import CompletionFacts, Rated, facts_of_pair
from pairsight.inspection.roles import Roles, read_roles
from pairsight.records import Candidates, PreferencePair

if TYPE_CHECKING:
    from pairsight.formats.datasets.reading import Reading


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
    format: str = ""
    """What the format of a dataset is, and how it was known."""


def read_dataset(path: Path, reading: "Reading | None" = None) -> Dataset:
    """Read a run folder, or a dataset of any known format; records are made when they are asked for.

    Args:
        path: the run, a file, a folder, or OWNER/NAME on the hub.
        reading: how a dataset is read; only for a dataset that Pairsight did not write.

    Raises:
        RunError: a run that is not built yet, or whose sealed tables are damaged.
        DataError: no dataset there, of no known format, or rows that cannot be read.
        ConfigError: a `reading` for a run or for pairs that Pairsight wrote.
    """
    from pairsight.formats.pairs import holds_our_pairs, read_pairs

    is_run = (path / "run.yaml").is_file()
    if not is_run and not holds_our_pairs(path):
        return _read_foreign(path, reading)
    if reading is not None:
        raise ConfigError(f"{path} was written by Pairsight: leave out what says how a dataset is read")
    if is_run:
        return _read_run(path)
    pairs = read_pairs(path)
    together = ByPrompt(pairs)
    return Dataset(path.name, pairs, together, num_prompts=together.num_prompts, images=pairs.images)


def _read_foreign(path: Path, reading: "Reading | None") -> Dataset:
    """What others published: pairs, candidates with scores, or demonstrations; bad rows are counted."""
    from pairsight.formats.datasets.reading import Reading, read_records

    records = read_records(path, reading or Reading(on_error="skip"))
    pairs: Sequence[PreferencePair] = records.items if records.gives == "pairs" else ()
    rated: Iterable[Rated] = ()
    num_prompts = num_completions = len(records) if records.gives != "pairs" else 0
    if records.gives == "pairs":
        together = ByPrompt(pairs)
        rated, num_prompts = together, together.num_prompts
    elif records.gives == "candidates":
        rated = OfCandidates(records.items)
        num_completions = sum(len(one.completions) for one in records)
    return Dataset(
        path.name,
        pairs,
        rated,
        dropped=dict(Counter(f"{one.reason} ({one.stage})" for one in records.dropped).most_common()),
        num_prompts=num_prompts,
        num_completions=num_completions,
        num_demonstrations=len(records) if records.gives == "demonstrations" else 0,
        images=records.images,
        format=records.why,
    )


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
class OfCandidates:
    """Candidates from which nothing is chosen yet: completions and what annotators said of them."""

    candidates: Sequence[Candidates]

    def __iter__(self) -> Iterator[Rated]:
        for one in self.candidates:
            facts = tuple(CompletionFacts(c.id, c.prompt_id, num_words(c.text)) for c in one.completions)
            yield Rated(facts, one.annotations)


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
