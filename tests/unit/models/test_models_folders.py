"""Model and adapter folders: what cannot be used is said before anything loads; contents make the fingerprint."""

import json
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

import families
from pairsight.errors import ModelError
from pairsight.models.folders import check_adapter, check_model, fingerprint, read_model_json
from pairsight.models.load import load_model, pick_device, pick_dtype


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A LLaVA, another one of the same shape, and an adapter of the first."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("made")
    families.build("llava", root / "model")
    families.build("llava", root / "other", seed=1)
    model = get_peft_model(load_model(root / "model"), LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(root / "adapter")
    return root


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made / "model", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(folder, match):
    with pytest.raises(ModelError, match=match) as caught:
        check_model(folder)
    assert "\n" not in str(caught.value)


def test_a_good_folder_passes_without_torch(folder):
    code = f"import sys\nfrom pairsight.models.folders import check_model\ncheck_model({str(folder)!r})\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (["config.json"], "has no config.json"),
        (["model.safetensors"], r"has no \*.safetensors weights"),
        (["processor_config.json"], "has no processor .*processor.save_pretrained"),
        (["tokenizer.json"], "has no tokenizer .*tokenizer.save_pretrained"),
        (["chat_template.jinja"], "has no chat template: put the file chat_template.jinja"),
    ],
)
def test_what_is_missing_is_named(folder, files, match):
    for name in files:
        (folder / name).unlink()
    refused(folder, match)


def test_weights_whose_header_does_not_say_where_tensors_are_are_refused(folder):
    header = b'{"weight": {"dtype": "F32", "shape": [1]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(folder, "model.safetensors is not a complete safetensors file; copy it again")


def test_pickles_are_refused_with_the_command_that_converts_them(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, rf"only pickled weights \(pytorch_model.bin\).*: pairsight convert-weights {folder} {folder}-safe")


def test_cut_and_broken_weights_are_found_by_their_header(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    refused(folder, "cut short")
    weights.write_bytes(b"abc")
    refused(folder, "not a complete safetensors file")
    weights.write_bytes(struct.pack("<Q", 10**12) + b"{}")
    refused(folder, "not a complete safetensors file")
    weights.write_bytes(whole)
    check_model(folder)


def test_missing_shards_are_named(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "lacks 1 of 2 weight files: model-00002-of-00002.safetensors")


def test_other_things_that_are_no_model(folder, made, tmp_path):
    (folder / "config.json").write_text("{")
    refused(folder, "is not JSON")
    (folder / "config.json").write_text("{}")
    refused(folder, "names no model_type")
    refused(tmp_path / "nothing" / "here", "there is no model folder")
    refused(folder / "config.json", "is a file")
    refused(made / "adapter", "is an adapter: give it as --adapter")


def test_a_hub_name_is_not_looked_up():
    check_model("someone/some-model")


def test_adapters_are_checked(made, folder, tmp_path):
    check_adapter(made / "adapter", made / "model")
    with pytest.raises(ModelError, match="there is no adapter folder"):
        check_adapter(tmp_path / "none", folder)
    with pytest.raises(ModelError, match="it is a full model: give it as --model"):
        check_adapter(made / "model", folder)
    with pytest.raises(ModelError, match="was trained on another model"):
        check_adapter(made / "adapter", made / "other")
    copy = shutil.copytree(made / "adapter", tmp_path / "adapter")
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    with pytest.raises(ModelError, match="only pickled weights; convert them: pairsight convert-weights"):
        check_adapter(copy, made / "model")


def test_our_own_note_says_whose_an_adapter_is(made, folder, tmp_path):
    copy = shutil.copytree(made / "adapter", tmp_path / "adapter")
    (copy / "pairsight.json").write_text(json.dumps({"base_fingerprint": fingerprint(folder)}))
    check_adapter(copy, folder)
    (copy / "pairsight.json").write_text(json.dumps({"base_fingerprint": "sha256:0"}))
    with pytest.raises(ModelError, match="another model"):
        check_adapter(copy, folder)


def test_an_adapter_changes_the_model_and_one_that_does_not_fit_is_refused(made, tmp_path):
    ids = torch.tensor([[1, 20, 30, 40]])
    plain, adapted = load_model(made / "model"), load_model(made / "model", adapter=made / "adapter")
    with torch.no_grad():
        assert not torch.allclose(plain(input_ids=ids).logits, adapted(input_ids=ids).logits)
    copy = shutil.copytree(made / "adapter", tmp_path / "adapter")
    config = json.loads((copy / "adapter_config.json").read_text())
    config |= {"target_modules": ["v_proj"], "base_model_name_or_path": None, "auto_mapping": None}
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"does not fit the model .*8 of its tensors have no counterpart there"):
        load_model(made / "model", adapter=copy)


def test_weights_that_do_not_fit_the_config_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its weights do not fit its config"):
        load_model(folder)


def test_dtype_and_device_are_chosen_or_taken():
    assert pick_dtype(None, torch.device("cpu")) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="dtype 'float33' is unknown"):
        pick_dtype("float33", torch.device("cpu"))


def test_a_fingerprint_is_of_contents_not_of_places(made, folder):
    known = fingerprint(folder)
    assert known == fingerprint(made / "model") != fingerprint(made / "other")
    assert known.startswith("sha256:")
    (folder / "README.md").write_text("hello")
    (folder / "pairsight.json").write_text('{"training_preset": "tiny"}')
    assert fingerprint(folder) == known
    assert fingerprint(folder, made / "adapter") != known
    (folder / "chat_template.jinja").write_text("another")
    assert fingerprint(folder) != known


def test_hashes_of_settled_files_are_remembered(made, folder, tmp_path, monkeypatch):
    import os

    for path in folder.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    known = fingerprint(folder)
    notes = sorted((tmp_path / "cache" / "pairsight" / "model-hashes").iterdir())
    assert len(notes) >= 4
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, (1_000_000_000, 1_000_000_000))
    assert fingerprint(folder) == known  # same size and time: not read again
    os.utime(weights, (1_000_000_001, 1_000_000_001))
    assert fingerprint(folder) != known
    notes[0].write_text("broken")
    fingerprint(folder)
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert fingerprint(folder) != known


def test_half_a_surrogate_pair_in_a_file_of_ours_is_refused_before_it_is_copied(tmp_path):
    note = tmp_path / "pairsight.json"
    note.write_text('{"kind": "\\ud83d"}')
    with pytest.raises(ModelError, match=r"pairsight.json holds half a surrogate pair"):
        read_model_json(note)
    note.write_text('{"kind": "\\ud83d\\ude00"}')
    assert read_model_json(note) == {"kind": "\U0001f600"}


@pytest.mark.parametrize("preset", [[], {}, 3, "nothing"])
def test_a_preset_that_there_is_not_is_refused(tmp_path, preset):
    from pairsight.training.config import model_presets

    (tmp_path / "pairsight.json").write_text(json.dumps({"training_preset": preset}))
    with pytest.raises(ModelError, match="unknown training_preset"):
        model_presets(tmp_path)
