"""An adapter's folder as a model: its base is found, both make its fingerprint, and what is missing is said."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import families
from pairsight.errors import ModelError
from pairsight.images.source import UnpackedImages
from pairsight.models.folders import base_of_adapter, fingerprint
from pairsight.models.load import load_model
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Sampling
from pairsight.pipeline.models import check_model_name, open_generator
from pairsight.records import CompletionRequest, Message, Prompt
from pairsight.training.adapter import merge

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    families.build("llava", root / "base")
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(load_model(root / "base"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=3.0)
    model.peft_config["default"].base_model_name_or_path = "../base"
    model.save_pretrained(root / "adapter")
    return root


def test_an_adapter_is_its_base_with_its_layers(made):
    base = base_of_adapter(made / "adapter")
    assert base == str((made / "base").resolve())
    check_model_name(made / "adapter")
    asked = [CompletionRequest(Prompt("p", (Message("user", "what is this"),)))]
    sampling = Sampling(temperature=0.0, max_new_tokens=8)
    generator = open_generator(made / "adapter", UnpackedImages())
    assert generator.fingerprint == fingerprint(made / "base", made / "adapter")
    (said,) = generator.generate(asked, sampling)
    (same,) = LocalVLM(made / "base", UnpackedImages(), made / "adapter").generate(asked, sampling)
    (plain,) = LocalVLM(made / "base", UnpackedImages()).generate(asked, sampling)
    assert said == same
    assert said.text != plain.text


def test_a_moved_pair_of_base_and_adapter_stays_the_same(made, tmp_path):
    shutil.copytree(made, tmp_path / "moved")
    moved = open_generator(tmp_path / "moved" / "adapter", UnpackedImages())
    assert moved.fingerprint == open_generator(made / "adapter", UnpackedImages()).fingerprint


def test_models_and_hub_names_are_no_adapters(made):
    assert base_of_adapter(made / "base") is None
    assert base_of_adapter("llava-hf/llava-1.5-7b-hf") is None


@pytest.mark.parametrize(
    ("named", "match"),
    [(None, "names no base model"), ("../lost", "was trained on ../lost, which is not here")],
)
def test_a_base_that_is_not_there_is_said(made, tmp_path, named, match):
    folder = tmp_path / "adapter"
    shutil.copytree(made / "adapter", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
    with pytest.raises(ModelError, match=match) as caught:
        check_model_name(folder)
    assert "\n" not in str(caught.value)


def test_no_adapter_goes_on_top_of_another(made):
    with pytest.raises(ModelError, match="is itself an adapter: give its base as --model"):
        check_model_name(made / "adapter", made / "adapter")


@pytest.fixture(scope="module")
def with_projector(made, tmp_path_factory):
    """A base in bfloat16 and an adapter whose projector moved by less than bfloat16 distinguishes."""
    root = tmp_path_factory.mktemp("projector")
    plain = load_model(made / "base", dtype="bfloat16")
    plain.save_pretrained(root / "base")
    for file in (made / "base").iterdir():
        if not (root / "base" / file.name).exists():
            shutil.copy(file, root / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["model.multi_modal_projector"])
    model = get_peft_model(load_model(root / "base", dtype="float32"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1 + 2**-12)
    model.peft_config["default"].base_model_name_or_path = str(root / "base")
    model.save_pretrained(root / "adapter")
    return root


def test_a_projector_that_was_trained_is_used_as_it_was_trained_in_a_bfloat16_model(with_projector):
    model = load_model(with_projector / "base", adapter=with_projector / "adapter", dtype="bfloat16")
    kept = load_file(with_projector / "adapter" / "adapter_model.safetensors")
    wrapper = model.get_submodule("base_model.model.model.multi_modal_projector")
    seen = torch.randn(1, 4, kept["base_model.model.model.multi_modal_projector.linear_1.weight"].shape[1]).bfloat16()
    own = {name.rpartition("projector.")[2]: tensor for name, tensor in kept.items() if "projector" in name}
    hidden = torch.nn.functional.gelu(seen.float() @ own["linear_1.weight"].T + own["linear_1.bias"])
    expected = hidden @ own["linear_2.weight"].T + own["linear_2.bias"]
    assert torch.equal(wrapper(seen), expected.bfloat16())
    assert wrapper.modules_to_save["default"].linear_1.weight.dtype == torch.float32
    assert model.dtype == torch.bfloat16
    asked = [CompletionRequest(Prompt("p", (Message("user", "what is this"),)))]
    generator = LocalVLM(with_projector / "base", UnpackedImages(), with_projector / "adapter", dtype="bfloat16")
    (said,) = generator.generate(asked, Sampling(temperature=0.0, max_new_tokens=4))
    assert said.text is not None


def test_a_merge_into_bfloat16_says_how_much_of_a_trained_projector_is_lost(with_projector, tmp_path, caplog):
    with caplog.at_level("WARNING", logger="pairsight.training"):
        merge(with_projector / "adapter", tmp_path / "merged")
    assert "keeps 0 % of the change of modules" in caplog.text
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(with_projector / "base" / "model.safetensors")
    assert all(torch.equal(merged[name], base[name]) for name in base if "projector" in name)
    note = json.loads((tmp_path / "merged" / "pairsight.json").read_text())
    assert note["movement_kept"] == {"modules_trained_in_full": 0.0}  # these adapters changed nothing


@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_a_merge_into_bfloat16_says_how_much_of_the_adapters_is_lost(with_projector, tmp_path, caplog, size):
    model = get_peft_model(
        load_model(with_projector / "base", dtype="float32"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
    model.peft_config["default"].base_model_name_or_path = str(with_projector / "base")
    model.save_pretrained(tmp_path / "adapter")
    with caplog.at_level("WARNING", logger="pairsight.training"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(with_projector / "base" / "model.safetensors")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kept = total = 0.0
    for name in base:
        if "q_proj" not in name or not torch.is_tensor(a := adapter.get(_adapter_name(name, "A"))):
            continue
        moved = 4.0 * (adapter[_adapter_name(name, "B")] @ a)  # lora_alpha is 8, r is 2
        kept += float(((merged[name].float() - base[name].float()) * moved).sum())
        total += float((moved * moved).sum())
    assert total > 0
    share = json.loads((tmp_path / "merged" / "pairsight.json").read_text())["movement_kept"]["weights_with_adapters"]
    assert share == pytest.approx(kept / total, rel=1e-3, abs=1e-4)
    assert (share < 0.9, "of the change of weights with adapters" in caplog.text) == (
        (True, True) if size < 1 else (False, False)
    )


def _adapter_name(name: str, which: str) -> str:
    """PEFT's name of a layer's matrix, from the layer's name in a checkpoint of LLaVA."""
    name = name.removesuffix(".weight").replace("language_model.model.", "language_model.")
    inside = f"model.{name}"
    return f"base_model.model.{inside}.lora_{which}.weight"


def test_an_adapter_with_its_own_embeddings_leaves_tied_ones_of_the_base_alone(tmp_path):
    families.build("llama", tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    made = get_peft_model(load_model(tmp_path / "plain"), settings)
    with torch.no_grad():
        made.get_submodule("base_model.model.model.embed_tokens").modules_to_save["default"].weight.mul_(1 + 2**-12)
    made.peft_config["default"].base_model_name_or_path = str(tmp_path / "plain")
    made.save_pretrained(tmp_path / "adapter")
    model = load_model(tmp_path / "plain", adapter=tmp_path / "adapter", dtype="bfloat16")
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.dtype == torch.bfloat16
