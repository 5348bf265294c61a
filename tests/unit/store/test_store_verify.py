"""`status --verify` finds each kind of damage in a run, says what helps, and exits non-zero."""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pairsight.cli.main import main
from pairsight.records import ItemError
from pairsight.store.durable import write_marker
from pairsight.store.ledger import Entry, Ledger, Outcome
from pairsight.store.verify import verify_run
from run_folders import write_run


def safetensors(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")


def references() -> bytes:
    """A file of reference log-probabilities: its own checksum is of each tensor's name and bytes, by name."""
    tensors = {"keys_M": b"k" * 32, "lengths_M": (2).to_bytes(8, "little"), "logps_Z": bytes(8)}
    digest = hashlib.sha256(b"".join(name.encode() + tensors[name] for name in sorted(tensors))).hexdigest()
    header = {
        "__metadata__": {"schema": "1", "model": "tiny model", "sha256": digest},
        "keys_M": {"dtype": "U8", "shape": [1, 32], "data_offsets": [0, 32]},
        "lengths_M": {"dtype": "I64", "shape": [1], "data_offsets": [32, 40]},
        "logps_Z": {"dtype": "F32", "shape": [2], "data_offsets": [40, 48]},
    }
    start = json.dumps(header).encode()
    return len(start).to_bytes(8, "little") + start + b"".join(tensors.values())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = write_run(tmp_path / "run", "seva", num_pairs=4)
    checkpoint = run / "align" / "dpo" / "checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (run / "references").mkdir()
    for folder in (checkpoint, checkpoint.parents[1]):
        safetensors(folder / "weights.safetensors")
    (run / "references" / f"{hashlib.sha256(b'tiny model').hexdigest()[:32]}.safetensors").write_bytes(references())
    (run / "results.json").write_text('{"schema": 2, "systems": {}}')
    write_marker(checkpoint / "complete.json", {"step": 3}, ["weights.safetensors"], checksum=True)
    write_marker(run / "align" / "dpo" / "pairsight.json", {"kind": "adapter"}, ["weights.safetensors"])
    evaluation = run / "evaluate" / "pope"
    evaluation.mkdir(parents=True)
    (evaluation / "answers-base.parquet").write_bytes((run / "data" / "pairs-00000.parquet").read_bytes())
    (evaluation / "results.json").write_text("{}")
    return run


def change(pattern: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file = sorted(run.glob(pattern))[0]
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    return damage


def cut(pattern: str) -> Callable[[Path], None]:
    return lambda run: os.truncate(sorted(run.glob(pattern))[0], sorted(run.glob(pattern))[0].stat().st_size // 2)


def remove(pattern: str) -> Callable[[Path], None]:
    return lambda run: [file.unlink() for file in run.glob(pattern)] and None


def last_byte(pattern: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (file,) = run.glob(pattern)
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return damage


def renamed(pattern: str) -> Callable[[Path], None]:
    return lambda run: [file.rename(file.with_name(f"{'0' * 32}.safetensors")) for file in run.glob(pattern)] and None


def fewer_rows(run: Path) -> None:
    file = run / "data" / "manifest.json"
    content = json.loads(file.read_text())
    content["tables"]["pairs"][0]["rows"] -= 1
    file.write_text(json.dumps(content))


def unlisted(run: Path) -> None:
    file = run / "data" / "manifest.json"
    content = json.loads(file.read_text())
    del content["tables"]["pairs"]
    file.write_text(json.dumps(content))


CHECKPOINT = "align/dpo/checkpoints/checkpoint-3"
DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "all images deleted": (remove("blobs/sha256/*/*/*"), "is missing", "--images restores it"),
    "one image changed": (change("blobs/sha256/*/*/*"), "do not have the hash", "--images restores it"),
    "an image emptied": (cut("blobs/sha256/*/*/*"), "do not have the hash", "--images restores it"),
    "the ledger deleted": (remove("ledger.sqlite"), "ledger.sqlite is missing", "pairsight salvage"),
    "a table deleted": (remove("data/pairs-00000.parquet"), "is missing", "same build command writes it again"),
    "a table changed": (change("data/pairs-00000.parquet"), "is damaged", "same build command writes it again"),
    "the manifest deleted": (remove("data/manifest.json"), "is not listed in manifest.json", "writes it again"),
    "the manifest cut": (cut("data/manifest.json"), "manifest.json is damaged", "remove it and run the same command"),
    "the manifest's rows": (fewer_rows, "rows, manifest.json says", "writes it again"),
    "a table not listed": (unlisted, "pairs-00000.parquet is not listed", "writes it again"),
    "an evaluation's table cut": (cut("evaluate/*/answers-*"), "cannot be read", "same evaluate command"),
    "an evaluation's results cut": (cut("evaluate/*/results.json"), "cannot be read", "same evaluate command"),
    "a checkpoint changed": (change(f"{CHECKPOINT}/*.safetensors"), "weights.safetensors was changed", "skips it"),
    "a checkpoint's file deleted": (remove(f"{CHECKPOINT}/*.safetensors"), "is missing", "skips it"),
    "a checkpoint's marker changed": (change(f"{CHECKPOINT}/complete.json"), "complete.json", "skips it"),
    "an adapter changed": (
        change("align/dpo/*.safetensors"),
        "weights.safetensors was changed",
        "same align command makes it again",
    ),
    "an adapter cut": (cut("align/dpo/*.safetensors"), "bytes instead of", "same align command makes it again"),
    "references cut": (cut("references/*.safetensors"), "cut short", "the next training computes it again"),
    "references changed": (last_byte("references/*.safetensors"), "checksum differs", "computes it again"),
    "references renamed": (renamed("references/*.safetensors"), "of another model", "computes it again"),
    "the results cut": (cut("results.json"), "run/results.json cannot be read", "same evaluate command"),
}


def test_an_intact_run_has_no_problems(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_run(run).problems == ()
    assert main(["status", str(run), "--verify"]) == 0
    assert "checked 0 results, 9 images, 4 tables" in capsys.readouterr().out


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_is_found_with_what_helps(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, what, helps = DAMAGES[name]
    damage(run)
    problems = verify_run(run).problems
    assert problems
    assert all(what in problem and helps in problem for problem in problems), problems
    if name not in ("all images deleted", "the manifest deleted"):
        assert len(problems) == 1
    assert main(["status", str(run), "--verify"]) != 0
    captured = capsys.readouterr()
    assert f"damaged: {problems[0]}" in captured.out
    assert "found, each with what to do about it" in captured.err


def test_runs_of_earlier_versions_have_no_listed_files_and_no_problems(run: Path) -> None:
    (run / "align" / "dpo" / "pairsight.json").write_text(json.dumps({"kind": "adapter"}))
    (run / CHECKPOINT / "complete.json").write_text(json.dumps({"step": 3}))
    assert verify_run(run).problems == ()
    cut("align/dpo/*.safetensors")(run)
    (problem,) = verify_run(run).problems
    assert "cut short or damaged" in problem


def test_that_an_older_version_wrote_no_journal_is_a_note_and_that_one_was_deleted_is_damage(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(run / "ledger.sqlite") as ledger:
        (planned,) = ledger.plan(ledger.open_plan("generate", 0, 1), 0, [Entry(bytes(32), "a")])
        ledger.commit([Outcome(planned.item, ItemError("refused", "no", retryable=True))])
    assert main(["status", str(run), "--verify"]) == 0
    shutil.rmtree(run / "journal")
    assert main(["status", str(run), "--verify"]) == 1
    assert "journal is missing" in capsys.readouterr().out
    older = sqlite3.connect(run / "ledger.sqlite")  # as versions before journals left it
    older.execute("PRAGMA application_id = 0")
    older.close()
    assert main(["status", str(run), "--verify"]) == 0
    said = capsys.readouterr().out
    assert f"note: {run} has no journal" in said
    assert f"`pairsight salvage {run}` writes one" in said
    assert main(["salvage", str(run)]) == 0
    assert list((run / "journal").glob("*.journal"))
    assert main(["status", str(run), "--verify"]) == 0
    assert "note:" not in capsys.readouterr().out
    Ledger(run / "ledger.sqlite").close()  # any command that writes
    shutil.rmtree(run / "journal")
    assert main(["status", str(run), "--verify"]) == 1
