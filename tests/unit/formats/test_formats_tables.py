import base64
import io
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from made_tables import pairs_table
from pairsight.errors import DataError
from pairsight.formats import record_tables, tables
from pairsight.formats.pairs import pair_files, read_pairs
from pairsight.formats.tables import num_words
from pairsight.formats.trl import (
    DEMONSTRATIONS_SCHEMA,
    PAIRS_SCHEMA,
    demonstration_batches,
    from_plain,
    to_plain,
)
from pairsight.images.distort import make_distortion
from pairsight.images.source import FileImages, UnpackedImages
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    Demonstration,
    Dropped,
    ImageRef,
    Message,
    PreferencePair,
    Prompt,
    from_json,
    to_json,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for index, name in enumerate(("a.png", "b.jpg")):
        Image.new("RGB", (4, 4), (index * 90, 0, 0)).save(root / name)
    return FileImages(root)


def completion(prompt_id, index, text, images=None):
    return Completion(f"{prompt_id}:{index}", prompt_id, text, "stop", "model", 7, index, images)


def some_pairs(images):
    first = Prompt("p1", (Message("user", "What?", (images.ref("a.png"),)),), "coco")
    noisy = (ImageRef(images.ref("a.png").sha256, make_distortion("diffusion", 3, step=500)),)
    second = Prompt(
        "p2",
        (
            Message("system", "Be brief."),
            Message("user", "Compare <image> and <image>.", (images.ref("a.png"), images.ref("b.jpg"))),
        ),
    )
    chosen = completion("p1", 0, "A red dot.")
    return (
        PreferencePair(
            "p1",
            first,
            chosen,
            (completion("p1", 1, "Dot.", noisy), completion("p1", 2, "A blue dot there.", noisy)),
            "clean_over_distorted",
            (Annotation("p1:0", "judge", {"helpfulness": 4.0}, "good"),),
            contrast_images=noisy,
        ),
        PreferencePair("p2", second, completion("p2", 0, "Same."), (completion("p2", 3, "Other."),), "x", weight=0.5),
        PreferencePair(
            "p3", Prompt("p3", (Message("user", "2+2?"),)), completion("p3", 0, "4"), (completion("p3", 1, "5"),), "x"
        ),
    )


def test_one_row_per_rejected_completion(images):
    table = pairs_table(some_pairs(images), images)
    assert table.schema == PAIRS_SCHEMA
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["p1#0", "p1#1", "p2", "p3"]
    assert rows[1]["rejected"] == [{"role": "assistant", "content": [{"type": "text", "text": "A blue dot there."}]}]
    assert rows[0]["prompt"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}
    ]
    assert [part["type"] for part in rows[2]["prompt"][1]["content"]] == ["text", "image", "text", "image", "text"]
    assert [len(row["images"]) for row in rows] == [1, 1, 2, 0]
    assert rows[0]["images"][0]["bytes"] == images.path(images.ref("a.png")).read_bytes()
    assert (rows[1]["chosen_words"], rows[1]["rejected_words"]) == (3, 4)
    assert (rows[0]["chosen_scores"], rows[0]["rejected_scores"]) == ('{"helpfulness": 4.0}', None)
    assert [row["record"] is not None for row in rows] == [True, False, True, True]


def test_pairs_come_back_as_they_were(images, tmp_path):
    pairs = some_pairs(images)
    pq.write_table(pairs_table(pairs, images), tmp_path / "pairs-00000.parquet")
    for path in (tmp_path, tmp_path / "pairs-00000.parquet"):
        again = read_pairs(path)
        assert tuple(again) == pairs
        assert again.images.open(pairs[1].prompt.images[1]).getpixel((0, 0))[0] > 60
    assert read_pairs(tmp_path, images).images is images


def test_tables_are_deterministic(images):
    def written() -> bytes:
        out = io.BytesIO()
        pq.write_table(pairs_table(some_pairs(images), images), out)
        return out.getvalue()

    assert written() == written()


def test_datasets_sees_images(images, tmp_path):
    datasets = pytest.importorskip("datasets")
    pq.write_table(pairs_table(some_pairs(images), images), tmp_path / "pairs.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "pairs.parquet"), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert loaded.features["images"] == datasets.List(datasets.Image())
    assert loaded[0]["images"][0].size == (4, 4)
    assert loaded[2]["prompt"][0]["content"] == [{"type": "text", "text": "Be brief."}]


def test_distorted_prompts_and_missing_images_are_refused(images):
    pair = some_pairs(images)[0]
    noisy = Prompt("p1", (Message("user", "What?", pair.contrast_images),))
    with pytest.raises(DataError, match="distorted"):
        pairs_table([PreferencePair("p1", noisy, pair.chosen, pair.rejected, "x")], images)
    lost = Prompt("p1", (Message("user", "What?", (ImageRef("0" * 64),)),))
    with pytest.raises(DataError, match="not among those read"):
        pairs_table([PreferencePair("p1", lost, pair.chosen, pair.rejected, "x")], images)


def trl_row(**changes):
    row = {"id": "7", "prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    return row | changes


def test_foreign_trl_tables(images, tmp_path):
    data = images.path(images.ref("a.png")).read_bytes()
    user = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Why?"}]}]
    assistant = [{"role": "assistant", "content": [{"type": "text", "text": "Because."}]}]
    worse = [{"role": "assistant", "content": [{"type": "text", "text": "No."}]}]
    rows = [{"prompt": user, "chosen": assistant, "rejected": worse, "images": [{"bytes": data, "path": None}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (pair,) = read_pairs(tmp_path / "a.parquet")
    assert (pair.id, pair.prompt.question, pair.chosen.text, pair.rejected[0].text) == (
        "row-1",
        "Why?",
        "Because.",
        "No.",
    )
    assert pair.prompt.images == (images.ref("a.png"),)
    pq.write_table(pa.Table.from_pylist([trl_row()]), tmp_path / "b.parquet")
    (pair,) = read_pairs(tmp_path / "b.parquet")
    assert (pair.id, pair.prompt.question, pair.prompt.images) == ("7", "Why?", ())


def test_images_named_beside_the_table(images, tmp_path):
    rows = [trl_row(images=[{"bytes": None, "path": "images/a.png"}])]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = ("id", "prompt", "chosen", "rejected")
    schema = pa.schema([*((name, pa.string()) for name in names), ("images", pa.list_(image))])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "c.parquet")
    (pair,) = read_pairs(tmp_path / "c.parquet")
    assert pair.prompt.messages[0].images == (images.ref("a.png"),)


SPELLINGS = {
    "struct": lambda data: {"bytes": data, "path": None},
    "bytes": lambda data: data,
    "name": lambda data: "images/a.png",
    "path": lambda data: {"bytes": None, "path": "images/a.png"},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("column", ["image", "images"])
def test_an_image_may_be_a_column_of_its_own_or_a_list_in_every_spelling(images, tmp_path, column, spelling):
    value = SPELLINGS[spelling](images.path(images.ref("a.png")).read_bytes())
    rows = [trl_row(**{column: value if column == "image" else [value]}), trl_row(id="8", **{column: None})]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with_one, without = read_pairs(tmp_path / "a.parquet")
    assert with_one.prompt.images == (images.ref("a.png"),)
    assert without.prompt.images == ()


def test_what_datasets_writes_for_a_column_image_is_read(images, tmp_path):
    import datasets

    features = datasets.Features({name: datasets.Value("string") for name in trl_row()} | {"image": datasets.Image()})
    made = datasets.Dataset.from_list([trl_row(image=str(images.path(images.ref("b.jpg"))))], features=features)
    made.to_parquet(tmp_path / "a.parquet")
    (pair,) = read_pairs(tmp_path / "a.parquet")
    assert pair.prompt.images == (images.ref("b.jpg"),)


@pytest.mark.parametrize(
    "changes",
    [{"picture": b"..."}, {"img": {"bytes": b"...", "path": None}}, {"photos": [{"bytes": b"..."}]},
     {"image_path": "a.png"}, {"files": ["a.jpg", "b.JPEG"]}],
)  # fmt: skip
def test_images_in_a_column_of_another_name_are_not_dropped_in_silence(tmp_path, changes):
    pq.write_table(pa.Table.from_pylist([trl_row(**changes)]), tmp_path / "a.parquet")
    (column,) = changes
    with pytest.raises(DataError, match=f"column '{column}' holds images and is not read: call it 'images' or 'image'"):
        read_pairs(tmp_path / "a.parquet")


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
IMAGE_COLUMNS = [
    {"image_b64": PNG},
    {"scan": base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(range(60))).decode()},
    {"scan": f"data:image/png;base64,{PNG}"},
    {"picture": {"path": "images/0"}},
    {"picture": {"url": "https://example.org/200"}},
    {"scan": {"bytes": None, "path": "0"}},
    {"scan": {"file": {"url": "a.jpg"}}},
    {"image_info": {"url": "https://example.org/a.jpg?size=1"}},
    {"imageUrl": "https://example.org/200"},
    {"link": "https://example.org/a.JPG?size=1#x"},
    {"image_name": "COCO_000123"},
    {"imgs": ["000123", None]},
    {"image1": "0001"},
    {"photo": [{"file": "x"}]},
    {"pixels": [[0.1, 0.2], [0.3, 0.4]]},
    {"pixel_values": [0.1, 0.2]},
    {"left_image": [[[1, 2, 3]]]},
    {"history": [{"role": "user", "content": [{"type": "image", "image": "000123"}]}]},
    {"Image": "0001"},
    {"source_image": "0001"},
    {"query_images": ["0001"]},
    {"image_array": [0.5] * 48},
]
"""Each holds an image, by what it holds or by its name."""


@pytest.mark.parametrize("changes", IMAGE_COLUMNS)
@pytest.mark.parametrize("rows_before", [0, 300])
def test_an_image_column_of_any_form_in_any_row_is_refused_with_its_name_and_row(tmp_path, changes, rows_before):
    (column,) = changes
    rows = [trl_row(id=f"r{number}", **{column: None}) for number in range(rows_before)]
    pq.write_table(pa.Table.from_pylist([*rows, trl_row(**changes)]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column '") as caught:
        read_pairs(tmp_path / "a.parquet")
    found = str(caught.value)
    assert found.startswith(f"{tmp_path / 'a.parquet'} row {rows_before + 1} (id '7'): column '{column}' holds images")
    assert "call it 'images' or 'image'" in found
    assert "save base64 text, pixels and web addresses as files first" in found
    assert (caught.value.reason, "\n" in found) == ("unread_image", False)


def test_columns_that_are_no_images_are_left_alone(tmp_path, caplog):
    others = {
        "question": "Is it in a photo?",
        "answer": "https://example.org/about",
        "source": "COCO/train",
        "image_id": "COCO_7",
        "image_size": [640, 480],
        "image_width": 640,
        "num_images": 1,
        "has_image": True,
        "image_caption": "sunset",
        "image_description": {"en": "sunset", "de": "Abend"},
        "image_source": "flickr",
        "images_count": "2",
        "num_images_used": "2",
        "image_range": [0, 1],
        "photographer": "Ann",
        "imagination": "high",
        "embedding": [0.1, 0.2],
        "boxes": [[0, 1, 2, 3]],
        "image_boxes": [[0, 1, 2, 3]],
        "origin_split": "train",
        "caption": "look at cat.png",
        "tags": ["a", "b"],
        "scores": {"helpful": 3.0},
        "picture": "A red house on a hill.",
        "img": 17,
        "text": "becauseitisoneverylongwordofletters",
        "url": "https://example.org/page",
        "image_url": None,
        "img_path": "",
        "notes": ["see", "a.png"],
        "empty": [],
        "weight": 1.5,
        "meta": {"path": "data/7", "lang": "en"},
    }
    pq.write_table(pa.Table.from_pylist([trl_row(**others)]), tmp_path / "a.parquet")
    (pair,) = read_pairs(tmp_path / "a.parquet")
    assert (pair.prompt.question, pair.prompt.images, caplog.text) == ("Why?", (), "")


def test_an_empty_list_of_images_does_not_hide_another_column(tmp_path):
    rows = [trl_row(images=[], picture="a.png"), trl_row(images=["b.png"], picture="a.png")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 .*column 'picture' holds images"):
        read_pairs(tmp_path / "a.parquet")


@pytest.mark.parametrize("text", [PNG, f"data:image/png;base64,{PNG}", "https://example.org/a.png"])
def test_what_is_no_file_in_the_images_own_column_is_named(tmp_path, text):
    for changes in ({"image": text}, {"images": [text]}):
        pq.write_table(pa.Table.from_pylist([trl_row(**changes)]), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"row 1 .* instead of an image's bytes or name; .* save base64 text"):
            read_pairs(tmp_path / "a.parquet")


def test_columns_of_bytes_beside_the_images_are_named(images, tmp_path, caplog):
    data = images.path(images.ref("a.png")).read_bytes()
    pq.write_table(pa.Table.from_pylist([trl_row(image=data, mask=b"...", image_path="a.png")]), tmp_path / "a.parquet")
    (pair,) = read_pairs(tmp_path / "a.parquet")
    assert pair.prompt.images == (images.ref("a.png"),)
    assert "column 'mask' holds bytes and is not read; images are taken from 'image'" in caplog.text
    assert caplog.text.count("'image_path' holds images and is not read; images are taken from 'image'") == 1
    rows = [trl_row(image=data, image_path="a.png"), trl_row(id="8", image=None, image_path="a.png")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 2 \(id '8'\): column 'image_path' holds images"):
        read_pairs(tmp_path / "a.parquet")


def test_a_foreign_tables_own_images_are_not_replaced(images, tmp_path):
    pq.write_table(pa.Table.from_pylist([trl_row(image=b"...")]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="brings its images itself, in 'image'"):
        read_pairs(tmp_path / "a.parquet", images)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (trl_row(chosen=""), r"row 1 \(id '7'\): 'chosen' is empty"),
        (trl_row(rejected=None), "'rejected' must be text or a list of messages"),
        (trl_row(prompt=3), "'prompt' must be text or a list of messages"),
        (trl_row(images=[{"bytes": b"xx", "path": "x.png"}]), "damaged, or not a picture"),
        (trl_row(images=[{"bytes": None, "path": "gone.png"}]), "does not exist"),
        (trl_row(images="a.png"), "'images' must be a list"),
        (trl_row(images=[3]), "'images' must hold bytes, file names or"),
        (trl_row(image={"bytes": None, "path": None}), "'image' must hold bytes, file names or"),
        (trl_row(image="a.png", images=["a.png"]), "has both 'image' and 'images'"),
        (trl_row(record='{"id": 3}'), "holds no PreferencePair"),
        ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
    ],
)
def test_bad_rows_of_tables(tmp_path, row, message):
    file = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist([row]), file)
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(file)
    assert str(file) in str(caught.value)


def test_ids_are_unique_over_all_files(tmp_path):
    for name in ("a", "b"):
        pq.write_table(
            pa.Table.from_pylist([{"prompt": "a", "chosen": "b", "rejected": "c"}]), tmp_path / f"{name}.parquet"
        )
    assert [pair.id for pair in read_pairs(tmp_path)] == ["row-1", "row-2"]
    pq.write_table(pa.Table.from_pylist([trl_row(), trl_row()]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="the id '7' is used 2 times"):
        read_pairs(tmp_path)


def test_files_that_hold_no_pairs(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_pairs(tmp_path / "gone")
    with pytest.raises(DataError, match="holds no pairs"):
        read_pairs(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_pairs(tmp_path)
    pq.write_table(pa.Table.from_pylist([trl_row()])[:0], tmp_path / "x.parquet")
    with pytest.raises(DataError, match="holds no preference pairs"):
        read_pairs(tmp_path)


def test_pair_files_of_a_run(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("pairs-00001.parquet", "pairs-00000.parquet", "completions-00000.parquet"):
        (tmp_path / "data" / name).write_bytes(b"")
    assert [file.name for file in pair_files(tmp_path)] == ["pairs-00000.parquet", "pairs-00001.parquet"]


def test_demonstrations(images):
    pair = some_pairs(images)[0]
    demonstration = Demonstration("p1", pair.prompt, pair.chosen, "rejection_sampling")
    table = pa.Table.from_batches(demonstration_batches([demonstration], images), DEMONSTRATIONS_SCHEMA)
    (row,) = table.to_pylist()
    assert row["completion"][0]["content"][0]["text"] == "A red dot."
    assert from_json(Demonstration, row["record"], "x") == demonstration


def test_plain_tables(images, tmp_path):
    pair = some_pairs(images)[0]
    candidates = Candidates(pair.prompt, (pair.chosen, *pair.rejected), pair.annotations)
    for batches, schema, name in (
        (tables.candidates_batches([candidates]), tables.CANDIDATES_SCHEMA, "candidates"),
        (tables.completion_batches(candidates.completions), tables.COMPLETIONS_SCHEMA, "completions"),
        (tables.annotation_batches(candidates.annotations), tables.ANNOTATIONS_SCHEMA, "annotations"),
        (tables.dropped_batches([Dropped("p9", "select", "margin", "1 < 2")]), tables.DROPPED_SCHEMA, "dropped"),
    ):
        pq.write_table(pa.Table.from_batches(batches, schema), tmp_path / f"{name}.parquet")
    assert list(record_tables.read_candidates([tmp_path / "candidates.parquet"])) == [candidates]
    rows = pq.read_table(tmp_path / "completions.parquet").to_pylist()
    assert [row["distortion"] for row in rows] == [None, "diffusion step=500", "diffusion step=500"]
    assert pq.read_table(tmp_path / "dropped.parquet").to_pylist()[0]["reason"] == "margin"
    with pytest.raises(DataError, match="holds no Candidates"):
        list(record_tables.read_candidates([tmp_path / "dropped.parquet"]))


def test_empty_tables_keep_their_schema():
    assert pairs_table([], UnpackedImages()).schema == PAIRS_SCHEMA


def test_records_survive_json():
    annotation = Annotation("p:0", "judge", {"a": math.nan, "b": math.inf, "c": 0.1}, "<b>\u202e\0é")
    again = from_json(Annotation, to_json(annotation), "x")
    assert math.isnan(again.scores["a"])
    assert (again.scores["b"], again.scores["c"], again.critique) == (math.inf, 0.1, annotation.critique)
    with pytest.raises(DataError, match="x holds no Annotation"):
        from_json(Annotation, '{"annotator": "a"}', "x")


REFS = [ImageRef(str(index) * 64) for index in range(3)]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: text.replace("<image>", ""))


@settings(max_examples=200, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), texts.map(str.strip).filter(bool)), min_size=1, max_size=4
    ),
    num_images=st.integers(0, 3),
)
def test_messages_survive_the_chat_form(turns, num_images):
    if not any(role == "user" for role, _ in turns):
        turns.append(("user", "x"))
    first = next(index for index, (role, _) in enumerate(turns) if role == "user")
    messages = tuple(
        Message(role, text, tuple(REFS[:num_images]) if index == first else ())
        for index, (role, text) in enumerate(turns)
    )
    plain = [to_plain(message) for message in messages]
    again = from_plain(plain, REFS[:num_images], "x")
    assert [to_plain(message) for message in again] == plain
    assert [message.images for message in again] == [message.images for message in messages]


def test_words():
    assert num_words("A red  dot.\n") == 3
    assert num_words("") == 0
    assert num_words("红色 dot") == 3
