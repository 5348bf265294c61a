"""A key that stands twice in a JSON row is an error: which of the two was meant cannot be known."""

import json
from pathlib import Path

import pytest

from pairsight.benchmarks.files.official import read_json, read_jsonl
from pairsight.errors import DataError
from pairsight.formats.completions import read_completions
from pairsight.formats.prompts import read_prompts

GOOD = json.dumps({"id": "a", "question": "What is it?"})
TWICE = '{"id": "b", "question": "What is it?", "question": "And this?"}'
INSIDE = '{"id": "b", "conversations": [{"from": "human", "value": "What?", "value": "Who?"}]}'


@pytest.mark.parametrize(("text", "line"), [(f"{GOOD}\n{TWICE}\n", 2), (f"[{GOOD},\n\n{TWICE}]", 3)])
def test_prompts_name_file_line_and_key(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"p.json line {line}.* has 'question' twice in one object") as raised:
        read_prompts(file)
    assert raised.value.reason == "duplicate_key"


def test_a_row_with_a_key_twice_can_be_skipped(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(f"{GOOD}\n{TWICE}\n")
    read = read_prompts(file, on_error="skip")
    assert [one.id for one in read] == ["a"]
    assert [one.reason for one in read.dropped] == ["duplicate_key"]


def test_completions_and_turns_too(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"id": "a", "question": "Q?", "chosen": "x", "chosen": "y", "rejected": "z"}\n')
    with pytest.raises(DataError, match=r"c.jsonl line 1 has 'chosen' twice"):
        read_completions(file)
    file.write_text(INSIDE)
    with pytest.raises(DataError, match=r"c.jsonl line 1 has 'value' twice"):
        read_prompts(file)


def test_answers_too(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"question_id": 1, "text": "yes"}\n{"question_id": 2, "text": "yes", "text": "no"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: has 'text' twice in one object"):
        list(read_jsonl(file))


@pytest.mark.parametrize("text", ['{"1": {"question": "a"}, "2": {}, "1": {"question": "b"}}', '[{"1": 0, "1": 1}]'])
@pytest.mark.parametrize("hook", [None, lambda made: made])
def test_official_files_that_are_one_value_too(tmp_path: Path, text: str, hook: object) -> None:
    file = tmp_path / "questions.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"questions.json has '1' twice in one object") as raised:
        read_json(file, hook)
    assert raised.value.reason == "duplicate_key"


def test_equal_keys_of_different_objects_are_well(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('{"a": {"x": 1}, "b": {"x": 2}}')
    assert read_json(tmp_path / "q.json") == {"a": {"x": 1}, "b": {"x": 2}}
    assert read_json(tmp_path / "q.json", lambda made: made.get("x", made)) == {"a": 1, "b": 2}
