"""`pairsight convert`: all or nothing, nothing overwritten, and what is not kept is said first."""

import base64
import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from made_tables import seal
from pairsight.cli.main import main
from pairsight.formats.datasets.reading import read_records
from pairsight.formats.pairs import read_pairs
from pairsight.formats.trl import PAIRS_SCHEMA, pair_batches
from pairsight.pipeline.conversion_target import drafted
from pairsight.records import Completion, Message, PreferencePair, Prompt
from pairsight.store.run_folder import RunFolder


def completion(prompt: str, index: int, text: str) -> Completion:
    return Completion(f"{prompt}:{index}", prompt, text, "", "", 0, index)


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 255 - number)).save(out, "PNG")
    return out.getvalue()


def write_pairs(folder: Path, rejected: Sequence[Sequence[str]]) -> Path:
    """A finished run, a pair for each list of rejected texts: on one image, or on none where the first says so."""
    run = RunFolder.create(folder, {"recipe": "seva", "model": "m", "prompts": "p", "seed": 0})
    pairs = []
    for number, texts in enumerate(rejected):
        name, seen = f"p{number}", () if texts[0] == "no image" else (run.blobs.add_bytes(png(number % 256), ".png"),)
        prompt = Prompt(name, (Message("user", f"What is {number}?", seen),))
        others = tuple(completion(name, index, text) for index, text in enumerate(texts, start=1))
        pairs.append(PreferencePair(name, prompt, completion(name, 0, f"It is {number}."), others, "given"))
    seal(run.data, "pairs", pair_batches(pairs, run.blobs), PAIRS_SCHEMA)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs; the third has three rejected completions."""
    texts = [["A."], ["B."], ["C.", "D\n\u2028.", "É."], ["F."], ["G."]]
    return write_pairs(tmp_path_factory.mktemp("convert") / "run", texts)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def converted(*words: object) -> int:
    return main(["convert", *map(str, words)])


def left(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too, apart from the cache."""
    return sorted(path.name for path in folder.iterdir() if path.name != "cache")


def test_a_run_becomes_rows_with_the_bytes_of_its_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert converted(run, tmp_path / "out", "--to", "rlaif-v") == 0
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert [(row["idx"], row["question"], row["chosen"], row["rejected"]) for row in rows] == [
        ("p0", "What is 0?", "It is 0.", "A."),
        ("p1", "What is 1?", "It is 1.", "B."),
        ("p2", "What is 2?", "It is 2.", "C."),
        ("p2", "What is 2?", "It is 2.", "D\n\u2028."),
        ("p2", "What is 2?", "It is 2.", "É."),
        ("p3", "What is 3?", "It is 3.", "F."),
        ("p4", "What is 4?", "It is 4.", "G."),
    ]
    assert [row["image"]["bytes"] for row in rows] == [png(number) for number in (0, 1, 2, 2, 2, 3, 4)]
    assert left(tmp_path) == ["out"]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "1 of 5 pairs have several rejected completions and become one row for each (the first: pair 'p2')",
        f"{tmp_path / 'out'}: 5 pairs as 7 rows",
    ]


def test_our_own_table_loses_nothing(run: Path, tmp_path: Path):
    assert converted(run, tmp_path / "mine", "--to", "pairsight") == 0
    assert converted(tmp_path / "mine", tmp_path / "again.parquet", "--to", "pairsight") == 0
    first, second = read_pairs(run, RunFolder.open(run).blobs), read_pairs(tmp_path / "again.parquet")
    assert list(first) == list(second)
    assert [second.images.path(one.prompt.images[0]).read_bytes() for one in second] == list(map(png, range(5)))


@pytest.mark.parametrize("how", ["copy", "link"])
def test_images_beside_the_rows_are_named_by_content(run: Path, tmp_path: Path, how: str):
    assert converted(run, tmp_path / "out", "--to", "ms-swift", "--images-as", how) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    assert [row["rejected_response"] for row in rows] == ["A.", "B.", "C.", "D\n\u2028.", "É.", "F.", "G."]
    for row, number in zip(rows, (0, 1, 2, 2, 2, 3, 4), strict=True):
        (name,) = row["images"]
        file = tmp_path / "out" / name
        assert file.read_bytes() == png(number)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem
        assert (file.suffix, file.stat().st_nlink) == (".png", 2 if how == "link" else 1)
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 5
    assert r"\u2028" in (tmp_path / "out" / "pairs.jsonl").read_text()


def test_llama_factory_finds_it_by_its_list(run: Path, tmp_path: Path):
    assert converted(run, tmp_path / "out", "--to", "llama-factory") == 0
    entry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["pairs"]
    assert (entry["file_name"], entry["ranking"], entry["formatting"]) == ("pairs.jsonl", True, "sharegpt")
    assert len(read_records(tmp_path / "out")) == 7


def test_chosen_completions_become_demonstrations(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert converted(run, tmp_path / "out", "--to", "openai") == 0
    assert "5 of 5 demonstrations have rejected completions, for which" in capsys.readouterr().out
    row = json.loads((tmp_path / "out" / "demonstrations.jsonl").read_text().splitlines()[1])
    address = row["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == png(1)
    assert row["messages"][-1] == {"role": "assistant", "content": "It is 1."}


def test_two_conversions_to_one_place_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with drafted(tmp_path / "out", is_file=False):
        assert converted(run, tmp_path / "out", "--to", "rlaif-v") == 1
    assert "is working on it" in capsys.readouterr().err


def test_nothing_is_overwritten(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "one.parquet").write_text("mine")
    assert converted(run, tmp_path / "out", "--to", "rlaif-v") == 1
    assert converted(run, tmp_path / "one.parquet", "--to", "rlaif-v") == 1
    assert (tmp_path / "one.parquet").read_text() == "mine"
    assert left(tmp_path) == ["one.parquet", "out"]
    assert left(tmp_path / "out") == ["mine.txt"]
    assert capsys.readouterr().err.count("overwrites nothing") == 2


def test_one_file_where_all_is_in_it(run: Path, tmp_path: Path):
    assert converted(run, tmp_path / "one.parquet", "--to", "rlaif-v") == 0
    assert len(pq.read_table(tmp_path / "one.parquet")) == 7
    assert left(tmp_path) == ["one.parquet"]


def test_a_record_that_does_not_fit_stops_all_or_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_pairs(tmp_path / "run", [["A."], ["no image"], ["C."]])
    assert converted(source, tmp_path / "out", "--to", "rlaif-v") == 1
    assert left(tmp_path) == ["run"]
    error = capsys.readouterr().err
    assert "1 of 3 records do not fit into RLAIF-V; the first: pair 'p1': " in error
    assert "--on-error skip" in error
    assert converted(source, tmp_path / "out", "--to", "rlaif-v", "--on-error", "skip") == 0
    assert "left out, format: 1; the first: pair 'p1': " in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out" / "pairs.parquet")["idx"].to_pylist() == ["p0", "p2"]


def test_an_image_that_is_lost_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_pairs(tmp_path / "run", [["A."], ["B."]])
    lost = hashlib.sha256(png(1)).hexdigest()
    next((source / "blobs").rglob(f"{lost}*")).unlink()
    assert converted(source, tmp_path / "out", "--to", "rlaif-v") == 1
    assert lost[:12] in capsys.readouterr().err
    assert left(tmp_path) == ["run"]


_KILLED = """
import os, signal, sys
from pairsight.formats.containers import sinks
from pairsight.cli.main import main
write, seen = sinks.Parquet.write, []
def dying(self, row):
    seen.append(row)
    write(self, row)
    if len(seen) == 3:
        self._flush()
        os.kill(os.getpid(), signal.SIGKILL)
sinks.Parquet.write = dying
main(sys.argv[1:])
"""


def test_a_killed_conversion_leaves_nothing_under_its_name_and_the_next_one_finishes(run: Path, tmp_path: Path):
    words = ["convert", str(run), str(tmp_path / "out"), "--to", "rlaif-v"]
    done = subprocess.run([sys.executable, "-c", _KILLED, *words], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert all(name.startswith(".") for name in left(tmp_path)), "half of it has its name"
    assert left(tmp_path), "it was killed before it wrote"
    assert main(words) == 0
    assert left(tmp_path) == ["out"]
    assert len(pq.read_table(tmp_path / "out" / "pairs.parquet")) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "rlaif"], "did you mean 'rlaif-v'"),
        (["--to", "columns"], "is only read; --to takes"),
        (["--to", "rlaif-v", "--container", "csv"], "is written as parquet, save_to_disk, not as csv"),
        (["--to", "rlaif-v", "--format", "rlaif-v"], "leave --format out"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert converted(run, tmp_path / "out", *words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert left(tmp_path) == []
