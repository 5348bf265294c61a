"""Sealed tables: complete or absent, the same bytes for the same rows, damage noticed."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from made_tables import seal
from pairsight.errors import RunError
from pairsight.store.sealed import ROWS_PER_SHARD, read_sealed, sealed_tables, verified_files

SCHEMA = pa.schema({"id": pa.string(), "n": pa.int64()}, metadata={"made by": "a test"})


def batches(rows: int, size: int) -> list[pa.RecordBatch]:
    parts = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    return [pa.record_batch([[f"i{n}" for n in part], list(part)], schema=SCHEMA) for part in parts]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_come_back_with_their_schema(tmp_path: Path) -> None:
    shards = seal(tmp_path, "pairs", batches(5, 2), SCHEMA, rows_per_shard=3)
    assert [(shard.file, shard.rows) for shard in shards] == [("pairs-00000.parquet", 3), ("pairs-00001.parquet", 2)]
    table = read_sealed(tmp_path, "pairs")
    assert table.column("n").to_pylist() == [0, 1, 2, 3, 4]
    assert table.schema.metadata == SCHEMA.metadata


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 1001, 2500])
def test_equal_rows_give_equal_bytes_however_they_are_cut(tmp_path: Path, rows: int) -> None:
    for name, size in (("a", 7), ("b", 5000), ("c", 1)):
        seal(tmp_path / name, "pairs", batches(rows, size), SCHEMA, rows_per_shard=1200)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert read_sealed(tmp_path / "a", "pairs").num_rows == rows


def test_sealing_again_touches_nothing_that_is_whole(tmp_path: Path) -> None:
    seal(tmp_path, "pairs", batches(5, 2), SCHEMA)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    seal(tmp_path, "pairs", batches(5, 5), SCHEMA)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_shorter_table_replaces_a_longer_one_and_leaves_the_others(tmp_path: Path) -> None:
    seal(tmp_path, "dropped", batches(1, 1), SCHEMA)
    seal(tmp_path, "pairs", batches(5, 2), SCHEMA, rows_per_shard=2)
    seal(tmp_path, "pairs", batches(3, 2), SCHEMA, rows_per_shard=2)
    assert sorted(contents(tmp_path)) == [
        "dropped-00000.parquet", "manifest.json", "pairs-00000.parquet", "pairs-00001.parquet",
    ]  # fmt: skip
    assert read_sealed(tmp_path, "pairs").num_rows == 3
    assert sorted(sealed_tables(tmp_path)) == ["dropped", "pairs"]


def test_damage_is_noticed_and_repaired_by_sealing_again(tmp_path: Path) -> None:
    (shard,) = seal(tmp_path, "pairs", batches(5, 2), SCHEMA)
    file = tmp_path / shard.file
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    with pytest.raises(RunError, match="is damaged"):
        read_sealed(tmp_path, "pairs")
    file.unlink()
    with pytest.raises(RunError, match="is missing"):
        verified_files(tmp_path, "pairs")
    seal(tmp_path, "pairs", batches(5, 2), SCHEMA)
    assert file.read_bytes() == whole


def test_a_table_that_was_never_finished_is_absent(tmp_path: Path) -> None:
    def interrupted() -> object:
        yield from batches(2000, 1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(tmp_path, "pairs", interrupted(), SCHEMA)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="names no finished table 'pairs'"):
        read_sealed(tmp_path, "pairs")
    seal(tmp_path, "pairs", batches(1, 1), SCHEMA)
    assert sorted(contents(tmp_path)) == ["manifest.json", "pairs-00000.parquet"]


def test_a_damaged_or_newer_manifest_is_one_clear_error(tmp_path: Path) -> None:
    seal(tmp_path, "pairs", batches(1, 1), SCHEMA)
    manifest = tmp_path / "manifest.json"
    newer = {**json.loads(manifest.read_text()), "schema": 2}
    for text, message in (("{", "is damaged"), ("[]", "is damaged"), (json.dumps(newer), "schema 2.*upgrade")):
        manifest.write_text(text)
        with pytest.raises(RunError, match=message):
            read_sealed(tmp_path, "pairs")


def test_datasets_reads_the_files(tmp_path: Path) -> None:
    from datasets import load_dataset

    seal(tmp_path / "data", "pairs", batches(5, 2), SCHEMA, rows_per_shard=3)
    files = [str(path) for path in verified_files(tmp_path / "data", "pairs")]
    dataset = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset["n"][:] == [0, 1, 2, 3, 4]


def test_a_file_of_more_rows_than_are_written_to_one_is_refused_and_several_files_are_not(tmp_path: Path) -> None:
    rows = batches(ROWS_PER_SHARD + 1, ROWS_PER_SHARD)
    seal(tmp_path / "two", "pairs", rows, SCHEMA)
    assert len(verified_files(tmp_path / "two", "pairs")) == 2
    seal(tmp_path / "one", "pairs", rows, SCHEMA, rows_per_shard=2 * ROWS_PER_SHARD)
    with pytest.raises(RunError, match="100001 rows, at most 100000 are written to one file"):
        verified_files(tmp_path / "one", "pairs")
