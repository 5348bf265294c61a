"""A mark vouches for files: what is missing, cut short, changed or not written by us is recognised."""

import json
from pathlib import Path

import pytest

from pairsight.errors import RunError
from pairsight.store.durable import damaged_file, read_marker, write_marker


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "inner" / "b").write_bytes(b"")
    write_marker(tmp_path / "done.json", {"step": 3}, ["a", "inner/b"], checksum=True)
    return tmp_path / "done.json"


def test_a_mark_names_each_file_with_its_size_and_sha256(mark):
    content = read_marker(mark, checksum=True)
    assert content["step"] == 3
    # sha256sum of 12345, and of nothing
    assert content["files"] == {
        "a": {"bytes": 5, "sha256": "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"},
        "inner/b": {"bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    }
    assert damaged_file(mark.parent, content["files"]) == ""


@pytest.mark.parametrize(
    ("data", "said"), [(None, "a is missing"), (b"1234", "a has 4 bytes instead of 5"), (b"12346", "a was changed")]
)
def test_a_file_that_differs_is_named(mark, data, said):
    file = mark.parent / "a"
    file.unlink() if data is None else file.write_bytes(data)
    assert damaged_file(mark.parent, read_marker(mark)["files"]) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"files": 1}',
        '{"files": {"a": {"bytes": "5", "sha256": ""}}}',
        '{"files": {"../a": {"bytes": 5, "sha256": ""}}}',
        '{"files": {"/etc/passwd": {"bytes": 5, "sha256": ""}}}',
    ],
)
def test_a_mark_that_is_not_what_was_written_is_damaged(mark, text):
    mark.write_text(text)
    with pytest.raises(RunError, match=r"done\.json is damaged"):
        read_marker(mark)


def test_a_changed_value_is_noticed_where_a_checksum_is_kept(mark):
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "step": 4}))
    with pytest.raises(RunError, match="its checksum differs"):
        read_marker(mark, checksum=True)
    assert read_marker(mark)["step"] == 4


def test_a_mark_of_an_earlier_version_lists_no_files(mark):
    mark.write_text('{"step": 3}')
    assert "files" not in read_marker(mark)
    with pytest.raises(RunError, match="lists no files: an earlier version"):
        read_marker(mark, checksum=True)
    mark.unlink()
    with pytest.raises(RunError, match="cannot be read"):
        read_marker(mark)
