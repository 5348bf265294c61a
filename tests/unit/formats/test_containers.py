"""Where rows are kept: every kind of file and folder gives the same rows; nothing leads out of the folder."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from pairsight.errors import DataError
from pairsight.formats.datasets.reading import Reading, read_records

Row = dict[str, Any]


def png(colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()


ROWS: list[Row] = [
    {"id": f"m{n}", "image": "red.png", "question": "What is it?", "chosen": f"Red {n}.", "rejected": "Blue, or ü."}
    for n in range(3)
]


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def webdataset(folder: Path) -> Path:
    with tarfile.open(folder / "shard-0.tar", "w") as archive:
        for row in ROWS:
            add(archive, f"./part/{row['id']}.png", png())
            texts = {name: row[name] for name in ("question", "chosen", "rejected")}
            add(archive, f"./part/{row['id']}.json", json.dumps(texts).encode())
    return folder / "shard-0.tar"


def csv(folder: Path) -> Path:
    lines = [",".join(f'"{value}"' for value in row.values()) for row in ROWS]
    (folder / "a.csv").write_text("\ufeff" + "\r\n".join([",".join(ROWS[0]), *lines]), encoding="utf-8", newline="")
    return folder / "a.csv"


def saved(folder: Path) -> Path:
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(folder / "saved")
    return folder / "saved"


def shards(folder: Path) -> Path:
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), folder / "data" / "train-00000-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[2:]), folder / "data" / "train-00001-of-00002-0a1b2c.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def meta(folder: Path) -> Path:
    """As MMPR's: paths relative to the folder above the one of the meta file."""
    (folder / "MMPR" / "annotations").mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (folder / "MMPR" / "images" / f"set{number}").mkdir(parents=True)
        (folder / "MMPR" / "images" / f"set{number}" / "red.png").write_bytes(png())
        (folder / "MMPR" / "annotations" / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    entries = {
        f"set{n}": {"root": f"MMPR/images/set{n}/", "annotation": f"MMPR/annotations/{n}.jsonl", "repeat_time": 1}
        for n in range(3)
    }
    (folder / "MMPR" / "meta.json").write_text(json.dumps(entries))
    return folder / "MMPR" / "meta.json"


def llama_factory(folder: Path) -> Path:
    """As LLaMA-Factory's: its own names of columns, keys and speakers."""
    rows = [
        {"asked": [{"who": "person", "says": row["question"]}], "good": {"who": "bot", "says": row["chosen"]},
         "bad": {"who": "bot", "says": row["rejected"]}, "pics": ["red.png"], "id": row["id"]} for row in ROWS
    ]  # fmt: skip
    (folder / "pairs.json").write_text(json.dumps(rows))
    info = {
        "pairs": {
            "file_name": "pairs.json", "ranking": True, "formatting": "sharegpt",
            "columns": {"messages": "asked", "chosen": "good", "rejected": "bad", "images": "pics"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "person", "assistant_tag": "bot"},
        },
        "other": {"hf_hub_url": "some/where"}, "plain": {"file_name": "plain.json"},
    }  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def gzipped(folder: Path) -> Path:
    import gzip

    (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return folder / "a.jsonl.gz"


@pytest.mark.parametrize("make", [webdataset, csv, saved, shards, meta, llama_factory, gzipped])
def test_every_container_gives_the_same_pairs(make: Callable[[Path], Path], tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "red.png").write_bytes(png())
    folder = tmp_path / "here"
    folder.mkdir()
    made = make(folder)
    images = None if make in (webdataset, meta) else str(tmp_path / "pictures")
    found = read_records(made, Reading(images=images))
    assert [(one.prompt.question, one.chosen.text, one.rejected[0].text) for one in found] == [
        ("What is it?", f"Red {n}.", "Blue, or ü.") for n in range(3)
    ]
    assert [one.id.rpartition("/")[2] for one in found] == ["m0", "m1", "m2"]
    assert {found.images.open(one.prompt.images[0]).getpixel((0, 0)) for one in found} == {(255, 0, 0)}


def test_a_split_is_chosen_by_name(tmp_path: Path):
    (tmp_path / "red.png").write_bytes(png())
    for make in (saved, shards):
        folder = tmp_path / make.__name__
        folder.mkdir()
        name = f"{make(folder)}#test"
        assert len(read_records(name, Reading(images=str(tmp_path)))) == (1 if make is saved else 3)
        with pytest.raises(DataError, match=r"name a split as .*#SPLIT'; there are (test, train|train, test)"):
            read_records(name.replace("#test", "#dev"))


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("nothing.json", lambda path: path.write_text(" \n"), "is empty"),
    ("a.json", lambda path: path.write_text("[]"), "holds no rows"),
    ("a.parquet", lambda path: path.write_bytes(b"PAR1 no"), "cannot be read as Parquet"),
    ("a.arrow", lambda path: path.write_bytes(b"ARROW1 no"), "cannot be read as Arrow"),
    ("a.tar", lambda path: path.write_bytes(b"x" * 600), "cannot be read as an archive"),
    ("a.jsonl.gz", lambda path: path.write_bytes(b"\x1f\x8b\x08\x00" + b"x" * 30), "cannot be read"),
    ("a.csv", lambda path: path.write_text("\n"), "is empty"),
    ("a.csv", lambda path: path.write_text("a,a\n1,2\n"), "names a column twice"),
    ("a.csv", lambda path: path.write_text("question,chosen\n1,2,3\n"), r"line 2 \(row 1\) has 3 cells for 2 columns"),
    ("a.csv", lambda path: path.write_text('q,c\n"1,2\n'), "cannot be read as CSV"),
    ("a.csv", lambda path: path.write_bytes(b"q,c\n\xff,2\n"), "is not UTF-8"),
    (
        "a.json",
        lambda path: path.write_text('{"a": {"file_name": "../../etc/passwd"}}'),
        "is not a file in this",
    ),
    (
        "a.json",
        lambda path: path.write_text('{"a": {"root": "r", "annotation": "/etc/passwd"}}'),
        "outside",
    ),
    ("a.json", lambda path: path.write_text('{"a": {"file_name": "x"}, "b": {"file_name": "y"}}'), "holds 2 datasets"),
    (
        "state.json",
        lambda path: path.write_text('{"_data_files": [{"filename": "../x.arrow"}]}'),
        "lists no data",
    ),
]


@pytest.mark.parametrize(("name", "make", "message"), BAD, ids=[f"{name}: {message}" for name, _, message in BAD])
def test_a_bad_file_is_one_line(name: str, make: Callable[[Path], object], message: str, tmp_path: Path):
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        read_records(tmp_path if name == "state.json" else tmp_path / name)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_folder_without_rows_or_of_several_kinds_and_names_that_lead_nowhere(tmp_path: Path):
    with pytest.raises(DataError, match="holds no rows"):
        read_records(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"holds \.csv and \.jsonl files: name the one"):
        read_records(tmp_path)
    with pytest.raises(DataError, match="nobody/nothing is neither a file here nor a dataset in the local hub cache"):
        read_records("nobody/nothing")
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        read_records(tmp_path / "gone.json")


def test_a_dataset_in_the_hub_cache_is_read_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cache's own layout: a ref that names a commit, and that commit's files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "datasets--some--pairs"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (snapshot / "red.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    assert len(read_records("some/pairs")) == 3
