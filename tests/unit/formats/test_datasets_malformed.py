"""Each format's malformed twin: one line that names file, row and id; what is skipped is listed, nothing vanishes."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_datasets import CASES, PAIR, RED, short

from pairsight.errors import ConfigError, DataError
from pairsight.formats.datasets.reading import Reading, read_records

Row = dict[str, Any]
GOOD = {case.format: case.row for case in reversed(CASES) if isinstance(case.becomes[0], tuple)}
TEXT_ROWS = {name: row for name, row in GOOD.items() if name != "lrv-instruct"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("malformed")
    (made / "sub").mkdir()
    (made / "images").mkdir()
    for name in ("red.png", "sub/blue.jpg", "7.jpg", "secret.png"):
        (made / "images" / name).parent.mkdir(exist_ok=True)
        (made / "images" / name).write_bytes(RED)
    (made / "outside.png").write_bytes(RED)
    (made / "images" / "broken.png").write_bytes(RED[:40])
    return made


def rows(folder: Path, *given: Row) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return file


def refused(folder: Path, name: str, bad: Row, message: str, reason: str) -> None:
    """A bad row after a good one is one line that names the file, the row and its id; with skip it is listed."""
    file = rows(folder, {**GOOD[name], "id": "good"}, {**bad, "id": "bad-1"})
    images = str(folder / "images")
    with pytest.raises(DataError, match=message) as caught:
        read_records(file, Reading(images=images, format=name))
    said = str(caught.value)
    assert "\n" not in said and f"{file} line 2" in said and "--on-error skip" in said and "bad-1" in said
    found = read_records(file, Reading(images=images, format=name, on_error="skip"))
    assert [one.reason for one in found.dropped] == [reason]
    assert found.num_rows == 2 and len(found) >= 1
    assert any(
        sentence.startswith(f"left out, {reason}: 1; the first: {file} line 2") for sentence in found.sentences()
    )


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [None, 7, {"a": 1}, ["x", 2]], ids=["null", "number", "object", "list"])
def test_a_needed_column_that_is_something_else_is_an_error(name: str, value: object, folder: Path):
    from pairsight.registry import formats

    format = formats.get(name)()
    file = rows(folder, *({**GOOD[name], column: value, "id": "bad-1"} for column in format.columns))
    for column in format.columns:
        if (column, value) in _ALLOWED or column in _SAYS_NOTHING:
            continue
        rows(folder, {**GOOD[name], column: value, "id": "bad-1"})
        with pytest.raises(DataError) as caught:
            read_records(file, Reading(images=str(folder / "images"), format=name))
        assert "\n" not in str(caught.value) and f"{file} line 1" in str(caught.value), column
        missing = {key: one for key, one in GOOD[name].items() if key != column}
        rows(folder, missing)
        with pytest.raises(DataError, match=r"line 1"):
            read_records(file, Reading(images=str(folder / "images"), format=name))


_SAYS_NOTHING = ("ds_name", "image")
"""Columns by which a format is known and that may be missing from a row."""
_ALLOWED = [("image_id", 7)]


IMAGES = [
    ("../outside.png", "lies outside the images folder", "outside_image"),
    ("/etc/passwd", "lies outside the images folder", "outside_image"),
    ("gone.png", "does not exist", "missing_image"),
    ("broken.png", "is damaged", "not_an_image"),
    ("http://example.org/a.png", "web address: --allow-download", "web_image"),
    ("data:image/png;base64,@@@", "is not base64", "wrong_type"),
    (7, "must be an image's name, its bytes", "wrong_type"),
    ({"bytes": None, "path": None, "more": 1}, "must be an image's name, its bytes", "wrong_type"),
    ("", "holds images|marks for 0 images", "image_marks"),
    (["red.png", "red.png"], "1 <image> marks for 2 images", "image_marks"),
    ("clip.mp4", "", "video"),
]


@pytest.mark.parametrize(("value", "message", "reason"), IMAGES, ids=[str(value)[:20] for value, _, _ in IMAGES])
@pytest.mark.parametrize("name", ["mmpr", "povid", "llava-instruct"])
def test_images_that_cannot_be_used(name: str, value: object, message: str, reason: str, folder: Path):
    if reason != "video":
        refused(folder, name, {**GOOD[name], "image": value}, message, reason)
        return
    file = rows(folder, GOOD[name], {**GOOD[name], "image": value, "id": "clip"}, {**GOOD[name], "video": "a.mp4"})
    found = read_records(file, Reading(images=str(folder / "images"), format=name))
    assert [one.reason for one in found.dropped] == ["video", "video"], "skipped without being asked"
    assert all("only images are read" in one.detail for one in found.dropped)


TWINS: list[tuple[str, Row, str, str]] = [
    ("povid", {"rejected_conversations": [{"from": "human", "value": "Else?"}, {"from": "gpt", "value": "B"}]},
     "differ before their last turn", "different_prompts"),
    ("povid", {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}]}, "must end with", "no_turns"),
    ("llava-rlhf", {"preference": 3}, "must be 1 or 2, found 3", "no_preference"),
    ("llava-rlhf", {"output_1": {"from": "cat", "value": "x"}}, "from 'cat'; known", "unknown_role"),
    ("mllm-dpo", {"ref_win_logp": "low"}, "'ref_win_logp' must be a number", "wrong_type"),
    ("mllm-dpo", {"ref_rej_per_token_logp": ["a"]}, "must be numbers", "wrong_type"),
    ("llama-factory", {"conversations": [{"from": "gpt", "value": "Hi"}]}, "from assistant, not the user", "no_turns"),
    ("llama-factory-alpaca", {"history": [["only"]]}, "list of .question, answer.", "wrong_type"),
    ("ms-swift", {"rejected_messages": [{"role": "assistant", "content": "x"}]}, "has both", "wrong_type"),
    ("ms-swift", {"rejected_response": None}, "none of rejected_response", "missing_field"),
    ("ms-swift", {"rejected_images": ["red.png", "red.png"]}, "2 rejected images for a prompt with 1", "image_marks"),
    ("trl-implicit", {"rejected": [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": "x"}]},
     "differ before their last message", "different_prompts"),
    ("trl", {"chosen": [{"role": "user", "content": "x"}]}, "one assistant message", "wrong_type"),
    ("openai", {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "text or an image", "wrong_type"),
    ("openai", {"messages": [{"role": "user", "content": "x"}]}, "last message must be the assistant's", "no_turns"),
    ("vlfeedback", {"completions": [{"response": "x", "annotations": {"Helpfulness": {"Rating": "high"}}}]},
     "a rating must be a number, found 'high'", "wrong_type"),
    ("vlfeedback", {"completions": [{"model": "a"}]}, "no 'response'", "missing_field"),
    ("ultrafeedback", {"completions": {"response": ["a", "b"], "model": ["x"]}}, "different lengths", "wrong_type"),
    ("mmpr", {"chosen": "a\ud800"}, "half a surrogate pair", "bad_text"),
    ("seva", {"question": "<image>"}, "question is empty|What", "empty_question"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message", "reason"), TWINS, ids=[f"{n}-{r}" for n, _, _, r in TWINS])
def test_a_malformed_twin_is_named_and_counted(name: str, change: Row, message: str, reason: str, folder: Path):
    if name == "ms-swift" and "rejected_messages" in change:
        change = {**change, "rejected_response": "Blue."}
    refused(folder, name, {**GOOD[name], **change}, message, reason)


def test_completions_that_say_nothing_new_are_left_out_without_being_asked(folder: Path):
    same, empty = GOOD["mmpr"] | {"rejected": "Red."}, GOOD["mmpr"] | {"chosen": " "}
    found = read_records(rows(folder, GOOD["mmpr"], same, empty), Reading(images=str(folder / "images")))
    assert (len(found), [one.reason for one in found.dropped]) == (1, ["identical", "empty_completion"])


def test_repeated_ids_are_numbered_or_refused_by_format(folder: Path):
    povid, trl = GOOD["povid"] | {"id": "x"}, GOOD["trl"] | {"id": "x"}
    found = read_records(rows(folder, povid, povid, povid), Reading(images=str(folder / "images")))
    assert [one.id for one in found] == ["x", "x#2", "x#3"]
    assert "2 rows have an id that an earlier row has: they are called ID#2, ID#3, …" in found.sentences()
    with pytest.raises(DataError, match="line 2 id 'x': the id is used before"):
        read_records(rows(folder, trl, trl), Reading(images=str(folder / "images")))


def test_unknown_and_unsure_columns_list_the_formats_and_the_flags(folder: Path):
    file = rows(folder, {"frage": "What is it?", "gut": "Red.", "schlecht": "Blue.", "bild": "red.png"})
    with pytest.raises(DataError, match=r"no known format has the columns 'frage'.*--format NAME.*--columns.*rlaif-v"):
        read_records(file)
    named = Reading(images=str(folder / "images"), columns="prompt=frage,chosen=gut,rejected=schlecht,image=bild")
    found = read_records(file, named)
    assert [short(one, found.images) for one in found] == [([(*PAIR[0][:2], "r")], "Red.", ["Blue."])]
    with pytest.raises(DataError, match="column 'bild' holds images and is not read: --columns image=bild"):
        read_records(file, Reading(str(folder / "images"), columns="prompt=frage,chosen=gut,rejected=schlecht"))
    for columns, message in (
        ("prompt=frage,chosen=gut,rejected=schlecht,image=bidl", "has no column 'bidl'; did you mean 'bild'"),
        ("promt=frage", "reads no 'promt'; did you mean 'prompt'"),
        ("frage", "must be NAME=COLUMN"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_records(file, Reading(columns=columns))
    both = rows(folder, {"messages": [], "rejected_response": "x", "prompt": "x", "chosen": "y", "rejected": "z"})
    with pytest.raises(DataError, match=r"fit several formats: trl .*ms-swift.*--format NAME"):
        read_records(both)
    with pytest.raises(ConfigError, match="unknown format 'rlaif'; did you mean 'rlaif-v'"):
        read_records(both, Reading(format="rlaif"))


def test_margins_that_no_loss_reads_are_said(tmp_path: Path):
    messages = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "good"}]
    row = {"messages": messages, "rejected_response": "bad"}
    file = tmp_path / "swift.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ({**row, "margin": 0.5}, {**row, "margin": None}, row)))
    assert "1 rows have a 'margin', which no loss reads" in read_records(file).sentences()
