"""Each published format: rows written by hand from its published fields, and what they must become.

The rows are in a container that the dataset comes in. Expectations are written out; our writers make nothing here.
"""

import io
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsight.errors import DataError
from pairsight.formats.datasets.reading import Reading, read_records
from pairsight.records import Candidates, Demonstration, PreferencePair

Row = dict[str, Any]


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()


RED, BLUE = png("red"), png("blue")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for name, data in (("red.png", RED), ("sub/blue.jpg", BLUE), ("7.jpg", RED)):
        (folder / name).write_bytes(data)
    return folder


def jsonl(file: Path, rows: list[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def parquet(file: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def human(text: str) -> Row:
    return {"from": "human", "value": text}


def gpt(text: str) -> Row:
    return {"from": "gpt", "value": text}


def said(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


@dataclass(frozen=True)
class Case:
    """A row of a format, and what it becomes, in short: see `short`."""

    format: str
    row: Row
    becomes: list[Any]
    write: Callable[[Path, list[Row]], Path] = jsonl
    columns: str = ""


PAIR = [("user", "What is it?", "r")]
VQA = {"Helpfulness": {"Rating": "4", "Rationale": "Useful."},
       "Ethical Considerations": {"Rating": "5", "Rationale": ""},
       "Visual Faithfulness": {"Rating": "N/A", "Rationale": ""}}  # fmt: skip
CASES = [
    Case(
        "mmpr",
        {"image": "red.png", "question": "<image>\nWhat is it?", "chosen": "Red.", "rejected": "Blue."},
        [(PAIR, "Red.", ["Blue."])],
        columns="image, question, chosen, rejected",
    ),
    Case(  # several images, their marks inside the text
        "mmpr",
        {"image": ["red.png", "sub/blue.jpg"], "question": "Is <image> as <image>?", "chosen": "No.",
         "rejected": "Yes."},
        [([("user", "Is <image> as <image>?", "rb")], "No.", ["Yes."])],
        parquet,
    ),
    Case("mmpr", {"id": 5, "image": None, "question": "2+2?", "chosen": "4", "rejected": "5"},
         [([("user", "2+2?", "")], "4", ["5"])]),
    Case(
        "povid",
        {"id": "000000123", "image": "sub/blue.jpg", "conversations": [human("<image>\nWhat is it?"), gpt("Blue.")],
         "rejected_conversations": [human("<image>\nWhat is it?"), gpt("Green.")]},
        [([("user", "What is it?", "b")], "Blue.", ["Green."])],
        columns="conversations[], rejected_conversations[], id, image",
    ),
    Case(  # PDS-DPO writes the mark with a blank
        "povid",
        {"id": "art-1", "image": "red.png", "conversations": [human("<image> What is it?"), gpt(" Red. ")],
         "rejected_conversations": [human("<image> What is it?"), gpt("Blue.")]},
        [(PAIR, "Red.", ["Blue."])],
    ),
    Case(
        "povid",
        {"id": "art-1", "image": "red.png", "conversations": [human("<image> What is it?"), gpt("Red.")],
         "rejected_conversations": [human("<image> What is it?"), gpt("")]},
        ["empty_completion"],
    ),
    Case(
        "llava-rlhf",
        {"id": "a", "image": "red.png", "conversations": [human("<image>\nHello"), gpt("Hi."),
                                                              human("What is it?")],
         "output_1": {"from": "llava", "value": "Blue."}, "output_2": {"from": "llava", "value": "Red."},
         "preference": 2},
        [([("user", "Hello", "r"), ("assistant", "Hi.", ""), ("user", "What is it?", "")], "Red.", ["Blue."])],
    ),
    Case("seva", {"question": "What is it?", "chosen": "Red.", "reject": "Blue.", "image_id": "7"},
         [(PAIR, "Red.", ["Blue."])]),
    Case(
        "mllm-dpo",
        {"id": "x", "image": "red.png", "question": human("<image>\nWhat is it?"), "chosen": gpt("Red."),
         "rejected": [gpt("Blue.")], "ref_win_logp": -1.5, "ref_rej_logp": -2.0, "ref_win_avg_logp": -0.75,
         "ref_rej_avg_logp": -1.0, "ref_win_per_token_logp": [-1.0, -0.5], "ref_rej_per_token_logp": [-1.5, -0.5]},
        [(PAIR, "Red.", ["Blue."])],
    ),
    Case(
        "llama-factory",
        {"conversations": [human("<image>What is it?")], "chosen": gpt("Red."), "rejected": gpt("Blue."),
         "images": ["red.png"], "system": "Be short."},
        [([("system", "Be short.", ""), *PAIR], "Red.", ["Blue."])],
    ),
    Case(
        "llama-factory-alpaca",
        {"instruction": "What is it?", "input": "Be sure.", "chosen": "Red.", "rejected": "Blue.",
         "history": [["Hi", "Hello"]], "images": ["red.png"]},
        [([("user", "Hi", "r"), ("assistant", "Hello", ""), ("user", "What is it?\nBe sure.", "")], "Red.", ["Blue."])],
    ),
    Case(
        "ms-swift",
        {"messages": [said("user", "<image>What is it?"), said("assistant", "Red.")], "rejected_response": "Blue.",
         "images": ["red.png"]},
        [(PAIR, "Red.", ["Blue."])],
    ),
    Case(
        "ms-swift",
        {"messages": [said("user", "<image>What is it?"), said("assistant", "Red.")],
         "rejected_messages": [said("user", "<image>What is it?"), said("assistant", "Blue.")],
         "images": [{"bytes": None, "path": "red.png"}]},
        [(PAIR, "Red.", ["Blue."])],
        parquet,
    ),
    Case(  # only the image is another: the rejected text is the chosen one on it
        "ms-swift",
        {"messages": [said("user", "<image>What is it?"), said("assistant", "Red.")], "images": ["red.png"],
         "rejected_images": ["sub/blue.jpg"]},
        [(PAIR, "Red.", [("Red.", "b")])],
    ),
    Case(
        "trl",
        {"prompt": [said("user", [{"type": "image"}, {"type": "text", "text": "What is it?"}])],
         "chosen": [said("assistant", [{"type": "text", "text": "Red."}])],
         "rejected": [said("assistant", [{"type": "text", "text": "Blue."}])], "images": ["red.png"]},
        [(PAIR, "Red.", ["Blue."])],
    ),
    Case("trl", {"prompt": "What is it?", "chosen": "Red.", "rejected": "Blue.", "image": {"bytes": RED, "path": None}},
         [(PAIR, "Red.", ["Blue."])], parquet),
    Case(  # as in ultrafeedback_binarized, the prompt again at the start of both
        "trl",
        {"prompt": "2+2?", "chosen": [said("user", "2+2?"), said("assistant", "4")],
         "rejected": [said("user", "2+2?"), said("assistant", "5")], "score_chosen": 8.5, "score_rejected": 3.0},
        [([("user", "2+2?", "")], "4", ["5"])],
    ),
    Case(
        "trl-implicit",
        {"chosen": [said("user", "What is it?"), said("assistant", "Red.")],
         "rejected": [said("user", "What is it?"), said("assistant", "Blue.")], "images": ["red.png"]},
        [(PAIR, "Red.", ["Blue."])],
    ),
    Case("trl-sft", {"prompt": "What is it?", "completion": "Red.", "image": "red.png"}, [(PAIR, "Red.")]),
    Case(  # OpenAI's parts, the image inside as a data URI
        "openai",
        {"messages": [said("system", "Be short."), said("user", [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(RED).decode()}"}},
        ]), said("assistant", "Red.")]},
        [([("system", "Be short.", ""), ("user", "What is it?\n<image>", "r")], "Red.")],
    ),
    Case(  # every answer of a conversation is learnt, on what was said before it
        "llava-instruct",
        {"id": "000000033471", "image": "red.png",
         "conversations": [human("<image>\nWhat is it?"), gpt("Red."), human("Sure?"), gpt("Yes.")]},
        [(PAIR, "Red."), ([*PAIR, ("assistant", "Red.", ""), ("user", "Sure?", "")], "Yes.")],
    ),
    Case("llava-instruct", {"id": "t", "model": "gpt-4", "conversations": [human("2+2?"), gpt("4")]},
         [([("user", "2+2?", "")], "4")]),
    Case(
        "scigraphqa",
        {"id": "a1", "image_file": "red.png", "caption": "A figure.",
         "conversations": [human("What is it?"), gpt("Red.")]},
        [(PAIR, "Red.")],
    ),
    Case("lrv-instruct", {"image_id": "7", "question": "What is it?", "answer": "Red.", "task": "Colour"},
         [(PAIR, "Red.")]),
    Case(
        "vlfeedback",
        {"id": "v", "prompt": "What is it?", "models": ["a", "b"], "img_path": "red.png",
         "completions": [{"model": "a", "response": "Red.", "annotations": VQA},
                         {"model": "b", "response": "Blue.",
                          "annotations": {"Helpfulness": {"Rating": "1", "Rationale": "Wrong."}}}]},
        [(PAIR, {"Red.": {"helpfulness": 4.0, "ethical_considerations": 5.0}, "Blue.": {"helpfulness": 1.0}})],
    ),
    Case(  # as `datasets` keeps a sequence of objects: an object of lists
        "vlfeedback",
        {"id": "v", "prompt": "What is it?", "models": ["a", "b"], "img_path": "red.png",
         "completions": {"model": ["a", "b"], "response": ["Red.", "Blue."],
                         "annotations": [VQA, VQA | {"Helpfulness": {"Rating": "2", "Rationale": ""}}]}},
        [(PAIR, {"Red.": {"helpfulness": 4.0, "ethical_considerations": 5.0},
                 "Blue.": {"helpfulness": 2.0, "ethical_considerations": 5.0}})],
        parquet,
    ),
    Case(
        "ultrafeedback",
        {"source": "evol", "instruction": "2+2?", "models": ["a", "b"], "correct_answers": ["None"],
         "incorrect_answers": ["None"],
         "completions": [
             {"model": "a", "response": "4", "critique": "Good.", "overall_score": 9.0, "fine-grained_score": 5.0,
              "annotations": {"truthfulness": {"Rating": "5", "Rationale": "True."}}},
             {"model": "b", "response": "5", "critique": "Bad.", "overall_score": 1.0, "fine-grained_score": 1.0,
              "annotations": {"truthfulness": {"Rating": "1", "Rationale": "False."}}},
         ]},
        [([("user", "2+2?", "")], {"4": {"truthfulness": 5.0, "overall_score": 9.0},
                                   "5": {"truthfulness": 1.0, "overall_score": 1.0}})],
    ),
]  # fmt: skip


def short(record: Any, source: Any) -> Any:
    """What a record says: its messages as (role, text, first letters of its images' colours), and its completions."""

    def colours(refs: Any) -> str:
        return "".join("r" if source.open(ref).getpixel((0, 0))[0] > 200 else "b" for ref in refs)

    prompt = [(message.role, message.text, colours(message.images)) for message in record.prompt.messages]
    if isinstance(record, PreferencePair):
        rejected = [one.text if one.images is None else (one.text, colours(one.images)) for one in record.rejected]
        return prompt, record.chosen.text, rejected
    if isinstance(record, Demonstration):
        return prompt, record.completion.text
    assert isinstance(record, Candidates)
    scores = {one.completion_id: dict(one.scores) for one in record.annotations}
    return prompt, {one.text: scores.get(one.id, {}) for one in record.completions}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.format)
def test_a_row_is_read_as_published(case: Case, tmp_path: Path, images: Path):
    good = next(one for one in CASES if one.format == case.format and isinstance(one.becomes[0], tuple))
    file = case.write(tmp_path / ("rows.parquet" if case.write is parquet else "rows.jsonl"), [case.row])
    if isinstance(case.becomes[0], str):
        with pytest.raises(DataError, match=f"nothing is left, 1 left out.*{case.row['id']}.*empty"):
            read_records(file, Reading(images=str(images)))
        file = case.write(file, [good.row, case.row])
        found = read_records(file, Reading(images=str(images)))
        assert [one.reason for one in found.dropped] == case.becomes
        return
    found = read_records(file, Reading(images=str(images)))
    assert [short(one, found.images) for one in found] == case.becomes
    assert found.why.startswith(f"{found.why.partition(':')[0]}: columns {case.columns}")
    named = read_records(file, Reading(images=str(images), format=case.format))
    assert list(named) == list(found), "the format that is named is the one that is found"


def test_helpsteer_has_a_row_for_each_completion(tmp_path: Path):
    scores = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2}
    rows = [{"prompt": "2+2?", "response": "4", **scores},
            {"prompt": "2+2?", "response": "5", **scores, "correctness": 0},
            {"prompt": "3+3?", "response": "6", **scores}]  # fmt: skip
    found = read_records(parquet(tmp_path / "a.parquet", rows))
    (candidates,) = found
    assert short(candidates, found.images)[1] == {"4": scores, "5": {**scores, "correctness": 0}}
    assert [(one.reason, one.item_id) for one in found.dropped] == [("too_few_completions", "row-3")]
    assert found.strategy is not None and found.strategy.name == "preference_rule"
