"""Profiles: read strictly, chosen against what folders were trained with, part of what identifies a model."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pairsight.cli.main import main
from pairsight.errors import ConfigError, DataError, ModelError
from pairsight.images.source import UnpackedImages
from pairsight.models.endpoint.model import EndpointModel
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.profiles.choice import read_profile
from pairsight.models.profiles.profile import Profile, Turns
from pairsight.models.profiles.shipped import LLAVA_1_5, LLAVA_1_5_IMAGES, LLAVA_V1
from pairsight.pipeline.models import find_profile, is_llava_1_5
from pairsight.records import ImageRef, Message, Prompt
from pairsight.tiny.models.shipped import shipped_model

IMAGE = ImageRef("0" * 64)
FULL = """
name: ours
system: Be short.
turns: {user: Q, assistant: A, after_user: "\\n", after_assistant: "###", image_first: false, after_image: ""}
pad: square
pad_colour: [1, 2, 3]
suffix: " Really?"
stop: ["###"]
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def text_of(profile: Profile, *messages: Message) -> str:
    assert profile.turns is not None
    pieces = profile.turns.pieces(messages, profile.system)
    return "<image>".join("".join(text for text, _ in piece) for piece in pieces)


def test_a_file_says_all_that_a_profile_can(tmp_path: Path):
    profile = read_profile(write(tmp_path / "mine.yaml", FULL))
    assert profile is not None
    assert profile.name == "ours" and profile.stop == ("###",)
    message = Message("user", "Left <image> or right?", (IMAGE,))
    assert text_of(profile, message) == "Be short. Q: Left <image> or right?\nA:"
    asked = profile.asked(Prompt("a", (message,))).messages[0].text
    assert asked == "Left <image> or right? Really?"
    assert profile.asked(Prompt("a", (Message("user", asked),))).messages[0].text == asked, "once"
    shown = profile.shown(Image.new("RGB", (4, 2), (9, 9, 9)))
    assert shown.size == (4, 4)
    assert [shown.getpixel((0, row)) for row in range(4)] == [(1, 2, 3), (9, 9, 9), (9, 9, 9), (1, 2, 3)]
    assert profile.shown(Image.new("RGB", (3, 2))).getpixel((0, 2)) == (1, 2, 3), "half of one pixel is none"


def test_a_file_without_a_name_is_called_by_its_own(tmp_path: Path):
    profile = read_profile(write(tmp_path / "mine.yml", "suffix: '!'"))
    assert profile is not None and profile.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sistem: x", "unknown option 'sistem'; did you mean 'system'?"),
        ("turns: {user: Q, ende: x}", "turns.ende"),
        ("turns: {user: ''}", "turns.user"),
        ("pad: circle", "'none' or 'square'"),
        ("{pad: square, pad_colour: [1, 2, 256]}", "numbers from 0 to 255"),
        ("{pad: square, pad_colour: [1, 2]}", "pad_colour"),
        ("pad_colour: [1, 2, 3]", "changes nothing without pad: square"),
        ("stop: ['']", "cannot be empty"),
        ("name: x", "it says nothing"),
        ("{}", "it says nothing"),
        ("- a", "must hold 'name: value' lines"),
        ("{system: a, system: b}", "system"),
        ("system: !!python/object/apply:os.system [ls]", "not YAML we can read"),
        ('system: "\\ud800"', "surrogates not allowed"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError) as error:
        read_profile(write(tmp_path / "mine.yaml", text))
    assert message in str(error.value) and "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_name_is_an_error_that_says_the_nearest(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"unknown profile 'llava1\.5'; did you mean 'llava-1\.5'"):
        read_profile("llava1.5")
    with pytest.raises(ConfigError, match="No such file"):
        read_profile(tmp_path / "absent.yaml")
    assert read_profile("none") is None


def test_the_second_profile_says_human():
    assert LLAVA_V1.system == LLAVA_1_5.system.replace("curious user", "curious human").replace("user's", "human's")
    assert text_of(LLAVA_V1, Message("user", "Hi")).endswith("the human's questions. USER: Hi ASSISTANT:")


def test_marks_and_roles_that_do_not_fit_are_named():
    for message, reason in (
        (Message("user", "<image><image>", (IMAGE,)), "image_marks"),
        (Message("tool", "x"), "role"),
    ):
        with pytest.raises(DataError) as error:
            text_of(LLAVA_1_5, message)
        assert error.value.reason == reason
    assert text_of(LLAVA_1_5, Message("system", "Own."), Message("user", "Hi")) == "Own. USER: Hi ASSISTANT:"
    assert text_of(LLAVA_1_5, Message("user", "is <image> text?")).endswith("USER: is <image> text? ASSISTANT:")


@pytest.mark.parametrize(
    "profile",
    [
        LLAVA_1_5,
        Profile(system="", turns=Turns()),
        Profile(system='Ü "q" {{x}} {% y %} \'\n😀', turns=Turns(user="{#")),
    ],
)
def test_the_chat_template_for_servers_writes_the_same(profile: Profile):
    from transformers.utils.chat_template_utils import render_jinja_template

    assert profile.turns is not None
    shown = {"type": "image"}
    for messages, turns in (
        ([Message("user", "Hi", (IMAGE,))], [{"role": "user", "content": [shown, {"type": "text", "text": "Hi"}]}]),
        (
            [Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")],
            [{"role": r, "content": c} for r, c in (("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"))],
        ),
    ):
        template = profile.turns.template(profile.system)
        (made,), _ = render_jinja_template([turns], chat_template=template, add_generation_prompt=True)
        assert made == text_of(profile, *messages)


def test_the_fingerprint_has_what_a_profile_says_and_not_its_name(tmp_path: Path):
    model, images = shipped_model("base"), UnpackedImages()
    plain = LocalVLM(model, images).fingerprint
    found = [LocalVLM(model, images, profile=p).fingerprint for p in (LLAVA_1_5, LLAVA_V1, LLAVA_1_5_IMAGES)]
    assert len({plain, *found}) == 4
    said = {"system": LLAVA_1_5.system, "turns": {"user": "USER"}, "pad": "square", "pad_colour": [122, 116, 104]}
    file = write(tmp_path / "other.yaml", json.dumps(said))
    assert LocalVLM(model, images, profile=read_profile(file)).fingerprint == found[0]
    assert LocalVLM(model, images, load_in_4bit=True).fingerprint not in (plain, *found)


def trained(folder: Path, profile: Profile | None) -> Path:
    folder.mkdir()
    (folder / "pairsight.json").write_text('{"kind": "adapter"}')
    if profile is not None:
        (folder / "inference.json").write_text(json.dumps({"prompt_suffix": "x", "profile": profile.to_plain()}))
    return folder


def test_an_adapter_is_used_as_it_was_trained(tmp_path: Path):
    one, plain = trained(tmp_path / "one", LLAVA_1_5), trained(tmp_path / "plain", None)
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    write(unknown / "chat_template.jinja", "{{ messages }}")
    assert find_profile(None, [unknown], [one]) == LLAVA_1_5
    assert find_profile(None, [unknown], [plain]) is None
    assert find_profile("llava_v1", [unknown]) == LLAVA_V1, "published models say nothing, and go with any"
    assert find_profile("llava-1.5", [unknown], [one]) == LLAVA_1_5
    for asked, adapters, words in (
        ("none", [one], "with profile 'llava-1.5', and --profile asks for no profile"),
        ("llava_v1", [one], "asks for 'llava_v1'"),
        ("llava-1.5", [plain], "was trained without a profile"),
        (None, [one, plain], "use them in separate calls"),
        (None, [plain, one], "use them in separate calls"),
    ):
        with pytest.raises(ModelError) as error:
            find_profile(asked, [unknown], adapters)
        assert words in str(error.value)


@pytest.mark.parametrize("said", ["[]", "7", '{"sistem": "x"}', '{"name": "x"}'])
def test_a_damaged_note_is_named(tmp_path: Path, said: str):
    folder = trained(tmp_path / "one", None)
    (folder / "inference.json").write_text(f'{{"profile": {said}}}')
    if said in ("[]", "7"):
        with pytest.raises(ModelError, match="must be a mapping"):
            find_profile("llava-1.5", [folder])
    else:
        with pytest.raises(ModelError, match=r"one: profile: .*(unknown option|says nothing)"):
            find_profile(None, [folder])


def config(**text: Any) -> str:
    return json.dumps(
        {"model_type": "llava", "text_config": text, "vision_config": {"model_type": "clip_vision_model"}}
    )


@pytest.mark.parametrize(
    ("said", "is_one"),
    [
        (config(model_type="llama", vocab_size=32064), True),
        (config(vocab_size=32000), True),
        (json.dumps({"model_type": "llava"}), True),
        (config(model_type="llama", vocab_size=128320), False),
        (config(model_type="mistral", vocab_size=32064), False),
        (config(model_type="llama", vocab_size=482), False),
        (json.dumps({"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}), False),
        (json.dumps({"model_type": "llava_next"}), False),
        (json.dumps({"model_type": "llava", "text_config": "?"}), True),
    ],
)
def test_llava_1_5_is_recognised_by_its_config(tmp_path: Path, said: str, is_one: bool):
    (tmp_path / "config.json").write_text(said)
    assert is_llava_1_5(tmp_path) is is_one


def test_a_warning_where_nothing_says_how_llava_1_5_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "config.json").write_text(config(vocab_size=32064))
    write(tmp_path / "chat_template.jinja", "{{ messages }}")
    for asked, models, warned in (
        (None, [tmp_path], True),
        (None, ["llava-hf/llava-1.5-7b-hf"], True),
        (None, ["owner/other"], False),
        (None, [shipped_model("base")], False),
        (None, ["endpoint:llava-1.5@http://127.0.0.1:1/v1"], False),
        ("none", [tmp_path], False),
        ("llava-1.5", [tmp_path], False),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            find_profile(asked, models)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
        assert all("--profile llava-1.5" in record.getMessage() for record in caplog.records)


def test_an_endpoint_pads_and_refuses_what_its_server_does():
    name = "endpoint:m@http://127.0.0.1:1/v1"
    for profile, words in (
        (LLAVA_1_5, "which a server does itself"),
        (Profile(name="mean", pad="square"), "write pad_colour as"),
    ):
        with pytest.raises(ConfigError, match=words):
            EndpointModel(name, UnpackedImages(), None, profile)
    plain, padded = (EndpointModel(name, UnpackedImages(), None, profile) for profile in (None, LLAVA_1_5_IMAGES))
    assert plain.fingerprint == "endpoint:m@http://127.0.0.1:1/v1"
    assert padded.fingerprint.startswith(f"{plain.fingerprint}+") and len(padded.fingerprint) > 40


@pytest.mark.parametrize("profile", [LLAVA_1_5, LLAVA_V1, LLAVA_1_5_IMAGES])
def test_what_is_printed_is_a_file_that_says_the_same(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["profile", profile.name]) == 0
    assert read_profile(write(tmp_path / "copy.yaml", capsys.readouterr().out)) == profile


def test_profiles_are_listed_and_templates_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["profile"]) == 0
    assert capsys.readouterr().out.split() == ["llava-1.5", "llava-1.5-images", "llava_v1", "none"]
    assert main(["profile", "llava_v1", "--template"]) == 0
    assert "curious human" in capsys.readouterr().out
    assert main(["profile", "llava-1.5-images", "--template"]) == 1
    assert main(["profile", "none"]) == 1
