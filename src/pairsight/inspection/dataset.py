"""What a run folder or a pairs file holds, read for inspection: records, counts, and where the images are."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pairsight.config import read_yaml
from pairsight.errors import RunError
from pairsight.images.source import ImageSource
from pairsight.inspection.measures import CompletionFacts, facts_of_pairs
from pairsight.inspection.roles import Roles, read_roles
from pairsight.options import BuildRecord
from pairsight.records import Annotation, Dropped, PreferencePair


@dataclass(frozen=True, slots=True)
class Dataset:
    """The data part of a run, or preference pairs alone; what is not there is empty or zero.

    `completions` are known where they were annotated.
    """

    name: str
    pairs: tuple[PreferencePair, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    completions: tuple[CompletionFacts, ...] = ()
    num_prompts: int = 0
    num_completions: int = 0
    num_demonstrations: int = 0
    images: ImageSource | None = None
    roles: Roles = field(default_factory=lambda: Roles({}))


def read_dataset(path: Path) -> Dataset:
    """Read a run folder, or a Parquet file (or folder) of preference pairs.

    Raises:
        RunError: a run that is not built yet, or whose sealed tables are damaged.
        DataError: no pairs there, or rows that cannot be read.
    """
    if (path / "run.yaml").is_file():
        return _read_run(path)
    from pairsight.formats.pairs import read_pairs

    pairs = read_pairs(path)
    return Dataset(
        name=path.name,
        pairs=tuple(pairs),
        annotations=tuple(annotation for pair in pairs for annotation in pair.annotations),
        completions=facts_of_pairs(tuple(pairs)),
        num_prompts=len({pair.prompt.id for pair in pairs}),
        images=pairs.images,
    )


def _read_run(run: Path) -> Dataset:
    from pairsight.store.blobs import BlobStore
    from pairsight.store.run_folder import check_links
    from pairsight.store.sealed import table_rows

    check_links(run)
    record = BuildRecord.from_plain(read_yaml(run / "run.yaml"))
    data = run / "data"
    tables = table_rows(data)
    if "pairs" not in tables and "demonstrations" not in tables:
        raise RunError(f"{run} is not built yet: it has no finished table of pairs; run the same build command again")
    return Dataset(
        name=run.name,
        pairs=_pairs(run) if tables.get("pairs") else (),
        annotations=_annotations(data) if tables.get("annotations") else (),
        dropped=_dropped(data) if tables.get("dropped") else (),
        completions=_completions(data) if tables.get("annotations") else (),
        num_prompts=tables.get("candidates", 0) if record.num_prompts is None else record.num_prompts,
        num_completions=tables.get("completions", 0),
        num_demonstrations=tables.get("demonstrations", 0),
        images=BlobStore(run),
        roles=read_roles(run, record),
    )


def _pairs(run: Path) -> tuple[PreferencePair, ...]:
    from pairsight.formats.pairs import read_pairs
    from pairsight.store.blobs import BlobStore
    from pairsight.store.sealed import verified_files

    verified_files(run / "data", "pairs")
    return tuple(read_pairs(run, BlobStore(run)))


def _annotations(data: Path) -> tuple[Annotation, ...]:
    """All annotations without their critiques, which pairs carry where they are shown."""
    import pyarrow as pa

    from pairsight.formats.tables import ANNOTATIONS_SCHEMA
    from pairsight.records import from_json
    from pairsight.store.sealed import sealed_rows

    columns = pa.schema([ANNOTATIONS_SCHEMA.field("record")])
    rows = enumerate(sealed_rows(data, "annotations", columns), start=1)
    found = (from_json(Annotation, row["record"], f"{data}: annotation {number}") for number, row in rows)
    return tuple(replace(annotation, critique="") for annotation in found)


def _completions(data: Path) -> tuple[CompletionFacts, ...]:
    import pyarrow as pa

    from pairsight.formats.tables import COMPLETIONS_SCHEMA
    from pairsight.store.sealed import sealed_rows

    columns = pa.schema([COMPLETIONS_SCHEMA.field(name) for name in ("id", "prompt_id", "words")])
    return tuple(CompletionFacts(**row) for row in sealed_rows(data, "completions", columns))


def _dropped(data: Path) -> tuple[Dropped, ...]:
    from pairsight.formats.tables import DROPPED_SCHEMA
    from pairsight.store.sealed import sealed_rows

    return tuple(Dropped(**row) for row in sealed_rows(data, "dropped", DROPPED_SCHEMA))
