import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from made_tables import pairs_table
from pairsight.errors import DataError
from pairsight.formats.completions import read_completions
from pairsight.images.source import FileImages
from pairsight.records import Completion, Message, PreferencePair, Prompt


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")


def write(folder, *rows):
    file = folder / "c.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def row(**changes):
    return {"id": "1", "image": "a.png", "question": "What?"} | changes


def test_several_completions(tmp_path):
    file = write(tmp_path, row(completions=["A dot.", {"text": "A cat.", "model": "other"}, "Nothing."]))
    (one,) = read_completions(file)
    assert one.prompt.question == "What?"
    assert len(one.prompt.images) == 1
    assert [(c.id, c.text, c.model, c.sample_index) for c in one.completions] == [
        ("1:0", "A dot.", "", 0),
        ("1:1", "A cat.", "other", 1),
        ("1:2", "Nothing.", "", 2),
    ]
    assert one.annotations == ()


def test_a_preference_set_keeps_what_was_preferred(tmp_path):
    file = write(tmp_path, row(chosen="A dot.", rejected=["A cat.", "B"]), row(id="2", chosen="x", rejected="y"))
    first, second = read_completions(file)
    assert [(a.completion_id, a.annotator, a.scores) for a in first.annotations] == [
        ("1:0", "given", {"preference": 1.0}),
        ("1:1", "given", {"preference": 0.0}),
        ("1:2", "given", {"preference": 0.0}),
    ]
    assert [c.text for c in second.completions] == ["x", "y"]
    assert len(read_completions(file, limit=1)) == 1


def test_llava_turns_as_the_prompt(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    file = write(tmp_path, {"id": 3, "image": "a.png", "conversations": turns, "completions": ["a", "b"]})
    assert read_completions(file)[0].prompt.question == "What?"


def test_parquet_of_pairs(tmp_path):
    images = FileImages(tmp_path)
    prompt = Prompt("p", (Message("user", "What?", (images.ref("a.png"),)),))
    chosen, rejected = (Completion(f"p:{k}", "p", text, "stop", "m", 0, k) for k, text in enumerate("ab"))
    pq.write_table(pairs_table([PreferencePair("p", prompt, chosen, (rejected,), "x")], images), tmp_path / "p.parquet")
    (one,) = read_completions(tmp_path / "p.parquet")
    assert one.completions == (chosen, rejected)
    assert [a.scores["preference"] for a in one.annotations] == [1.0, 0.0]
    assert one.prompt == prompt


@pytest.mark.parametrize(
    ("bad", "reason", "message"),
    [
        (row(id="x"), "missing_field", "'completions', or 'chosen' and 'rejected'"),
        (row(id="x", chosen="a"), "missing_field", "are needed"),
        (row(id="x", completions=["a"]), "too_few_completions", "two completions are needed, found 1"),
        (row(id="x", completions=["a", " "]), "empty_completion", "completion 2 is empty"),
        (row(id="x", completions=["a", 5]), "wrong_type", "completion 2 must be text"),
        (row(id="x", completions="a"), "wrong_type", "must be a list"),
        (row(id="x", chosen="", rejected="b"), "empty_completion", "'chosen' is empty"),
        (row(id="x", chosen="a", rejected=[]), "too_few_completions", "found 1"),
        (row(id="ok", completions=["a", "b"]), "duplicate_id", "is used before"),
        (row(id="x", image="b.png", completions=["a", "b"]), "missing_image", "does not exist"),
    ],
)
def test_bad_rows(tmp_path, bad, reason, message):
    file = write(tmp_path, row(id="ok", completions=["c", "d"]), bad)
    with pytest.raises(DataError, match=message) as caught:
        read_completions(file)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{file} line 2")
    kept = read_completions(file, on_error="skip")
    assert [c.text for c in kept[0].completions] == ["c", "d"]
    assert [one.reason for one in kept.dropped] == [reason]


def test_nothing_left(tmp_path):
    with pytest.raises(DataError, match="nothing is left, 1 dropped"):
        read_completions(write(tmp_path, row(completions=[])), on_error="skip")
    with pytest.raises(DataError, match="does not exist"):
        read_completions(tmp_path / "gone.jsonl")
