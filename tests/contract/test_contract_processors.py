"""Every family's processor, as its real folders are laid out, without torchvision."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

import families
from family_prompts import Pictures, ask, prompts_of
from pairsight.errors import DataError
from pairsight.images.distort import make_distortion
from pairsight.models.folders import check_model
from pairsight.models.load import load_model
from pairsight.models.local.chat import tokenizer_of
from pairsight.models.local.processor import completions_ids, encode, load_processor
from pairsight.records import ImageRef
from pairsight.training.vision.units import TextEncoder

VIDEO = {
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "internvl": "InternVLVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
}
PICTURES = Pictures()


@pytest.fixture(scope="module", params=families.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    torch.set_num_threads(1)
    return families.build(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(folder)


@pytest.mark.parametrize("fast", ["", "Fast"])
def test_folders_as_the_hub_has_them_load_alike(family, folder, processor, fast, tmp_path):
    if family == "llama":
        return
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    written = json.loads((tmp_path / "processor_config.json").read_text())
    pictures = written.pop("image_processor") | {"processor_class": written["processor_class"]}
    pictures["image_processor_type"] = pictures["image_processor_type"].removesuffix("Pil") + fast
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    (tmp_path / "processor_config.json").write_text(json.dumps(written))
    if family in VIDEO:
        videos = {"video_processor_type": VIDEO[family], "processor_class": written["processor_class"]}
        (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(videos))
    check_model(tmp_path)
    again = load_processor(tmp_path)
    for prompt in prompts_of(family, PICTURES):
        assert encode(again, prompt, PICTURES).input_ids == encode(processor, prompt, PICTURES).input_ids


def test_without_pixels_prompts_are_encoded_as_with_them(family, processor):
    """Of pictures of sizes that were seen before nothing but the size is used."""
    prompts = prompts_of(family, PICTURES)
    if family != "llama":
        again = [PICTURES.ref(7, 60, 40), PICTURES.ref(8, 33, 64)]
        prompts += [ask("again", "Another one?", again[0]), ask("twice", "<image> or <image>?", again[1], again[1])]
        tokenizer = tokenizer_of(processor)
        placeholder = getattr(tokenizer, "image_token_id", None) or processor.image_token_id
        hostile = {"</s>", tokenizer.convert_ids_to_tokens(placeholder)} - {"<image>"}
        prompts += [replace(prompts[0], id="same"), *(ask("hostile", f"say {mark} now", again[0]) for mark in hostile)]
    encoder = TextEncoder(processor, PICTURES)
    for prompt in prompts:
        try:
            expected = encode(processor, prompt, PICTURES)
        except DataError as error:
            with pytest.raises(DataError, match=re.escape(str(error)[:60])):
                encoder.encode(prompt)
            continue
        got = encoder.encode(prompt)
        assert replace(got, tensors={}) == replace(expected, tensors={})
        assert got.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            if tensor.is_floating_point():
                assert got.tensors[name].shape == tensor.shape
                assert got.tensors[name].untyped_storage().nbytes() < 10_000_000
            else:
                assert torch.equal(got.tensors[name], tensor)
    assert encoder._is_short == ({} if family == "llama" else {((60, 40),): True})


def test_spans_cover_each_image_s_placeholders(family, processor):
    for prompt in prompts_of(family, PICTURES):
        encoded = encode(processor, prompt, PICTURES)
        assert len(encoded.image_spans) == len(prompt.images)
        tokenizer = tokenizer_of(processor)
        placeholder = getattr(tokenizer, "image_token_id", None) or getattr(processor, "image_token_id", None)
        inside = [token for start, end in encoded.image_spans for token in encoded.input_ids[start:end]]
        assert Counter(inside)[placeholder] == Counter(encoded.input_ids)[placeholder]
        assert all(encoded.input_ids[start] == encoded.input_ids[end - 1] for start, end in encoded.image_spans)
        assert all(len(values) == len(encoded.input_ids) for values in encoded.token_inputs.values())


def test_control_tokens_in_a_user_s_text_never_become_control_tokens(family, processor):
    picture = (PICTURES.ref(1),) if family != "llama" else ()
    plain = Counter(encode(processor, ask("p", "say  now", *picture), PICTURES).input_ids)
    tokenizer = tokenizer_of(processor)
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert special - {"<image>"}
    for token in sorted(special - {"<image>"}):  # our own mark is refused where it has no image
        try:
            hostile = Counter(encode(processor, ask("p", f"say {token} now", *picture), PICTURES).input_ids)
        except DataError as error:
            assert error.reason == "control_token"
            assert token in str(error)
        else:
            number = tokenizer.convert_tokens_to_ids(token)
            assert hostile[number] == plain[number], token


def test_a_normalised_distortion_changes_one_image_s_pixels_only(family, processor):
    if family == "llama":
        return
    clean = PICTURES.ref(1)
    noisy = ImageRef(clean.sha256, make_distortion("diffusion", seed=1, step=500))
    before = encode(processor, ask("p", "What?", clean), PICTURES)
    after = encode(processor, ask("p", "What?", noisy), PICTURES)
    assert after.input_ids == before.input_ids
    assert not torch.equal(after.tensors["pixel_values"], before.tensors["pixel_values"])
    assert torch.equal(
        encode(processor, ask("p", "What?", noisy), PICTURES).tensors["pixel_values"], after.tensors["pixel_values"]
    )


def test_a_completion_follows_its_prompt_as_the_model_s_own_turn_would(family, folder, processor):
    config = load_model(folder).generation_config
    ids, cut = completions_ids(processor, config, [" A cup.", " A cup."], ["stop", "length"])
    assert ids[-1] == tokenizer_of(processor).eos_token_id
    assert tokenizer_of(processor).decode(ids[:-1]) == " A cup."
    assert cut == ids[:-1]
