"""Disks that are full, fail, take less than they are given, or may not be written: one clear error, nothing lost."""

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest

from made_tables import seal
from pairsight.errors import RunError
from pairsight.records import ImageRef
from pairsight.store import durable
from pairsight.store.blobs import BlobStore
from pairsight.store.ledger import Entry, Ledger, Outcome, Results
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import read_sealed

SCHEMA = pa.schema({"id": pa.string()})


def failing(code: int, at: int, function: Callable[..., object]) -> Callable[..., object]:
    """The function, but its `at`-th call (from 0) fails with an OSError of that code."""
    calls = iter(range(10**9))

    def call(*arguments: object, **named: object) -> object:
        if next(calls) == at:
            raise OSError(code, os.strerror(code))
        return function(*arguments, **named)

    return call


@pytest.mark.parametrize("step", ["write_all", "sync", "replace", "sync_folder"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_blob_that_cannot_be_written_is_absent_and_can_be_added_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    store = BlobStore(tmp_path)
    store.add_bytes(b"first", ".png")
    with monkeypatch.context() as patch:
        patch.setattr(durable, step, failing(code, 0, getattr(durable, step)))
        with pytest.raises(RunError, match=rf"cannot write .*{os.strerror(code)}; fix that and run the same command"):
            store.add_bytes(b"second", ".png")
    ref = store.add_bytes(b"second", ".png")
    assert store.path(ref).read_bytes() == b"second"
    assert len(list(store.files())) == 2
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_device_that_takes_one_byte_at_a_time_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: write(descriptor, bytes(data[:1])))
    durable.write_file(tmp_path / "file", b"all of it")
    assert (tmp_path / "file").read_bytes() == b"all of it"


def test_a_device_that_takes_nothing_is_an_error_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: 0)
    with pytest.raises(RunError, match="took no bytes"):
        durable.write_file(tmp_path / "file", b"all of it")


@pytest.mark.parametrize("at", range(6))
def test_a_table_whose_sealing_fails_is_complete_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def batches(count: int) -> list[pa.RecordBatch]:
        return [pa.record_batch([[f"i{n}" for n in range(count)]], schema=SCHEMA)]

    seal(tmp_path, "pairs", batches(3), SCHEMA)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync", failing(errno.ENOSPC, at, durable.sync))
        fails = at < 5  # synced: the manifest without the table, three shards, the manifest with it
        with pytest.raises(RunError, match="No space left") if fails else nullcontext():
            seal(tmp_path, "pairs", batches(5), SCHEMA, rows_per_shard=2)
    if at in (0, 5):
        assert read_sealed(tmp_path, "pairs").num_rows == (3 if fails else 5)
    else:
        with pytest.raises(RunError, match="names no finished table"):
            read_sealed(tmp_path, "pairs")
    seal(tmp_path, "pairs", batches(5), SCHEMA, rows_per_shard=2)
    assert read_sealed(tmp_path, "pairs").num_rows == 5


def entries(names: str) -> list[Entry]:
    return [Entry(name.encode(), name) for name in names]


def test_a_full_disk_under_the_ledger_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        plan = ledger.open_plan("stage", 0, None)
        a, b, _ = ledger.plan(plan, 0, entries("abc"))
        ledger.commit([Outcome(a.item, ImageRef("a"))])
        with ledger.transaction() as db:
            (pages,) = db.execute("PRAGMA page_count").fetchone()
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")  # as if the disk were full
        with pytest.raises(
            RunError, match="full; what was committed is kept: fix the cause and run the same command again"
        ):
            ledger.commit([Outcome(b.item, ImageRef("b" * 100_000))])
        ledger._connection.execute("PRAGMA max_page_count = 1000000")
        ledger.commit([Outcome(b.item, ImageRef("b"))])
        assert [row.status for row in ledger.page(plan, 0, 3)] == ["done", "done", "pending"]


def test_a_torn_tail_of_the_write_ahead_log_costs_the_last_commit_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    plan = ledger.open_plan("stage", 0, None)
    planned = ledger.plan(plan, 0, entries("abcd"))
    ledger.finish_plan(plan, 4)
    sizes = []
    wal = tmp_path / "ledger.sqlite-wal"
    for item in planned:
        ledger.commit([Outcome(item.item, ImageRef(item.status))])
        sizes.append(wal.stat().st_size)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "ledger.sqlite").write_bytes((tmp_path / "ledger.sqlite").read_bytes())
    (copy / "ledger.sqlite-wal").write_bytes(wal.read_bytes()[: sizes[-1] - 100])
    ledger.close()
    with Ledger(copy / "ledger.sqlite") as torn:
        assert [row.status for row in torn.page(plan, 0, 4)] == ["done", "done", "done", "pending"]
        torn.commit([Outcome(planned[3].item, ImageRef("d"))])
        assert len(list(Results(torn, plan, ImageRef))) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match=r"cannot write .*Permission denied"):
            RunFolder.create(tmp_path / "run", {})
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS, 0, Path.mkdir))
    with pytest.raises(RunError, match=r"cannot write .*Read-only file system"):
        RunFolder.create(tmp_path / "run", {})
