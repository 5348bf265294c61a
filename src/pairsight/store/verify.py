"""Checks everything a run keeps: ledgers, journals, images, tables, checkpoints and adapters. Repairs nothing.

Each problem says what to do about it. The run is only read; a damaged image is remembered in the user's own cache of
hashes, so that the next build replaces it.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from pairsight.bounded import as_object, read_json, read_tensors_header
from pairsight.errors import RunError, one_line
from pairsight.store.blobs import BlobStore
from pairsight.store.durable import damaged_file, read_marker
from pairsight.store.encoding import has_checksum, row_checksum
from pairsight.store.journal import journal_files, journal_problems
from pairsight.store.replay import foreign_records, raw_answers_missing
from pairsight.store.run_folder import RunFolder
from pairsight.store.schema import DATABASE_ERRORS, count_mistyped, has_mark, open_for_reading
from pairsight.store.sealed import MANIFEST, damage, oversized, sealed_tables
from pairsight.store.status import Phase, phases

_IMAGE = re.compile(r'"sha256":"([0-9a-f]{64})"')
_RESTORED = "the same {verb} command with --images restores it (a generated image is made again)"


@dataclass(frozen=True, slots=True)
class Verification:
    """How much was checked, what is wrong, and what is not but should be known: one line each."""

    num_results: int
    num_blobs: int
    num_files: int
    problems: tuple[str, ...]
    notices: tuple[str, ...] = ()


def verify_run(path: str | Path) -> Verification:
    """Read everything that the run keeps and compare it with its checksums; works while the run is going.

    Raises:
        RunError: there is no run, or a newer one.
    """
    run = RunFolder.open(path)
    problems: list[str] = []
    notices: list[str] = []
    num_results = 0
    for phase in phases(run):
        count, found = check_ledger(phase.ledger)
        num_results += count
        problems += found
        found, notice = check_journal(phase.ledger)
        problems += found
        notices += [notice] if notice else []
    num_blobs, found = _check_images(run)
    problems += found
    num_files, found = _check_tables(run)
    problems += [*found, *_check_evaluations(run), *_check_trainings(run.path)]
    return Verification(num_results, num_blobs, num_files, tuple(problems), tuple(notices))


def check_ledger(path: Path) -> tuple[int, list[str]]:
    """Number of results and the problems of one ledger: SQLite's own check, then every checksum."""
    try:
        db = open_for_reading(path)
    except RunError as error:
        return 0, [str(error)]
    count, problems, advice = 0, [], f"`pairsight salvage {path.parent}` rebuilds what can be rebuilt"
    try:
        for (line,) in db.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                problems.append(f"{path}: {one_line(line)}")
        for what in (*_dangling(db), *_mistyped(db)):
            problems.append(f"{path}: {what}")
        for name, payload, *row in db.execute(
            "SELECT i.name, l.payload, r.* FROM results r JOIN items i ON i.id = r.item "
            "LEFT JOIN payloads l ON l.item = r.item"
        ):
            count += row[1] == 1
            if row_checksum(*row[:7]) != row[7] or (row[1] == 1 and not has_checksum(payload, row[6])):
                problems.append(f"{path}: the result of item '{name}' is damaged")
        for name, raw, checksum in db.execute(
            "SELECT i.name, w.raw, a.checksum FROM attempts a JOIN items i ON i.id = a.item "
            "LEFT JOIN answers w ON w.attempt = a.id WHERE a.outcome IN ('answered', 'set_aside')"
        ):
            if not has_checksum(raw, checksum):
                problems.append(f"{path}: the raw answer for item '{name}' is damaged")
    except DATABASE_ERRORS as error:
        problems.append(f"{path}: {one_line(error)}")
    finally:
        db.close()
    return count, [f"{problem}; {advice}" for problem in problems]


def check_journal(ledger: Path) -> tuple[list[str], str]:
    """The problems of the journal beside a ledger, and what to know where an older version wrote none (else "")."""
    folder = ledger.parent / "journal"
    _, problems = journal_problems(folder)
    with suppress(OSError):  # reported already
        problems += foreign_records(journal_files(folder))
    missing: list[str] = []
    holds = marked = False
    # the ledger's own problems are reported by `check_ledger`
    with suppress(RunError, *DATABASE_ERRORS, OSError), closing(open_for_reading(ledger)) as db:
        holds = bool(db.execute("SELECT 1 FROM results UNION ALL SELECT 1 FROM attempts LIMIT 1").fetchone())
        marked = has_mark(db)
        missing = raw_answers_missing(db, folder) if journal_files(folder) else []
    problems += [f"{folder}: the raw answer for item '{name}' is missing" for name in missing]
    notice = ""
    if holds and not journal_files(folder):
        without = "from which a lost ledger would be rebuilt"
        if marked:
            problems.append(f"{folder} is missing, {without}")
        else:
            notice = (
                f"{ledger.parent} has no journal, {without}: its version of Pairsight wrote none; "
                f"`pairsight salvage {ledger.parent}` writes one"
            )
    advice = f"`pairsight salvage {ledger.parent}` writes the journal again"
    return [f"{problem}; {advice}" for problem in problems], notice


def _dangling(db: sqlite3.Connection) -> Iterator[str]:
    for table in ("plan_items", "results", "payloads", "attempts"):
        query = f"SELECT count(*) FROM {table} WHERE item NOT IN (SELECT id FROM items)"  # noqa: S608 - our own names
        (count,) = db.execute(query).fetchone()
        if count:
            yield f"{count} rows of {table} belong to no item"


def _mistyped(db: sqlite3.Connection) -> Iterator[str]:
    for table in ("items", "plan_items", "results", "payloads", "attempts", "answers"):
        if count := count_mistyped(db, table):
            yield f"{count} of the rows of {table} hold values of another type"


def _check_images(run: RunFolder) -> tuple[int, list[str]]:
    """Every blob against its name, and every image that the ledger or a table names against the blobs."""
    count, problems, present = 0, [], set[str]()
    for folder in [run.path, *sorted(run.path.glob("evaluate/*/"))]:
        blobs = BlobStore(folder)
        verb = "build" if folder == run.path and run.config.get("kind") != "evaluate" else "evaluate"
        for file in blobs.files():
            count += 1
            present.add(file.stem)
            if not blobs.is_intact(file):
                problems.append(f"{file}: its bytes do not have the hash in its name; {_RESTORED.format(verb=verb)}")
        blobs.flush()
    if run.config.get("kind") != "evaluate":  # evaluations read their images from the user's folders
        for sha256 in sorted(_named_images(run) - present):
            problems.append(f"{run.blobs.folder}: image {sha256} is missing; {_RESTORED.format(verb='build')}")
    return count, problems


def _named_images(run: RunFolder) -> set[str]:
    """The hashes of all images that intact results and tables refer to."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: set[str] = set()
    with suppress(RunError, *DATABASE_ERRORS), closing(open_for_reading(run.path / "ledger.sqlite")) as db:
        for (payload,) in db.execute("SELECT payload FROM payloads WHERE payload LIKE '%\"sha256\":%'"):
            found.update(_IMAGE.findall(payload))
    with suppress(RunError):
        for shard in (shard for shards in sealed_tables(run.data).values() for shard in shards):
            if damage(run.data, shard):
                continue
            with suppress(OSError, ValueError, pa.ArrowException), pq.ParquetFile(run.data / shard.file) as file:
                records = file.schema_arrow.field("record") if "record" in file.schema_arrow.names else None
                if records is not None and pa.types.is_string(records.type):
                    for batch in file.iter_batches(1024, columns=["record"]):
                        for record in batch.column(0).to_pylist():
                            found.update(_IMAGE.findall(record or ""))
    return found


def _check_tables(run: RunFolder) -> tuple[int, list[str]]:
    """The sealed tables of the run, of its evaluations, and of what was chosen for its trainings."""
    count, problems = 0, []
    for phase in phases(run):
        num_files, found = _check_sealed(phase)
        count += num_files
        problems += found
    for folder in sorted(run.selections.glob("*/")):
        try:
            shards = [shard for table in sealed_tables(folder).values() for shard in table]
        except RunError as error:
            problems.append(str(error))
            continue
        count += len(shards)
        damaged = [problem for shard in shards if (problem := damage(folder, shard))]
        problems += [f"{problem}; remove {folder}, the next training chooses again" for problem in damaged]
    return count, problems


def _check_sealed(phase: Phase) -> tuple[int, list[str]]:
    """Every sealed file against the manifest: its hash, its rows, and whether the manifest lists it."""
    import pyarrow.parquet as pq

    data, verb = phase.ledger.parent / "data", "build" if phase.name == "build" else "evaluate"
    try:
        tables = sealed_tables(data)
    except RunError as error:
        return 0, [str(error)]
    shards, problems = [shard for table in tables.values() for shard in table], []
    for shard in shards:
        problem = damage(data, shard)
        if not problem:
            rows = pq.read_metadata(data / shard.file).num_rows
            if rows != shard.rows:
                problem = f"{data / shard.file} has {rows} rows, {MANIFEST} says {shard.rows}"
        problems += [problem] if problem else []
    if phase.holder() is None:  # a process at work names its files before it lists them
        listed = {shard.file for shard in shards}
        unlisted = [file for file in sorted(data.glob("*.parquet")) if file.name not in listed]
        problems += [f"{file} is not listed in {MANIFEST}" for file in unlisted]
    return len(shards), [f"{problem}; the same {verb} command writes it again" for problem in problems]


def _check_evaluations(run: RunFolder) -> list[str]:
    """The tables and results of evaluations, which have no manifest, and the run's own results can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems = []
    for folder in [run.path, *sorted(run.path.glob("evaluate/*/"))]:
        evaluated = folder != run.path or run.config.get("kind") == "evaluate"
        for file in [*(sorted(folder.glob("*.parquet")) if evaluated else ()), *folder.glob("results.json")]:
            try:
                if file.suffix == ".json":
                    as_object(read_json(file))
                elif why := oversized(file):
                    raise ValueError(why)
                else:
                    pq.read_table(file)
            except (OSError, ValueError, TypeError, pa.ArrowException) as error:
                why = one_line(error, 200)
                problems.append(f"{file} cannot be read ({why}); remove it, the same evaluate command writes it again")
    return problems


def _check_trainings(run: Path) -> list[str]:
    """Checkpoints and adapters against the markers beside them, and the structure of all weights."""
    problems = []
    for marker in sorted((*run.glob("align/**/complete.json"), *run.glob("align/**/pairsight.json"))):
        is_checkpoint = marker.name == "complete.json"
        try:
            content = read_marker(marker, checksum=is_checkpoint)
            damaged = damaged_file(marker.parent, content.get("files") or {})
        except RunError as error:
            damaged = "" if "earlier version" in str(error) else str(error)
        except (OSError, KeyError, TypeError, AttributeError) as error:
            damaged = f"{marker.name} is damaged ({error})"
        advice = f"remove {marker.parent} and run align again"
        if is_checkpoint:
            advice = "a resumed training skips it"
        elif ".safetensors" in damaged:
            advice = "the same align command makes it again, from its newest complete checkpoint"
        problems += [f"{marker.parent}: {damaged}; {advice}"] if damaged else []
    weights = sorted(file for file in run.glob("align/**/*.safetensors") if not file.name.startswith("."))
    problems += [
        f"{file} is cut short or damaged; the same align command makes it again"
        for file in weights
        if not _is_complete(file) and not any(str(file.parent) in problem for problem in problems)
    ]
    return problems + _check_tensors(run)


def _check_tensors(run: Path) -> list[str]:
    """Reference log-probabilities, and examples in tokens, against the checksum that each file has of its own."""
    from pairsight.store.tensors import read_tensors

    problems = []
    for file in sorted(run.glob("references/[!.]*.safetensors")) + sorted(run.glob("tokens/[!.]*.safetensors")):
        try:
            _, metadata = read_tensors(file)
            model = hashlib.sha256(str(metadata.get("model")).encode("utf-8", "replace")).hexdigest()[:32]
            if file.parent.name == "references" and not file.name.startswith(model):
                raise ValueError("its name is of another model than it says")
        except (OSError, ValueError) as error:
            why = f"is cut short or damaged ({one_line(error)})"
            problems.append(f"{file} {why}; remove it, the next training computes it again")
    return problems


def _is_complete(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        return file.stat().st_size == read_tensors_header(file)[1]
    except (OSError, ValueError):
        return False
