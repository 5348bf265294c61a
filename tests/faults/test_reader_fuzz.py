"""Proof 7 of what we promise: thousands of damaged files give records or one clear line, never another error."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from made_tables import pairs_table
from pairsight.errors import DataError
from pairsight.formats.answer_files import read_answer_files
from pairsight.formats.completions import read_completions
from pairsight.formats.pairs import read_pairs
from pairsight.formats.prompts import read_prompts
from pairsight.images.load import open_image
from pairsight.images.source import FileImages
from pairsight.records import Completion, Message, PreferencePair, Prompt

pytestmark = pytest.mark.long
many = settings(
    max_examples=4000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
edits = st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=0, max_size=4), st.integers(0, 6)), max_size=5)


def damaged(data: bytes, changes) -> bytes:
    """Some bytes replaced by others, at offsets given as shares of the length; the text may shrink or grow."""
    for share, new, removed in changes:
        offset = int(share * len(data))
        data = data[:offset] + new + data[offset + removed :]
    return data


def one_line(read, *arguments, **options):
    try:
        return read(*arguments, **options)
    except DataError as error:
        assert "\n" not in str(error)
        assert error.reason
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(root / "a.png")
        yield root


LLAVA = [
    {
        "id": f"{index}",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is “this”?"},
            {"from": "gpt", "value": "Ein Punkt"},
        ],
    }
    for index in range(3)
]
GIVEN = [{"id": "1", "image": "a.png", "question": "What?", "completions": ["a", {"text": "b", "model": "m"}]},
         {"id": "2", "question": "Why?", "chosen": "a", "rejected": ["b", "c"]}]  # fmt: skip


@many
@given(edits, st.sampled_from(["stop", "skip"]), st.booleans())
def test_prompts(folder, changes, on_error, lines):
    text = "\n".join(map(json.dumps, LLAVA)) if lines else json.dumps(LLAVA, ensure_ascii=False)
    (folder / "p.json").write_bytes(damaged(text.encode(), changes))
    one_line(read_prompts, folder / "p.json", on_error=on_error, questions_per_dialogue=1)


@many
@given(edits, st.sampled_from(["stop", "skip"]))
def test_completions(folder, changes, on_error):
    (folder / "c.jsonl").write_bytes(damaged("\n".join(map(json.dumps, GIVEN)).encode(), changes))
    one_line(read_completions, folder / "c.jsonl", on_error=on_error)


LISTED = [{"image": "a.png", "text": "What is “this”?"}, {"image": "a.png", "text": "Why?"}]
ANSWERED = [{"question": "What?", "answer": f"{text}</s>", "image_id": "a.png"} for text in ("A dot.", "A cat.")]


@many
@given(edits, st.sampled_from(["stop", "skip"]))
def test_question_lists(folder, changes, on_error):
    (folder / "q.jsonl").write_bytes(damaged("\n".join(map(json.dumps, LISTED)).encode(), changes))
    one_line(read_prompts, folder / "q.jsonl", on_error=on_error)


@many
@given(edits, edits, st.sampled_from(["stop", "skip"]))
def test_answer_files(folder, changes, others, on_error):
    text = "\n".join(map(json.dumps, ANSWERED)).encode()
    (folder / "clean.jsonl").write_bytes(damaged(text, changes))
    (folder / "noisy.jsonl").write_bytes(damaged(text, others))
    one_line(read_answer_files, str(folder / "clean.jsonl"), [str(folder / "noisy.jsonl")], on_error=on_error)


@many
@given(changes=edits)
def test_pairs(folder, changes):
    images = FileImages(folder)
    prompt = Prompt("p", (Message("user", "What?", (images.ref("a.png"),)),))
    chosen, rejected = (Completion(f"p:{k}", "p", text, "stop", "m", 0, k) for k, text in enumerate("ab"))
    out = io.BytesIO()
    pq.write_table(pairs_table([PreferencePair("p", prompt, chosen, (rejected,), "x")], images), out)
    (folder / "pairs.parquet").write_bytes(damaged(out.getvalue(), changes))
    one_line(lambda path: list(read_pairs(path)), folder / "pairs.parquet")


@many
@given(edits, st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"]))
def test_images(changes, kind):
    out = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(out, kind)
    image = one_line(open_image, damaged(out.getvalue(), changes), "fuzz")
    assert image is None or image.mode == "RGB"
