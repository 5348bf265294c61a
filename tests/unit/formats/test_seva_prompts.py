"""SeVa's prompts from a file like LLaVA-665k, by the rules of its authors' public code, worked by hand.

Of `ocr_vqa/` rows the sentence that asks for a short answer goes, of `textvqa/` rows nothing does (2404.10501, §4.1).
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairsight.cli.flags import one_or_named_paths
from pairsight.errors import ConfigError, DataError
from pairsight.formats.dialogue import Dialogue, Question
from pairsight.formats.prompts import detect_format, read_prompts
from pairsight.formats.sampler import draw
from pairsight.options import BuildOptions

SHORT = "Answer the question using a single word or phrase."
CAPTION = "Provide a one-sentence caption for the provided image.\nReference OCR token: "


def turns(*questions):
    return [
        turn
        for question in questions
        for turn in ({"from": "human", "value": question}, {"from": "gpt", "value": "Yes"})
    ]


ROWS = [
    {
        "id": "1",
        "image": "ocr_vqa/images/1497451612.jpg",
        "conversations": turns(f"<image>\nWho wrote this book?\n{SHORT}", "What is the title of this book?"),
    },
    {"id": "2", "image": "textvqa/train_images/aea9.jpg", "conversations": turns(f"<image>\n{CAPTION}NOIR, 2013")},
    {
        "id": "3",
        "image": "textvqa/train_images/4e15.jpg",
        "conversations": turns(f"<image>\n{CAPTION}13\n{SHORT}"),
    },
    {"id": "4", "image": "coco/train2017/9.jpg", "conversations": turns(f"<image>\nIs it red?\n{SHORT}")},
]
BY_HAND = {
    "1#1": "Who wrote this book?",
    "1#2": "What is the title of this book?",
    "2#1": "Provide a one-sentence caption for the provided image.\nReference OCR token: NOIR, 2013",
    "3#1": "Provide a one-sentence caption for the provided image.\nReference OCR token: 13\n"
    "Answer the question using a single word or phrase.",
}


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    for number, row in enumerate(ROWS):
        file = tmp_path / "images" / row["image"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number * 9, 0, 0)).save(file)
    (tmp_path / "mix.json").write_text(json.dumps(ROWS))
    return tmp_path


def texts(prompts):
    return {prompt.id: prompt.question for prompt in prompts}


def test_the_prompts_are_those_worked_by_hand(mix):
    prompts = read_prompts(
        mix / "mix.json",
        mix / "images",
        sources=("ocr_vqa/", "textvqa/"),
        questions_per_dialogue=2,
        per_source=8000,
        strip_short_answer=("ocr_vqa/",),
    )
    assert texts(prompts) == BY_HAND
    assert [prompt.source for prompt in prompts] == ["ocr_vqa/", "ocr_vqa/", "textvqa/", "textvqa/"]
    stripped = read_prompts(mix / "mix.json", mix / "images", sources=("textvqa/",), strip_short_answer=True)
    assert texts(stripped) == {"2": "Reference OCR token: NOIR, 2013", "3": "Reference OCR token: 13"}


def test_a_folder_a_source(mix):
    (mix / "images/ocr_vqa").rename(mix / "books")
    (mix / "images/textvqa/train_images").rename(mix / "signs")
    folders = {"ocr_vqa": str(mix / "books"), "textvqa/train_images/": str(mix / "signs"), "": str(mix / "images")}
    prompts = read_prompts(mix / "mix.json", folders)
    assert [prompt.images[0] for prompt in prompts] == [
        prompts.images.refs([row["image"]])[row["image"]] for row in ROWS
    ]
    assert prompts.images.path(prompts[0].images[0]) == mix / "books/images/1497451612.jpg"
    assert prompts.images.open(prompts[1].images[0]).size == (4, 4)
    with pytest.raises(DataError, match=r"image coco/train2017/9.jpg is of no source that --images has a folder for"):
        read_prompts(mix / "mix.json", {name: one for name, one in folders.items() if name})
    assert "lies outside" in str(prompts.images.refs(["ocr_vqa/../mix.json"])["ocr_vqa/../mix.json"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strip_short_answer": ("ocrvqa/",)},
            r"strip_short_answer names 'ocrvqa/', and no row is of it; the rows are",
        ),
        ({"sources": ("ocr_vqa/", "gqa/")}, r"--sources names 'gqa/'.* 'textvqa' \(2 rows\)"),
        ({"images": {"gqa": "images", "": "images"}}, r"--images names 'gqa/', and no row is of it"),
    ],
)
def test_a_source_that_no_row_is_of_is_an_error(mix, options, message):
    images = options.pop("images", None)
    folders = mix / "images" if images is None else {name: str(mix / one) for name, one in images.items()}
    with pytest.raises(DataError, match=message):
        read_prompts(mix / "mix.json", folders, **options)


def test_its_question_lists_are_read_several_at_once(mix):
    books, signs = mix / "ocrvqa_image_question_list_8k.json", mix / "textvqa_image_question_list_8k.json"
    books.write_text(
        '{"image": "1497451612.jpg", "text": "Is this a religious book?"}\n'
        '{"image": "1497451612.jpg", "text": "Is this a romantic book?"}\n'
    )
    signs.write_text(json.dumps({"image": "aea9.jpg", "text": f"{CAPTION}NOIR, 2013"}) + "\n")
    assert detect_format(books) == "question_list"
    folders = {"books": str(mix / "images/ocr_vqa/images"), "signs": str(mix / "images/textvqa/train_images")}
    prompts = read_prompts({"books": str(books), "signs": str(signs)}, folders, limit=3)
    assert texts(prompts) == {
        "books/row-1": "Is this a religious book?",
        "books/row-2": "Is this a romantic book?",
        "signs/row-1": f"{CAPTION}NOIR, 2013",
    }
    assert [prompt.source for prompt in prompts] == ["books", "books", "signs"]
    alone = read_prompts(books, mix / "images/ocr_vqa/images")
    assert [prompt.id for prompt in alone] == ["row-1", "row-2"]
    with pytest.raises(ConfigError, match="2 files of prompts need --images"):
        read_prompts({"books": str(books), "signs": str(signs)})
    signs.write_text('{"text": "What?"}\n')
    with pytest.raises(DataError, match="no 'image' beside 'text'"):
        read_prompts(signs)


def test_complete_dialogues_keep_their_questions_together():
    questions = tuple(Question(f"Question {number}?", ("books/a.jpg",)) for number in range(5))
    dialogues = [Dialogue(f"d{number}", "", questions, "books") for number in range(40)]
    drawn = draw(dialogues, questions_per_dialogue=2, per_source=8, complete_dialogues=True)
    by_dialogue: dict[str, int] = {}
    for one in drawn:
        by_dialogue[one.dialogue.id] = by_dialogue.get(one.dialogue.id, 0) + 1
    assert list(by_dialogue.values()) == [2, 2, 2, 2], "4 dialogues with both of their questions, as the authors draw"
    apart = draw(dialogues, questions_per_dialogue=2, per_source=8)
    assert len({one.dialogue.id for one in apart}) > 4
    again = draw(dialogues[::-1], questions_per_dialogue=2, per_source=8, complete_dialogues=True)
    assert {one.id for one in drawn} == {one.id for one in again}, "whatever the order of the rows"


def test_flags_take_one_folder_or_one_a_source(tmp_path):
    (tmp_path / "a=b").mkdir()
    assert one_or_named_paths([f"{tmp_path}/a=b/"], "--images") == f"{tmp_path}/a=b"
    assert one_or_named_paths(["images/"], "--images") == "images"
    assert one_or_named_paths(["ocr_vqa=x", "y"], "--images") == {"ocr_vqa": "x", "": "y"}
    with pytest.raises(ConfigError, match="name the source of each"):
        one_or_named_paths(["x", "y"], "--images")
    with pytest.raises(ConfigError, match="names 'a' twice"):
        one_or_named_paths(["a=x", "a=y"], "--images")


def test_strip_short_answer_is_true_false_or_sources():
    def parsed(value):
        return BuildOptions.parse({"recipe": "seva", "model": "m", "out": "o", "strip_short_answer": value})

    assert parsed(True).strip_short_answer is True
    assert parsed("ocr_vqa/").strip_short_answer == ("ocr_vqa/",)
    assert parsed(["ocr_vqa/", "gqa/"]).strip_short_answer == ("ocr_vqa/", "gqa/")
    for value in ("", ["ocr_vqa/", " "]):
        with pytest.raises(ConfigError, match="an empty source names every row"):
            parsed(value)


def test_complete_dialogues_without_a_number_to_draw_are_refused():
    with pytest.raises(ConfigError, match="complete_dialogues says how per_source draws"):
        BuildOptions.parse({"recipe": "seva", "model": "m", "out": "o", "complete_dialogues": True})
