"""`--chat-template`: a text backbone whose folder has none is trained, noted and asked with a named one."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

import families
from made_tables import pairs_table
from pairsight.cli.main import main
from pairsight.images.source import FileImages
from pairsight.models.load import quiet
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.local.processor import encode
from pairsight.models.protocols import Sampling
from pairsight.pipeline.models import asked_profile, find_profile, open_generator
from pairsight.records import Completion, CompletionRequest, Message, PreferencePair, Prompt

WRITTEN = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What is red? ASSISTANT:"
)
PROMPT = Prompt("p", (Message("user", "What is red?"),))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny Llama as a base model is published, without a chat template; pairs of text; an empty folder of images."""
    folder = tmp_path_factory.mktemp("text")
    families.build("llama", folder / "model")
    (folder / "model" / "chat_template.jinja").unlink()
    (folder / "images").mkdir()
    said = [Completion(f"p:{n}", "p", text, "stop", "m", 0, n) for n, text in enumerate(["blood", "the sky"])]
    pairs = [PreferencePair("p", PROMPT, said[0], (said[1],), "test")]
    pq.write_table(pairs_table(pairs, FileImages(folder / "images")), folder / "pairs.parquet")
    return folder


def test_a_model_without_a_template_is_written_for_by_name(world):
    model, images = str(world / "model"), FileImages(world / "images")
    profile = find_profile(asked_profile(None, "vicuna_v1"), [model])
    vlm = LocalVLM(model, images, profile=profile)
    assert vlm.fingerprint != LocalVLM(model, images).fingerprint
    processor, _ = vlm.loaded_copy()
    with quiet():
        words = AutoTokenizer.from_pretrained(model)
    assert encode(processor, PROMPT, images).input_ids == words(WRITTEN, add_special_tokens=False)["input_ids"]


def test_a_training_notes_it_and_its_adapter_is_asked_so(world, tmp_path, capsys):
    model, out = str(world / "model"), tmp_path / "a"
    align = ["align", str(world / "pairs.parquet"), "--model", model, "--out", str(out), "--quiet"]
    assert main(align) == 1
    error = capsys.readouterr().err
    assert f"model {model} has no chat template" in error
    assert "give --chat-template NAME (vicuna_v1, llama-2, plain) or FILE" in error
    assert not out.exists()
    more = ["--set", "max_steps=1", "--set", "lora_r=2", "--set", "report_to=[]", "--merge"]
    assert main([*align, *more, "--chat-template", "vicuna_v1"]) == 0, capsys.readouterr().err
    assert json.loads((out / "inference.json").read_text())["profile"]["name"] == "vicuna_v1"
    profile = find_profile(None, [model], [out])
    asked = [CompletionRequest(PROMPT, 0, 0, ())]
    one = open_generator(model, FileImages(world / "images"), adapter=str(out), profile=profile)
    (answer,) = one.generate(asked, Sampling(temperature=0.0, max_new_tokens=3))
    assert isinstance(answer, Completion)
    assert find_profile(None, [out / "merged"]) == profile


def test_a_template_that_changes_nothing_is_an_error(world, tmp_path, capsys):
    evaluate = ["evaluate", "--out", str(tmp_path / "x"), "--benchmark", f"pope={world / 'pairs.parquet'}", "--model"]
    own = families.build("llama", tmp_path / "own")
    for arguments, message in [
        (
            [str(own), "--chat-template", "plain"],
            f"--chat-template changes nothing, {own} has a chat template of its own",
        ),
        ([str(own), "--chat-template", "vicuna"], "chat template 'vicuna' is unknown; did you mean 'vicuna_v1'"),
        (
            [str(world / "model"), "--chat-template", "plain", "--profile", "llava-1.5"],
            "--chat-template changes nothing, profile 'llava-1.5' writes prompts itself",
        ),
        ([str(world / "model")], "has no chat template"),
    ]:
        assert main([*evaluate, *arguments]) == 1
        assert message in capsys.readouterr().err
