"""Arrow columns from lists and numpy arrays, without `pyarrow.array`: that imports pandas, half a second and 40 MB."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.official_files import written

if TYPE_CHECKING:
    import pyarrow as pa


def texts(values: Sequence[str | None]) -> "pa.StringArray":
    """A column of texts; what UTF-8 cannot hold is escaped."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    try:
        builder.append_values(values)
    except UnicodeEncodeError:
        builder = pa.lib.StringBuilder()
        builder.append_values([value if value is None else written(value) for value in values])
    return builder.finish()


def numbers(values: NDArray[Any], known: NDArray[np.bool_] | None = None) -> "pa.Array":
    """A column of float64 or int64; null where not known."""
    import pyarrow as pa

    kind = pa.float64() if values.dtype == np.float64 else pa.int64()
    data = pa.py_buffer(np.ascontiguousarray(values, np.float64 if values.dtype == np.float64 else np.int64))
    return pa.Array.from_buffers(kind, len(values), [_bits(known), data])


def flags(values: NDArray[np.bool_], known: NDArray[np.bool_]) -> "pa.Array":
    """A column of truths; null where not known."""
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
    return pa.ListArray.from_arrays(_offsets(ends), texts([text for row in values for text in row]))


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
