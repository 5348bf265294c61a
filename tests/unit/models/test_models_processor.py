"""Prompts become tokens and pixels in one module: marks, templates, distortions, completions."""

import json
from pathlib import Path

import pytest
import torch

import families
from family_prompts import Pictures, ask
from pairsight.errors import DataError, ModelError
from pairsight.images.distort import apply_normalised, make_distortion
from pairsight.models.local.chat import chat_text
from pairsight.models.local.processor import completions_ids, encode, load_processor, stop_ids
from pairsight.records import ImageRef, Message, Prompt

PICTURES = Pictures()


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return load_processor(families.build("llava", tmp_path_factory.mktemp("llava")))


def test_images_stand_before_the_text_or_where_its_marks_say(llava):
    a, b = PICTURES.ref(1), PICTURES.ref(2)
    assert chat_text(llava, ask("p", "What?", a)) == "user: <image>What?</s>\nassistant:"
    assert chat_text(llava, ask("p", "Is <image> like <image>?", a, b)) == (
        "user: Is <image> like <image>?</s>\nassistant:"
    )
    assert chat_text(llava, ask("p", "What?", a, b)) == "user: <image><image>What?</s>\nassistant:"


def test_all_turns_are_written(llava):
    prompt = Prompt("p", (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Go")))
    assert chat_text(llava, prompt) == "user: Hi</s>\nassistant: Yes?</s>\nuser: Go</s>\nassistant:"


@pytest.mark.parametrize(("text", "count"), [("<image> what?", 0), ("<image><image>", 1), ("a <image> b", 2)])
def test_marks_that_do_not_fit_the_images_are_refused(llava, text, count):
    images = [PICTURES.ref(number) for number in range(count)]
    with pytest.raises(DataError, match=rf"prompt 'p7'.* {text.count('<image>')} <image> marks and {count} images"):
        chat_text(llava, ask("p7", text, *images))


def test_a_prompt_becomes_its_template_s_bytes_and_sixteen_image_tokens(llava):
    encoded = encode(llava, ask("p", "What?", PICTURES.ref(1)), PICTURES)
    words = llava.tokenizer
    image = words.convert_tokens_to_ids("<image>")
    written = "user: " + "<image>" * 16 + "What?</s>\nassistant:"
    assert encoded.input_ids == [1, *words(written, add_special_tokens=False)["input_ids"]][-len(encoded.input_ids) :]
    assert encoded.input_ids.count(image) == 16
    ((start, end),) = encoded.image_spans
    assert encoded.input_ids[start:end] == [image] * 16
    assert encoded.tensors["pixel_values"].shape == (1, 3, 28, 28)
    assert encoded.images == (PICTURES.ref(1),)


def test_text_only_prompts_need_no_image(llava):
    encoded = encode(llava, ask("p", "Hello"), PICTURES)
    assert encoded.tensors == {}
    assert encoded.image_spans == ()


def test_two_images_have_their_own_spans(llava):
    encoded = encode(llava, ask("p", "Is <image> like <image>?", PICTURES.ref(1), PICTURES.ref(2)), PICTURES)
    (a, b), (c, d) = encoded.image_spans
    assert (b - a, d - c) == (16, 16)
    assert llava.tokenizer.decode(encoded.input_ids[b:c]) == " like "
    assert encoded.tensors["pixel_values"].shape[0] == 2


def test_a_distortion_of_normalised_pixels_reaches_its_image_only(llava):
    clean, other = PICTURES.ref(1), PICTURES.ref(2)
    noise = make_distortion("diffusion", seed=3, step=500)
    noisy = ImageRef(clean.sha256, noise)
    before = encode(llava, ask("p", "What?", other, clean), PICTURES).tensors["pixel_values"]
    after = encode(llava, ask("p", "What?", other, noisy), PICTURES).tensors["pixel_values"]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], apply_normalised(before[1], noise))
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 50), (50, 3), (3, 3), (400, 2)])
def test_narrow_pictures_are_pictures(llava, width, height):
    encoded = encode(llava, ask("p", "What?", PICTURES.ref(width * 1000 + height, width, height)), PICTURES)
    assert encoded.tensors["pixel_values"].shape == (1, 3, 28, 28)


def test_a_control_token_in_a_user_s_text_stays_text(llava):
    end = llava.tokenizer.eos_token_id
    encoded = encode(llava, ask("p", "ignore </s> this", PICTURES.ref(1)), PICTURES)
    plain = encode(llava, ask("p", "ignore this", PICTURES.ref(1)), PICTURES)
    assert encoded.input_ids.count(end) == plain.input_ids.count(end) == 1
    assert "ignore </s> this" in llava.tokenizer.decode(encoded.input_ids)
    assert [t for t in encoded.input_ids if t == llava.image_token_id] == [llava.image_token_id] * 16


def test_a_completion_ends_its_turn_unless_it_was_cut(llava):
    ids = llava.tokenizer(" Yes", add_special_tokens=False)["input_ids"]
    made = completions_ids(llava, None, [" Yes", " Yes", "a </s> b"], ["stop", "length", "length"])
    assert made[:2] == [[*ids, 2], ids]
    assert 2 not in made[2]


def test_the_turn_s_end_is_the_stop_token_that_the_template_writes(llava):
    class Config:
        eos_token_id = (7, 2)

    assert stop_ids(llava, Config) == (7, 2)
    assert completions_ids(llava, Config, ["a"], ["stop"])[0][-1] == 2


def test_a_text_only_model_refuses_images_and_takes_text(tmp_path):
    words = load_processor(families.build("llama", tmp_path))
    assert chat_text(words, ask("p", " Hi ")) == "<s>user: Hi</s>\nassistant:"
    assert encode(words, ask("p", "Hi"), PICTURES).input_ids[0] == 1
    with pytest.raises(DataError, match="text-only"):
        encode(words, ask("p", "Hi", PICTURES.ref(1)), PICTURES)


def test_a_template_that_knows_only_text_gets_text(tmp_path):
    folder = families.build("llava", tmp_path)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    processor = load_processor(folder)
    assert chat_text(processor, ask("p", "What?", PICTURES.ref(1))) == "[<image>What?]"


def test_a_processor_without_template_says_how_to_fix_it(tmp_path):
    folder = families.build("llava", tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"no chat template: put the file chat_template\.jinja"):
        load_processor(folder)


def test_a_template_of_a_tokenizer_s_config_counts(tmp_path):
    folder = families.build("llava", tmp_path)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    assert chat_text(load_processor(folder), ask("p", "Hi")) == "user: Hi</s>\nassistant:"


def test_roles_the_template_refuses_are_named(tmp_path):
    folder = families.build("llava", tmp_path)
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}ok pairsight probe"
    )
    (folder / "chat_template.jinja").write_text(refusing)
    prompt = Prompt("p", (Message("system", "Be kind."), Message("user", "Hi")))
    with pytest.raises(ModelError, match="refuses turns of system, user: no system turns"):
        chat_text(load_processor(folder), prompt)


def test_a_missing_image_is_named(llava):
    with pytest.raises(DataError) as caught:
        encode(llava, ask("p", "What?", ImageRef("f" * 64)), PICTURES)
    assert caught.value.reason == "missing_image"


def test_a_folder_whose_processor_is_damaged_is_an_error_of_one_line(tmp_path):
    folder = families.build("llava", tmp_path)
    (folder / "tokenizer.json").write_text("{broken")
    with pytest.raises(ModelError) as caught:
        load_processor(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_said_so():
    with pytest.raises(ModelError, match="there is no model folder /nowhere/at/all"):
        load_processor(Path("/nowhere/at/all"))


def test_a_text_only_model_whose_tokenizer_names_a_processor_is_loaded_as_text(tmp_path):
    folder = families.build("llama", tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "processor_class": "LlavaProcessor"}))
    assert chat_text(load_processor(folder), ask("p", "Hi")) == "<s>user: Hi</s>\nassistant:"
