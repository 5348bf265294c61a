"""The line that ends every question: kept in a folder, put below prompts, part of the fingerprint."""

import hashlib
import json
import pickle

import pytest
from PIL import Image

from pairsight.errors import ModelError
from pairsight.images.source import FileImages
from pairsight.models.folders import prompt_suffix_json, read_prompt_suffix
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Sampling
from pairsight.pipeline.models import open_generator
from pairsight.records import Completion, CompletionRequest, ItemError, Message, Prompt
from pairsight.tiny.models.shipped import shipped_model

LINE = "Describe it."
GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (32, 32), (200, 60, 20)).save(folder / "a.png")
    return FileImages(folder)


def request(images, *texts, name="a"):
    first, *others = texts
    messages = (Message("user", first, (images.ref("a.png"),)), *(Message("user", text) for text in others))
    return CompletionRequest(Prompt(name, messages), seed=3)


def test_the_line_stands_below_the_last_message(images):
    plain, asked = (LocalVLM(shipped_model("base"), images, prompt_suffix=line) for line in ("", LINE))
    (by_hand,) = plain.generate([request(images, f"What is it?\n{LINE}")], GREEDY)
    unknown = CompletionRequest(Prompt("bad", request(images, "x").prompt.messages), images=())
    made, bad = asked.generate([request(images, "What is it?"), unknown], GREEDY)
    assert isinstance(by_hand, Completion)
    assert isinstance(made, Completion)
    assert (made.text, made.id, made.seed) == (by_hand.text, "a:0", 3)
    assert isinstance(bad, ItemError)
    assert bad.reason == "image_count"
    assert (by_hand.model, made.model) == (plain.fingerprint, asked.fingerprint)
    assert asked.asked(request(images, "One", "Two").prompt).messages[-1].text == f"Two\n{LINE}"
    assert plain.asked(request(images, "One").prompt) == request(images, "One").prompt


def test_fingerprints_distinguish_lines_and_models(images):
    plain, first, second = (LocalVLM(shipped_model("base"), images, prompt_suffix=line) for line in ("", "a", "b"))
    assert len({plain.fingerprint, first.fingerprint, second.fingerprint}) == 3
    both = json.dumps([plain.fingerprint, "a"]).encode()
    assert first.fingerprint == "sha256:" + hashlib.sha256(both).hexdigest()
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint


def test_a_folders_line_is_part_of_the_model_that_is_opened(images, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "inference.json").write_bytes(prompt_suffix_json(LINE))
    opened = open_generator(shipped_model("base"), images, adapter=str(adapter))
    assert isinstance(opened, LocalVLM)
    assert (opened.prompt_suffix, opened.adapter) == (LINE, str(adapter))
    base = open_generator(shipped_model("base"), images)
    assert isinstance(base, LocalVLM)
    assert base.prompt_suffix == ""


def test_a_folder_keeps_its_line(tmp_path):
    assert read_prompt_suffix(tmp_path) == ""
    (tmp_path / "inference.json").write_bytes(prompt_suffix_json("Größe: {x}"))
    assert read_prompt_suffix(tmp_path) == "Größe: {x}"
    assert read_prompt_suffix("owner/name") == ""
    (tmp_path / "inference.json").write_text('{"prompt_suffix": 3}')
    with pytest.raises(ModelError, match="'prompt_suffix' must be text, found int"):
        read_prompt_suffix(tmp_path)
