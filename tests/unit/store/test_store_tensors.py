"""Arrays in one file: what is read is what was written, whoever wrote it, and damage of any byte is noticed."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pairsight.store import tensors as module
from pairsight.store.tensors import Column, read_tensors, write_columns, write_tensors

ARRAYS = {
    "bytes": np.arange(7, dtype=np.uint8),
    "empty": np.empty((0, 3), np.int32),
    "rows": np.arange(12, dtype=np.int64).reshape(4, 3) - 2**40,
    "reals": np.array([0.5, -np.inf], np.float32),
    "weights": np.array([0.1], np.float64),
}


def test_what_was_written_is_read_and_safetensors_reads_it_too(tmp_path: Path):
    write_tensors(tmp_path / "a", ARRAYS, {"model": "m"})
    found, notes = read_tensors(tmp_path / "a")
    theirs = safetensors.numpy.load_file(tmp_path / "a")
    assert found.keys() == theirs.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array) and np.array_equal(theirs[name], array)
        assert (found[name].flags.aligned and not found[name].flags.writeable) or not array.size
    assert notes["model"] == "m"


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_columns_give_the_same_bytes_as_arrays(tmp_path: Path, monkeypatch, in_memory: int):
    """Whether they were held in memory or in a file."""
    monkeypatch.setattr(module, "_IN_MEMORY", in_memory or 1)
    columns = {}
    for name, array in ARRAYS.items():
        columns[name] = Column(tmp_path, array.dtype.str, array.shape[1] if array.ndim == 2 else 0)
        for row in array:
            columns[name].append(row if array.ndim == 2 else [row])
        assert len(columns[name]) == len(array)
    write_tensors(tmp_path / "a", ARRAYS, {"model": "m"})
    write_columns(tmp_path / "b", columns, {"model": "m"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_that_safetensors_wrote_with_a_checksum_is_read(tmp_path: Path):
    """As an earlier version did."""
    write_tensors(tmp_path / "a", ARRAYS, {})
    checksum = str(read_tensors(tmp_path / "a")[1]["sha256"])
    safetensors.numpy.save_file(ARRAYS, tmp_path / "b", metadata={"sha256": checksum})
    found, _ = read_tensors(tmp_path / "b")
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_damage_anywhere_in_the_arrays_and_any_missing_end_are_noticed(tmp_path: Path):
    path = tmp_path / "a"
    write_tensors(path, ARRAYS, {})
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for at in range(begin, len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match="checksum differs"):
            read_tensors(path)
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError):
            read_tensors(path)
    path.write_bytes(data + b"more")
    with pytest.raises(ValueError, match="cut short"):
        read_tensors(path)


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}',
        '{"dtype":"U8","shape":[4],"data_offsets":[0,5]}',
        '{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}',
        '{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,99999999999999999999]}',
        '{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}',
        '{"dtype":"U8","shape":4,"data_offsets":[0,4]}',
        '{"dtype":"U8","shape":[4],"data_offsets":[0]}',
        "7",
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, entry: str):
    header = f'{{"__metadata__":{{"sha256":"x"}},"a":{entry}}}'.encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "a")
