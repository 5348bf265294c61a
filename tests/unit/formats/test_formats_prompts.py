import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pairsight.errors import DataError
from pairsight.formats.prompts import PromptSet, detect_format, read_prompts
from pairsight.records import Message, Prompt


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name, colour in (("a.png", 1), ("b.png", 2), ("ocr_vqa/c.png", 3), ("textvqa/train/d.png", 4)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (colour, 0, 0)).save(root / name)
    return root


def llava(identity, image, *turns):
    """Turns alternate human, gpt."""
    conversations = [{"from": ("human", "gpt")[index % 2], "value": turn} for index, turn in enumerate(turns)]
    row = {"id": identity, "image": image, "conversations": conversations}
    return {name: value for name, value in row.items() if value is not None}


def write(folder, rows, name="prompts.json"):
    file = folder / name
    file.write_text(json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, rows)))
    return file


def test_llava_first_question_without_its_mark(folder):
    rows = [
        llava("1", "a.png", "<image>\nWhat is this?", "A dot.", "And its colour?", "Red."),
        llava(2, "b.png", "Describe it.\n<image>", "…"),
        llava("3", None, "What is 2+2?", "4"),
    ]
    prompts = read_prompts(write(folder, rows))
    assert isinstance(prompts, PromptSet)
    assert [prompt.id for prompt in prompts] == ["1", "2", "3"]
    assert [prompt.question for prompt in prompts] == ["What is this?", "Describe it.", "What is 2+2?"]
    assert prompts[0].messages == (Message("user", "What is this?", (prompts.images.ref("a.png"),)),)
    assert prompts[2].images == ()
    assert prompts.dropped == ()
    assert prompts.images.open(prompts[1].images[0]).getpixel((0, 0)) == (2, 0, 0)


def test_llava_system_and_consecutive_human_turns(folder):
    row = llava("1", "a.png")
    row["conversations"] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>"},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "A dot."},
    ]
    (prompt,) = read_prompts(write(folder, [row]))
    assert [(m.role, m.text, len(m.images)) for m in prompt.messages] == [
        ("system", "Be brief.", 0),
        ("user", "What is this?", 1),
    ]


def test_several_images_keep_their_marks(folder):
    rows = [llava("1", ["a.png", "b.png"], "Compare <image> and <image>.", "…", "Why?", "…")]
    file = write(folder, rows)
    (prompt,) = read_prompts(file)
    assert prompt.messages[0].text == "Compare <image> and <image>."
    assert len(prompt.images) == 2
    later = read_prompts(file, questions_per_dialogue=2)[1]
    assert (later.question, len(later.images)) == ("Why?", 2)


def test_jsonl_needs_no_mark(folder):
    rows = [
        {"image": "a.png", "question": "What is this?"},
        {"question_id": 7, "image": "ocr_vqa/c.png", "question": "<image>\nRead it."},
        {"id": "t", "question": "Say hello.", "source": "text"},
    ]
    for name in ("p.jsonl", "p.json"):
        prompts = read_prompts(write(folder, rows, name))
        assert [(p.id, p.question, len(p.images), p.source) for p in prompts] == [
            ("row-1", "What is this?", 1, ""),
            ("7", "Read it.", 1, "ocr_vqa"),
            ("t", "Say hello.", 0, "text"),
        ]


def test_the_datasets_own_answers_are_kept_aside(folder):
    rows = [llava("1", "a.png", "<image>\nWhat?", "A dot.", "Colour?", "Red."), llava("2", "b.png", "<image>\nWhy?")]
    assert read_prompts(write(folder, rows)).answers == {"1": "A dot."}
    assert read_prompts(write(folder, rows), questions_per_dialogue=2).answers == {"1#1": "A dot.", "1#2": "Red."}
    rows = [{"image": "a.png", "question": "What?", "answer": " A dot. "}]
    assert read_prompts(write(folder, rows)).answers == {"row-1": "A dot."}


def test_llava_rows_one_a_line(folder):
    assert read_prompts(write(folder, [llava("1", "a.png", "<image>\nHi?")], "p.jsonl"))[0].question == "Hi?"


def test_folder_with_one_question(folder):
    prompts = read_prompts(folder, question="Describe the image.")
    assert [prompt.id for prompt in prompts] == ["a.png", "b.png", "ocr_vqa/c.png", "textvqa/train/d.png"]
    assert {prompt.question for prompt in prompts} == {"Describe the image."}
    with pytest.raises(DataError, match="--question"):
        read_prompts(folder)
    with pytest.raises(DataError, match="own questions"):
        read_prompts(write(folder, [llava("1", "a.png", "<image>\nHi?")]), question="Why?")


def test_images_folder_may_lie_elsewhere(folder, tmp_path):
    file = write(tmp_path, [llava("1", "a.png", "<image>\nHi?")])
    assert len(read_prompts(file, folder)) == 1
    with pytest.raises(DataError, match=r"line 2 \(row 1\) id '1': image .*a\.png does not exist"):
        read_prompts(file)


BAD_ROWS = [
    (llava("x", "a.png", "What is this?"), "image_marks", "1 image but no <image> mark: put"),
    (llava("x", "a.png", "<image>\nand <image>?"), "image_marks", "2 <image> marks for 1 image"),
    (llava("x", None, "<image>\nWhat?"), "image_marks", "but no image"),
    (llava("x", "a.png", "<image>\n  "), "empty_question", "the question is empty"),
    (llava("x", "a.png", "<image>\nA?", "b", " "), "empty_question", "human turn 2"),
    (llava("x", "gone.png", "<image>\nWhat?"), "missing_image", "does not exist; did you mean"),
    ({**llava("x", "a.png", "<image>\nA?"), "images": ["b.png"]}, "image_marks", "has both 'image' and 'images'"),
    ({**llava("x", None, "What?"), "image_path": "a.png"}, "unread_image", "'image_path' names an image ('a.png')"),
    (
        {**llava("x", None, "What?"), "picture": {"path": "a"}},
        "unread_image",
        "'picture' names an image ({'path': 'a'})",
    ),
    ({**llava("x", [], "What?"), "img": "0001"}, "unread_image", "'img' names an image ('0001') and is not read"),
    ({"id": "x", "question": "What?", "scan": "data:image/png;base64,AA=="}, "unread_image", "'scan' names an image"),
    (llava("x", "data:image/png;base64,AA==", "<image>\nWhat?"), "wrong_type", "instead of a file's name; bytes"),
    (llava("x", "https://example.org/a.png", "<image>\nWhat?"), "wrong_type", "instead of a file's name; bytes"),
    (llava("x", "cut.png", "<image>\nWhat?"), "broken_image", "truncated"),
    (llava("x", "../prompts.png", "<image>\nWhat?"), "outside_image", "outside the images folder"),
    (llava("x", "", "<image>\nWhat?"), "missing_image", "empty name"),
    (llava("x", 3, "<image>\nWhat?"), "wrong_type", "must be text"),
    (llava("ok", "b.png", "<image>\nWhat?"), "duplicate_id", "is used before, at"),
    ({"id": "x", "image": "a.png"}, "no_turns", "'conversations'"),
    ({"id": "x", "conversations": []}, "no_turns", "'conversations'"),
    ({"id": "x", "conversations": [{"from": "gpt", "value": "Hi"}]}, "no_turns", "no turn is from 'human'"),
    ({"id": "x", "conversations": [{"from": "dog", "value": "Hi"}]}, "unknown_role", "'dog'"),
    ({"id": "x", "conversations": [{"from": "human", "value": 5}]}, "wrong_type", "must be text"),
    ({"id": "x", "conversations": ["Hi"]}, "wrong_type", "turn 1"),
    ({"id": "a\nb", "conversations": []}, "bad_text", "one line of printable"),
    ({"id": {}, "conversations": []}, "wrong_type", "'id' must be text"),
    ({"id": "x", "conversations": [{"from": "human", "value": "a\ud800"}]}, "bad_text", "surrogate"),
    ([1], "wrong_type", "must be an object"),
]


@pytest.mark.parametrize(("bad", "reason", "message"), BAD_ROWS)
def test_bad_rows_stop_or_are_skipped_and_listed(folder, bad, reason, message):
    noise = bytes(range(256)) * 3
    Image.frombytes("RGB", (16, 16), noise).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:-60])
    file = write(folder, [llava("ok", "a.png", "<image>\nFine?"), bad, llava("last", "b.png", "<image>\nToo?")])
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_prompts(file)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{file} line ")
    assert "row 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; --on-error skip leaves such rows out")
    prompts = read_prompts(file, on_error="skip")
    assert [prompt.id for prompt in prompts] == ["ok", "last"]
    (dropped,) = prompts.dropped
    assert (dropped.reason, dropped.stage) == (reason, "read")
    assert message in dropped.detail


def test_line_and_row_of_a_bad_row(folder):
    file = folder / "p.json"
    file.write_text('[\n{"id": "a", "conversations":\n [{"from": "human", "value": "Hi"}]},\n\n{"id": "b"}]')
    with pytest.raises(DataError, match=r"p\.json line 5 \(row 2\) id 'b'"):
        read_prompts(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("[]", "no rows"),
        ('[{"question": "a"}', r"line 1: not JSON at column 19: Expecting ',' or '\]'"),
        ('[{"id": "a",\n"conversations": }]', "line 2: not JSON at column 18"),
        ('[{"question": "a"}] x', "line 1: not JSON at column 21: Extra data"),
        ('[{"question": "a"},]', "line 1: not JSON at column 20"),
        ('{"id": "a",\n', "line 1: not JSON at column 12"),
        ('[{"caption": "a"}]', "rows need 'conversations' or 'question' or 'prompt' or 'text', found 'caption'"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "digits"),
        ("id,image\n1,a.png", "one JSON object a line"),
    ],
)
def test_bad_files(folder, text, message):
    file = folder / "p.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_prompts(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(folder):
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        read_prompts(folder / "none.json")
    with pytest.raises(DataError, match="not UTF-8"):
        read_prompts(folder / "a.png")


def test_a_bad_line_of_jsonl_is_skipped(folder):
    file = folder / "p.jsonl"
    file.write_text('{"question": "One?"}\n\n{"question": \n{"question": "Two?"}\n')
    with pytest.raises(DataError, match="line 3: not JSON at column 14"):
        read_prompts(file)
    prompts = read_prompts(file, on_error="skip")
    assert [prompt.question for prompt in prompts] == ["One?", "Two?"]
    assert [(d.item_id, d.reason) for d in prompts.dropped] == [(f"{file} line 3", "bad_json")]


def test_nothing_left_says_why(folder):
    file = write(folder, [llava("x", "gone.png", "<image>\nWhat?")])
    with pytest.raises(DataError, match=r"nothing is left, 1 dropped; the first: .*gone\.png"):
        read_prompts(file, on_error="skip")
    with pytest.raises(DataError, match="no image's name starts with 'coco'"):
        read_prompts(write(folder, [llava("x", "a.png", "<image>\nWhat?")]), sources=["coco"])
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_prompts(empty, question="What?")


def dialogues(folder, count=30):
    rows = []
    for index in range(count):
        name = "ocr_vqa/c.png" if index % 2 else "textvqa/train/d.png"
        turns = [turn for number in range(4) for turn in (f"Question {index}.{number}?", "Answer.")]
        turns[0] = "<image>\n" + turns[0]
        rows.append(llava(f"d{index}", name, *turns))
    return write(folder, rows)


def test_questions_per_dialogue_draws_without_repeats(folder):
    prompts = read_prompts(dialogues(folder), questions_per_dialogue=2, seed=3)
    assert len(prompts) == 60
    assert len({prompt.id for prompt in prompts}) == 60
    for prompt in prompts:
        dialogue, number = prompt.id[1:].split("#")
        assert prompt.question == f"Question {dialogue}.{int(number) - 1}?"
        assert len(prompt.images) == 1
    assert len({prompt.id.split("#")[1] for prompt in prompts}) == 4
    assert len(read_prompts(folder / "prompts.json", questions_per_dialogue=9)) == 120


def test_sources_and_per_source(folder):
    file = dialogues(folder)
    chosen = read_prompts(file, sources=["ocr_vqa", "textvqa/train"], per_source=4, seed=1)
    assert sorted(prompt.source for prompt in chosen) == ["ocr_vqa"] * 4 + ["textvqa/train"] * 4
    ids = [int(prompt.id[1:]) for prompt in chosen]
    assert ids == sorted(ids)
    assert {prompt.source for prompt in read_prompts(file, sources=["textvqa"])} == {"textvqa"}
    assert {prompt.source for prompt in read_prompts(file)} == {"ocr_vqa", "textvqa"}


def test_draws_follow_from_the_seed_and_not_from_the_order(folder):
    file = dialogues(folder)
    options = {"questions_per_dialogue": 1, "per_source": 5}
    first = {prompt.id for prompt in read_prompts(file, seed=1, **options)}
    assert first == {prompt.id for prompt in read_prompts(file, seed=1, **options)}
    assert first != {prompt.id for prompt in read_prompts(file, seed=2, **options)}
    backwards = write(folder, json.loads(file.read_text())[::-1], "backwards.json")
    assert first == {prompt.id for prompt in read_prompts(backwards, seed=1, **options)}


def test_limit_and_images_are_opened_after_the_draw(folder):
    rows = [llava("1", "a.png", "<image>\nWhat?"), llava("2", "gone.png", "<image>\nWhat?")]
    assert [prompt.id for prompt in read_prompts(write(folder, rows), limit=1)] == ["1"]


def test_strip_short_answer(folder):
    short = "What is it?\nAnswer the question using a single word or phrase."
    rows = [llava("1", "a.png", f"<image>\n{short}")]
    assert read_prompts(write(folder, rows))[0].question == short
    assert read_prompts(write(folder, rows), strip_short_answer=True)[0].question == "What is it?"
    rows = [llava("1", "a.png", "<image>\nProvide a short description for this region.")]
    with pytest.raises(DataError, match="nothing is left"):
        read_prompts(write(folder, rows), strip_short_answer=True)


def test_null_in_one_spelling_leaves_the_other(folder):
    (folder / "rows.jsonl").write_text(json.dumps({"image": None, "images": ["a.png"], "question": "What?"}))
    (prompt,) = read_prompts(folder / "rows.jsonl")
    assert len(prompt.images) == 1


def test_a_text_to_make_pictures_from_does_not_lose_an_image(folder):
    (folder / "rows.jsonl").write_text(json.dumps({"image": "a.png", "prompt": "What is it?"}))
    with pytest.raises(DataError, match="to ask about an image, call it 'question'"):
        read_prompts(folder / "rows.jsonl")


def test_detect_format(folder):
    assert detect_format(folder) == "folder"
    assert detect_format(write(folder, [{"question": "a"}], "q.jsonl")) == "jsonl"
    assert detect_format(dialogues(folder)) == "llava"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["a.png", "human"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "image", "conversations", "from", "value", "question", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(value=json_values, wrapped=st.booleans(), cut=st.integers(0, 5), on_error=st.sampled_from(["stop", "skip"]))
def test_any_json_gives_prompts_or_a_data_error(tmp_path_factory, value, wrapped, cut, on_error):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    file = folder / "p.json"
    text = json.dumps([value] if wrapped else value)
    file.write_text(text[: len(text) - cut])
    check_reading(file, on_error)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), on_error=st.sampled_from(["stop", "skip"]))
def test_any_bytes_give_prompts_or_a_data_error(tmp_path_factory, data, on_error):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    (folder / "p.jsonl").write_bytes(data)
    check_reading(folder / "p.jsonl", on_error)


def check_reading(file, on_error):
    try:
        prompts = read_prompts(file, on_error=on_error)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(prompt, Prompt) and prompt.question for prompt in prompts)


def test_a_file_name_that_is_no_text_is_one_bad_row(tmp_path):
    """A folder of images from an archive: bytes that are not UTF-8, a line break, a terminal's escape."""
    names = [b"a\xe2\x80\xaf.png", b"b\xff.png", b"c\nd.png", b"e\x1b[31m.png"]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / os.fsdecode(name))
    with pytest.raises(DataError, match=r"'.*b\\udcff\.png': the name must be") as caught:
        read_prompts(tmp_path, question="What is it?").sha256  # noqa: B018
    assert caught.value.reason == "bad_text"
    found = read_prompts(tmp_path, question="What is it?", on_error="skip")
    assert [prompt.id for prompt in found] == ["a\u202f.png"]
    assert [dropped.reason for dropped in found.dropped] == ["bad_text"] * 3


def test_fields_that_are_no_images_are_left_alone(folder):
    row = llava("1", None, "What is in a.png?", "It is in photo.png") | {
        "image_id": "COCO_7",
        "image_size": [640, 480],
        "caption": "from a.png",
        "scores": {"x": 1},
        "deep": json.loads("[" * 900 + "]" * 900),
    }
    other = {"question": "Why?", "completions": ["see a.png", "see b.png"], "source": "coco.png", "image_width": 3}
    assert read_prompts(write(folder, [row]))[0].images == ()
    assert read_prompts(write(folder, [other]))[0].images == ()


def test_an_image_column_beside_the_one_that_is_read_is_named_once(folder, caplog):
    rows = [llava(str(n), "a.png", "<image>\nWhat?") | {"right_image": "b.png", "image_id": "7"} for n in range(3)]
    for name in ("p.json", "p.jsonl"):
        caplog.clear()
        assert len(read_prompts(write(folder, rows, name))) == 3
        assert caplog.text.count("'right_image' names an image too and is not read") == 1
        assert "image_id" not in caplog.text
        with pytest.raises(DataError, match=r"'right_image' names an image .* and is not read: call it 'image'"):
            read_prompts(write(folder, [*rows, llava("x", None, "What?") | {"right_image": "b.png"}], name))
