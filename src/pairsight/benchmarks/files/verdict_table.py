"""A judge's verdicts on one model's answers as a Parquet file, word for word."""

from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.benchmarks.files.tables import kept_rows, numbers, record_batch, texts, write_batches
from pairsight.benchmarks.scoring import ScoredBenchmark

if TYPE_CHECKING:
    import pyarrow as pa


def write_verdicts(path: Path, parts: Sequence[ScoredBenchmark], keep: Collection[str] = ()) -> None:
    """Write one row per verdict, in the order in which they were given; failures have no verdict but an error.

    Rows already in the file are kept for the benchmarks in `keep` that are not in `parts`.

    Columns: benchmark, id (the sample's), run, judge, question (what the judge was asked), verdict, finish_reason,
    error.

    Raises:
        RunError: the file cannot be written.
    """
    import pyarrow as pa

    text = pa.string()
    names = ("benchmark", "id", "run", "judge", "question", "verdict", "finish_reason", "error")
    schema = pa.schema([(name, pa.int64() if name == "run" else text) for name in names])
    old = kept_rows(path, schema, set(keep) - {part.name for part in parts})
    write_batches(path, schema, chain(old, (_batch(part, schema) for part in parts if part.benchmark.verdicts())))


def _batch(part: ScoredBenchmark, schema: "pa.Schema") -> "pa.RecordBatch":
    import numpy as np

    verdicts = part.benchmark.verdicts()
    rows = [
        (sample.id, verdict) for group in part.groups for sample in group for verdict in verdicts.get(sample.id, ())
    ]
    judge = str(part.benchmark.facts().get("judge", ""))
    columns = {
        "benchmark": texts([part.name] * len(rows)),
        "id": texts([sample_id for sample_id, _ in rows]),
        "run": numbers(np.array([verdict.run for _, verdict in rows], np.int64)),
        "judge": texts([judge] * len(rows)),
        "question": texts([verdict.asked for _, verdict in rows]),
        "verdict": texts([verdict.text for _, verdict in rows]),
        "finish_reason": texts([verdict.finish_reason for _, verdict in rows]),
        "error": texts([verdict.error for _, verdict in rows]),
    }
    return record_batch([columns[name] for name in schema.names], schema)
