"""A JSON list is read in pieces: the same rows, lines and errors, wherever the pieces end; little is held."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from pairsight.errors import DataError
from pairsight.formats import rows
from pairsight.formats.rows import Row, read_rows

VALUES = [
    {"id": 1, "text": 'a "quoted" \\ back\\slash \n line'}, {"id": -12.5e-3, "deep": [[{"a": None}], True, False, []]},
    {"id": "é漢😀", "empty": {}, "long": "x" * 50}, {}, {"id": 1234567890},
]  # fmt: skip


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_rows_do_not_depend_on_where_pieces_end(piece: int, ascii_only: bool, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rows, "_PIECE", piece)
    text = json.dumps(VALUES, ensure_ascii=ascii_only, indent=1) + "\n"
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass"))
    packed.write_bytes(gzip.compress(text.encode("utf-8", "surrogatepass")))
    for file in (plain, packed):
        found = [row for row in read_rows(file) if isinstance(row, Row)]
        assert [row.values for row in found] == VALUES
        starts = [number for number, line in enumerate(text.split("\n"), start=1) if line.startswith(" {")]
        assert [int(row.location.split(" line ")[1].split()[0]) for row in found] == starts


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"b": tru}]', "line 2: not JSON at column 8: Expecting value"),
        ('[{"a": 1},\n {"b": "x', "line 2: not JSON at column 8: Unterminated string"),
        ('[{"a": 1}\n\n {"b": 2}]', r"line 3: not JSON at column 2: Expecting ',' or '\]'"),
        ('[{"a": 1}] 5', "line 1: not JSON at column 12: Extra data"),
        ('[{"a": 1, "a": 2}]', r"line 1 \(row 1\) has 'a' twice"),
        ('[{"a": "\xff\xfe"}]', r"is not UTF-8 text \(byte 8\)"),
    ],
)
def test_errors_name_the_place_in_the_file(piece: int, text: str, message: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rows, "_PIECE", piece)
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


def test_a_line_that_is_not_utf_8_is_one_bad_row(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n{"a": 3}\n')
    first, bad, last = read_rows(tmp_path / "a.jsonl")
    assert isinstance(first, Row) and isinstance(last, Row) and last.number == 3
    assert isinstance(bad, DataError) and "line 2 is not UTF-8 text (byte 16)" in str(bad)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_large_file_is_not_held(name: str, tmp_path: Path):
    lines = [json.dumps({"id": number, "text": "x" * 1000}) for number in range(8_000)]
    ends = ("[", ",\n", "]") if name == "a.json" else ("", "\n", "")
    (tmp_path / name).write_text(ends[0] + ends[1].join(lines) + ends[2])
    tracemalloc.start()
    assert sum(isinstance(row, Row) for row in read_rows(tmp_path / name)) == 8_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20, "of 8 MB"
