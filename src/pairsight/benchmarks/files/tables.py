"""A model's answers and each parser's reading of them as Parquet files, written completely or not at all."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.official import escape_surrogates
from pairsight.benchmarks.scoring import Decisions, ScoredBenchmark, ScoreTable, as_text
from pairsight.bounded import as_object, load_json
from pairsight.errors import RunError, one_line
from pairsight.store.durable import cannot_write, make_folder, publish, temporary_path

if TYPE_CHECKING:
    import pyarrow as pa


def texts(values: Sequence[str | None]) -> "pa.StringArray":
    """A column of texts; lone surrogates are escaped."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    try:
        builder.append_values(values)
    except UnicodeEncodeError:
        builder = pa.lib.StringBuilder()
        builder.append_values([value if value is None else escape_surrogates(value) for value in values])
    return builder.finish()


def numbers(values: NDArray[Any], known: NDArray[np.bool_] | None = None) -> "pa.Array":
    """A column of float64 or int64; null where `known` is false."""
    import pyarrow as pa

    kind = pa.float64() if values.dtype == np.float64 else pa.int64()
    data = pa.py_buffer(np.ascontiguousarray(values, np.float64 if values.dtype == np.float64 else np.int64))
    return pa.Array.from_buffers(kind, len(values), [_bits(known), data])


def flags(values: NDArray[np.bool_], known: NDArray[np.bool_]) -> "pa.Array":
    """A column of booleans; null where `known` is false."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.bool_(), len(values), [_bits(known), _bits(values)])


def lists_of_numbers(values_RC: NDArray[np.float64]) -> "pa.ListArray":
    """A column of lists of equal length, one per row."""
    import pyarrow as pa

    offsets = _offsets(np.arange(len(values_RC) + 1) * values_RC.shape[1])
    return pa.ListArray.from_arrays(offsets, numbers(values_RC.ravel()))


def lists_of_texts(values: Sequence[Sequence[str]]) -> "pa.ListArray":
    """A column of lists of texts."""
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)])
    return pa.ListArray.from_arrays(_offsets(ends), texts([text for cell in values for text in cell]))


def record_batch(columns: Sequence["pa.Array"], schema: "pa.Schema") -> "pa.RecordBatch":
    """The columns as one batch."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(list(columns), schema=schema)


def _offsets(values: NDArray[np.int64]) -> "pa.Array":
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values.astype(np.int32))])


def _bits(values: NDArray[np.bool_] | None) -> "pa.Buffer | None":
    import pyarrow as pa

    return None if values is None else pa.py_buffer(np.packbits(values, bitorder="little"))


GROUPS_PER_BATCH = 8192


def write_answers(path: Path, parts: Sequence[ScoredBenchmark], keep: Collection[str] = ()) -> None:
    """Write one row per sample: question, answer, and how each parser read it; failed samples have an error.

    Rows already in the file are kept for the benchmarks in `keep` that are not in `parts`.

    Columns: benchmark, id, cluster, prompt, answer, finish_reason, error, target (JSON), and for each parser
    prediction (JSON), correct, parsed.

    Raises:
        RunError: the file cannot be written.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns: list[tuple[str, Any]] = [
        (name, text) for name in ("benchmark", "id", "cluster", "prompt", "answer", "finish_reason", "error", "target")
    ]
    for parser in ("official", "robust"):
        columns += [(f"{parser}_prediction", text), (f"{parser}_correct", number), (f"{parser}_parsed", pa.bool_())]
    schema = pa.schema(columns)
    old = kept_rows(path, schema, set(keep) - {part.name for part in parts})
    new = (_answer_batch(part, span, schema) for part in parts for span in _spans(len(part.groups)))
    write_batches(path, schema, chain(old, new))


def write_scores(path: Path, parts: Sequence[ScoredBenchmark], keep: Collection[str] = ()) -> None:
    """Write one row per scored group and parser with its sums; the names of the sums are in the metadata.

    Rows already in the file are kept for the benchmarks in `keep` that are not in `parts`.

    Columns: benchmark, parser, group (its first sample's id), cluster, num_items, num_unparsed, sums, categories.

    Raises:
        RunError: the file cannot be written.
    """
    import pyarrow as pa

    new = {part.name: list(part.benchmark.columns) for part in parts}
    old = {name: columns for name, columns in score_columns(path).items() if name in keep and name not in new}
    schema = pa.schema(
        [
            ("benchmark", pa.string()),
            ("parser", pa.string()),
            ("group", pa.string()),
            ("cluster", pa.string()),
            ("num_items", pa.int64()),
            ("num_unparsed", pa.int64()),
            ("sums", pa.list_(pa.float64())),
            ("categories", pa.list_(pa.string())),
        ],
        metadata={"pairsight.columns": json.dumps(old | new)},
    )
    batches = (
        _score_batch(part, table, span, schema)
        for part in parts
        for table in part.tables.values()
        for span in _spans(len(part.scored))
    )
    write_batches(path, schema, chain(kept_rows(path, schema, set(keep) - set(new)), batches))


def score_columns(path: Path) -> dict[str, list[str]]:
    """Benchmark -> the names of its sums, from a table of scores; empty if there is no table.

    Raises:
        RunError: the table was not written by Pairsight.
    """
    schema = _schema(path)
    metadata = (schema.metadata if schema is not None else None) or {}
    try:
        named = as_object(load_json(metadata.get(b"pairsight.columns", b"{}")))
    except (ValueError, TypeError):
        named = {"": None}
    columns = {name: [str(one) for one in names] for name, names in named.items() if isinstance(names, list)}
    if len(columns) != len(named):
        raise RunError(f"{path} was not written by Pairsight; move it away and evaluate again")
    return columns


def _schema(path: Path) -> "pa.Schema | None":
    """The schema of an existing table; None if there is no readable table."""
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (OSError, ValueError):
        return None


def kept_rows(path: Path, schema: "pa.Schema", names: Collection[str]) -> "Iterator[pa.RecordBatch]":
    """The rows of some benchmarks in an existing table; none if its columns differ."""
    import pyarrow.parquet as pq

    existing = _schema(path)
    if not names or existing is None or not existing.equals(schema):
        return
    try:
        table = pq.read_table(path, filters=[("benchmark", "in", list(names))])
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({one_line(error, 100)}); move it away and evaluate again") from None
    yield from table.replace_schema_metadata(schema.metadata).to_batches()


def _answer_batch(part: ScoredBenchmark, span: range, schema: "pa.Schema") -> "pa.RecordBatch":
    """The samples of some groups, column by column: row by row takes three times as long."""
    pairs = [
        (sample, answer)
        for group, answers in zip(
            part.groups[span.start : span.stop], part.answers[span.start : span.stop], strict=True
        )
        for sample, answer in zip(group, answers, strict=True)
    ]
    columns = {
        "benchmark": texts([part.name] * len(pairs)),
        "id": texts([sample.id for sample, _ in pairs]),
        "cluster": texts([sample.cluster for sample, _ in pairs]),
        "prompt": texts([sample.prompt.messages[-1].text for sample, _ in pairs]),
        "answer": texts([answer.text for _, answer in pairs]),
        "finish_reason": texts([answer.finish_reason for _, answer in pairs]),
        "error": texts([answer.error for _, answer in pairs]),
        "target": texts(_targets([sample.target for sample, _ in pairs])),
    }
    positions = _positions(part, span)
    for parser, table in part.tables.items():
        columns |= {
            f"{parser}_{name}": column for name, column in _decision_columns(table.decisions, positions).items()
        }
    return record_batch([columns[name] for name in schema.names], schema)


def _targets(targets: Sequence[Mapping[str, object]]) -> list[str | None]:
    """Each target as JSON; an object that several samples share is encoded once."""
    distinct = {id(target): target for target in targets}
    encoded = {
        identity: as_text({name: value for name, value in target.items() if _is_plain(value)})
        for identity, target in distinct.items()
    }
    return [encoded[id(target)] for target in targets]


def _positions(part: ScoredBenchmark, span: range) -> list[int]:
    """The position of each sample's decision in the columns, for some groups; -1 if its group was not scored."""
    first = next(iter(part.tables.values())).decisions.first
    starts = dict(zip(part.scored, first.tolist(), strict=True)) if len(part.scored) < len(part.groups) else first
    positions: list[int] = []
    for index in span:
        start = starts.get(index, -1) if isinstance(starts, dict) else int(starts[index])
        positions += [start + k if start >= 0 else -1 for k in range(len(part.groups[index]))]
    return positions


def _decision_columns(decisions: Decisions, positions: Sequence[int]) -> dict[str, object]:
    index = np.asarray(positions, np.int64)
    known = index >= 0
    correct = np.where(known, decisions.correct[index] if len(decisions.correct) else np.nan, np.nan)
    parsed = np.where(known, decisions.parsed[index] if len(decisions.parsed) else -1, -1)
    return {
        "prediction": texts([decisions.prediction[k] if k >= 0 else None for k in positions]),
        "correct": numbers(correct, ~np.isnan(correct)),
        "parsed": flags(parsed > 0, parsed >= 0),
    }


def _score_batch(part: ScoredBenchmark, table: ScoreTable, span: range, schema: "pa.Schema") -> "pa.RecordBatch":
    rows = slice(span.start, span.stop)
    columns = {
        "benchmark": texts([part.name] * len(table.sums[rows])),
        "parser": texts([table.parser] * len(table.sums[rows])),
        "group": texts([part.groups[index][0].id for index in part.scored[rows]]),
        "cluster": texts(table.clusters[rows]),
        "num_items": numbers(table.num_items[rows]),
        "num_unparsed": numbers(table.num_unparsed[rows]),
        "sums": lists_of_numbers(table.sums[rows]),
        "categories": lists_of_texts(table.categories[rows]),
    }
    return record_batch([columns[name] for name in schema.names], schema)


def _spans(length: int) -> Iterator[range]:
    for start in range(0, length, GROUPS_PER_BATCH):
        yield range(start, min(start + GROUPS_PER_BATCH, length))


def write_batches(path: Path, schema: "pa.Schema", batches: "Iterator[pa.RecordBatch]") -> None:
    """Write a table completely or not at all; RunError where that is not possible."""
    import pyarrow.parquet as pq

    temporary = temporary_path(path)
    try:
        make_folder(path.parent)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None
    publish(temporary, path)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | tuple | dict | set | frozenset)
