"""LLaVA-1.5 between its authors' layout and transformers: names written out by hand, results by plain libraries."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, linear
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from family_parts import tokenizer
from pairsight.cli.main import main
from pairsight.models.folders import check_model
from pairsight.models.load import load_model, quiet

torch.set_num_threads(1)
WORDS, WIDTH, INNER, SEEN, SEEN_INNER = 260, 32, 40, 24, 36
LAYER = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (16, WIDTH), "self_attn.v_proj": (16, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip
TOWER_CONFIG = {
    "hidden_size": SEEN, "intermediate_size": SEEN_INNER, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 7, "projection_dim": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": WIDTH, "image_aspect_ratio": "pad", "intermediate_size": INNER,
    "max_position_embeddings": 512, "mm_hidden_size": SEEN, "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "somebody/clip-tiny", "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "use_mm_proj": True, "vocab_size": WORDS,
}  # fmt: skip


def numbers(*shape):
    return torch.randn(*shape) * 0.3


def language():
    """Names of a LLaMA, as Vicuna's and LLaVA's published indices list them."""
    state = {"model.embed_tokens.weight": numbers(WORDS, WIDTH)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        state |= {f"{at}.{name}.weight": numbers(*shape) for name, shape in LAYER.items()}
        state[f"{at}.input_layernorm.weight"] = 1 + numbers(WIDTH)
        state[f"{at}.post_attention_layernorm.weight"] = 1 + numbers(WIDTH)
        state[f"{at}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    return state | {"model.norm.weight": 1 + numbers(WIDTH), "lm_head.weight": numbers(WORDS, WIDTH)}


def projector():
    return {
        "model.mm_projector.0.weight": numbers(WIDTH, SEEN), "model.mm_projector.0.bias": numbers(WIDTH),
        "model.mm_projector.2.weight": numbers(WIDTH, WIDTH), "model.mm_projector.2.bias": numbers(WIDTH),
    }  # fmt: skip


def tower():
    """Names of CLIP's vision part below `vision_model.`."""
    state = {
        "embeddings.class_embedding": numbers(SEEN), "embeddings.patch_embedding.weight": numbers(SEEN, 3, 7, 7),
        "embeddings.position_embedding.weight": numbers(17, SEEN),
        "embeddings.position_ids": torch.arange(17)[None],
    }  # fmt: skip
    for name in (
        "pre_layrnorm",
        "post_layernorm",
        *(f"encoder.layers.{n}.layer_norm{k}" for n in (0, 1) for k in (1, 2)),
    ):
        state |= {f"{name}.weight": 1 + numbers(SEEN), f"{name}.bias": numbers(SEEN)}
    for layer in (0, 1):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = f"encoder.layers.{layer}.self_attn.{part}"
            state |= {f"{name}.weight": numbers(SEEN, SEEN), f"{name}.bias": numbers(SEEN)}
        one, two = (f"encoder.layers.{layer}.mlp.fc{k}" for k in (1, 2))
        state |= {f"{one}.weight": numbers(SEEN_INNER, SEEN), f"{one}.bias": numbers(SEEN_INNER)}
        state |= {f"{two}.weight": numbers(SEEN, SEEN_INNER), f"{two}.bias": numbers(SEEN)}
    return state


def write(folder, state, **config):
    """A folder as the authors publish one: two pickles with an index, config and tokenizer, no processor."""
    folder.mkdir(parents=True)
    names = sorted(state)
    files = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, folder / file)
    where = {name: file for file, part in files.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    words = tokenizer()
    words.save_pretrained(folder)
    text = (folder / "tokenizer.json").read_text().replace('"<pad>"', '"<zero>"')  # LLaMA's words have none for padding
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<unk>",
    }))  # fmt: skip
    (folder / "generation_config.json").write_text('{"max_length": 4096, "temperature": 0.9, "top_p": 0.6}')
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The state dicts, an original folder without the tower, the tower's, and the first one converted."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llava")
    state, seen = language() | projector(), tower()
    write(folder / "llava-tiny", state)
    (folder / "clip").mkdir()
    clip = {f"vision_model.{name}": tensor for name, tensor in seen.items()}
    torch.save(clip | {"text_model.final_layer_norm.bias": torch.ones(2), "logit_scale": torch.tensor(1.0)},
               folder / "clip" / "pytorch_model.bin")  # fmt: skip
    (folder / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": TOWER_CONFIG}))
    pictures = {"crop_size": 28, "size": 28, "resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27] * 3}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(pictures))
    arguments = [str(folder / "llava-tiny"), str(folder / "hf"), "--vision-tower", str(folder / "clip")]
    assert main(["convert-weights", *arguments]) == 0
    return folder, state, seen


def by_hand(state, seen, pixels, ids, image):
    """Logits of the original model by its published rule: the tower's last layer but one, two linear layers."""
    eye = CLIPVisionModel(CLIPVisionConfig(**TOWER_CONFIG)).eval()
    eye.load_state_dict({name: seen[name.removeprefix("vision_model.")] for name in eye.state_dict()})
    mouth = LlamaForCausalLM(LlamaConfig(**{name: value for name, value in CONFIG.items() if "mm_" not in name})).eval()
    missing, _ = mouth.load_state_dict(state, strict=False)
    assert not missing
    with torch.no_grad():
        patches = eye(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
        low = linear(patches, state["model.mm_projector.0.weight"], state["model.mm_projector.0.bias"])
        features = linear(gelu(low), state["model.mm_projector.2.weight"], state["model.mm_projector.2.bias"])
        words = mouth.get_input_embeddings()(ids.clamp(max=WORDS - 1))
        words[0, ids[0] == image] = features
        return mouth(inputs_embeds=words).logits


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 44, 3), dtype=np.uint8))


def inputs(folder):
    with quiet():
        processor = AutoProcessor.from_pretrained(folder)
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    return processor, text, processor(images=picture(), text=text, return_tensors="pt")


def test_an_original_folder_gives_the_same_logits_in_transformers(world):
    folder, state, seen = world
    check_model(folder / "hf")
    processor, text, given = inputs(folder / "hf")
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhat is it? ASSISTANT:"
    )
    square = Image.new("RGB", (44, 44), tuple(int(255 * mean) for mean in (0.48, 0.46, 0.41)))
    square.paste(picture(), (0, 8))
    plain = CLIPImageProcessor(
        size={"shortest_edge": 28}, crop_size=28, image_mean=[0.48, 0.46, 0.41], image_std=[0.27] * 3
    )
    torch.testing.assert_close(given["pixel_values"], plain(square, return_tensors="pt")["pixel_values"])
    assert (given["input_ids"] == WORDS).sum() == 16
    with quiet():
        model, info = AutoModelForImageTextToText.from_pretrained(folder / "hf", output_loading_info=True)
    assert not any(info.values())
    expected = by_hand(state, seen, given["pixel_values"], given["input_ids"], WORDS)
    found = model(**given).logits.detach()
    torch.testing.assert_close(found[..., :WORDS], expected, atol=1e-5, rtol=1e-5)
    assert processor.tokenizer.pad_token_id == WORDS + 1
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape == (320, WIDTH)
    torch.testing.assert_close(embeddings[WORDS + 9], state["model.embed_tokens.weight"].mean(0))


def test_there_and_back_again_is_the_same(world, tmp_path, capsys):
    folder, state, seen = world
    asked = ["--to", "llava", "--vision-tower", "somebody/clip-tiny"]
    assert main(["convert-weights", str(folder / "hf"), str(tmp_path / "back"), *asked]) == 0
    out = capsys.readouterr().out
    assert "the authors' code loads the vision tower that its config names" in out
    assert "copy it into DST" in out
    found = load_file(tmp_path / "back" / "model.safetensors")
    expected = {name: tensor for name, tensor in state.items() if "inv_freq" not in name}
    expected |= {f"model.vision_tower.vision_tower.vision_model.{name}": tensor for name, tensor in seen.items()}
    expected.pop("model.vision_tower.vision_tower.vision_model.embeddings.position_ids")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    same = CONFIG.keys() - {"model_type"}
    assert {name: config.get(name) for name in same} == {name: CONFIG[name] for name in same}
    assert (
        main(
            ["convert-weights", str(tmp_path / "back"), str(tmp_path / "again"), "--vision-tower", str(folder / "clip")]
        )
        == 0
    )
    first, again = (load_file(one / "model.safetensors") for one in (folder / "hf", tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first.keys() | again.keys())


def test_a_folder_that_transformers_saved_goes_back_too(world, tmp_path):
    """Its versions save other names than the published folders have."""
    folder, _, _ = world
    shutil.copytree(folder / "hf", tmp_path / "saved", ignore=shutil.ignore_patterns("*.safetensors"))
    with quiet():
        AutoModelForImageTextToText.from_pretrained(folder / "hf").save_pretrained(tmp_path / "saved")
    states = []
    for source, target in ((folder / "hf", "one"), (tmp_path / "saved", "two")):
        arguments = [str(source), str(tmp_path / target), "--to", "llava", "--vision-tower", "somebody/clip-tiny"]
        assert main(["convert-weights", *arguments]) == 0
        states.append(load_file(tmp_path / target / "model.safetensors"))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_tower_in_the_weights_is_used_where_its_name_is_known_and_compared_where_it_is_given(world, tmp_path, capsys):
    folder, state, seen = world
    own = {f"model.vision_tower.vision_tower.vision_model.{name}": 2 * tensor for name, tensor in seen.items()}
    source = write(tmp_path / "own", state | own)
    assert main(["convert-weights", str(source), str(tmp_path / "a")]) == 1
    assert (
        "takes its vision tower from somebody/clip-tiny, which is not here: give its folder as --vision-tower DIR"
        in (capsys.readouterr().err)
    )
    assert main(["convert-weights", str(source), str(tmp_path / "b"), "--vision-tower", str(folder / "clip")]) == 0
    assert "as by the authors' code; SRC holds another one" in capsys.readouterr().out
    first, again = (load_file(one / "model.safetensors") for one in (folder / "hf", tmp_path / "b"))
    assert all(torch.equal(first[name], again[name]) for name in first.keys() | again.keys())


def lora(folder, **config):
    """LoRA as the authors save it: low-rank weights of two kinds of layers, and the projector."""
    folder.mkdir()
    state = {}
    for layer in range(2):
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            outputs, inputs = LAYER[name]
            at = f"base_model.model.model.layers.{layer}.{name}"
            state |= {f"{at}.lora_A.weight": numbers(3, inputs), f"{at}.lora_B.weight": numbers(outputs, 3)}
    torch.save(state, folder / "adapter_model.bin")
    full = {f"base_model.model.{name}": tensor for name, tensor in projector().items()}
    torch.save(full, folder / "non_lora_trainables.bin")
    settings = {
        "peft_type": "LORA", "r": 3, "lora_alpha": 6, "lora_dropout": 0.05, "bias": "none", "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "down_proj"], "modules_to_save": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return state, full


def test_lora_of_the_authors_becomes_an_adapter_on_one_base_and_a_merged_model_on_another(world, tmp_path, capsys):
    folder, state, _ = world
    low, full = lora(tmp_path / "llava-lora")
    assert main(["convert-weights", str(tmp_path / "llava-lora"), str(tmp_path / "x")]) == 1
    assert "give the model below them as --base" in capsys.readouterr().err
    source, clip = str(tmp_path / "llava-lora"), str(folder / "clip")
    assert main(["convert-weights", source, str(tmp_path / "adapter"), "--base", str(folder / "hf")]) == 0
    vicuna = write(tmp_path / "vicuna", {name: one for name, one in state.items() if "mm_projector" not in name})
    (vicuna / "config.json").write_text('{"model_type": "llama"}')
    arguments = [source, str(tmp_path / "merged"), "--base", str(vicuna), "--vision-tower", clip]
    assert main(["convert-weights", *arguments]) == 0
    expected = {name: tensor for name, tensor in state.items() if "inv_freq" not in name}
    for name, a in low.items():
        if "lora_A" in name:
            weight = name.removeprefix("base_model.model.").replace(".lora_A", "")
            expected[weight] = state[weight] + 6 / 3 * low[name.replace("lora_A", "lora_B")] @ a
    expected |= {name.removeprefix("base_model.model."): tensor for name, tensor in full.items()}
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in expected.items():
        hf = {"lm_head.weight": "language_model.lm_head.weight"}.get(
            name, name.replace("model.", "language_model.model.", 1)
        )
        for number, linear_name in (("0", "linear_1"), ("2", "linear_2")):
            hf = hf.replace(f"language_model.model.mm_projector.{number}", f"multi_modal_projector.{linear_name}")
        torch.testing.assert_close(found[hf][: len(tensor)], tensor, atol=1e-6, rtol=1e-6)
    _, _, given = inputs(folder / "hf")
    with quiet():
        merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
        base = AutoModelForImageTextToText.from_pretrained(folder / "hf")
        layered = PeftModel.from_pretrained(base, tmp_path / "adapter")
    wanted = merged(**given).logits[..., :WORDS]
    torch.testing.assert_close(layered(**given).logits[..., :WORDS], wanted, atol=1e-4, rtol=1e-4)
    ours = load_model(folder / "hf", adapter=tmp_path / "adapter")
    torch.testing.assert_close(ours(**given).logits[..., :WORDS], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("with_projector", [True, False])
def test_an_adapter_of_peft_is_loaded_as_the_authors_code_loads_its_own(world, tmp_path, with_projector):
    """Their builder: names lose `base_model.` and `model.`, the rest is PEFT on the original model."""
    folder, state, _ = world
    with quiet():
        base = AutoModelForImageTextToText.from_pretrained(folder / "hf")
        parts = ["model.multi_modal_projector"] if with_projector else None
        settings = LoraConfig(
            r=2, lora_alpha=3, target_modules=r".*language_model.*\.(v_proj|up_proj)", modules_to_save=parts,
            init_lora_weights=False, task_type="CAUSAL_LM",
        )  # fmt: skip
        policy = get_peft_model(base, settings)
        if with_projector:
            for name, parameter in policy.named_parameters():
                if "modules_to_save" in name:
                    torch.nn.init.normal_(parameter)
        policy.save_pretrained(tmp_path / "adapter")
        merged = policy.merge_and_unload()
    target = tmp_path / "llava-lora-tiny"
    arguments = [str(tmp_path / "adapter"), str(target), "--to", "llava", "--vision-tower", "somebody/clip-tiny"]
    assert main(["convert-weights", *arguments]) == 0
    assert {path.name for path in target.iterdir()} == {
        "adapter_config.json", "adapter_model.bin", "config.json", "non_lora_trainables.bin"
    }  # fmt: skip
    config = json.loads((target / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 3, ["up_proj", "v_proj"])
    full = torch.load(target / "non_lora_trainables.bin", weights_only=True)
    assert all(name.startswith("base_model.") for name in full)
    full = {name.removeprefix("base_model.").removeprefix("model."): tensor for name, tensor in full.items()}
    assert full.keys() == projector().keys()
    original = {**state, **full}
    low = torch.load(target / "adapter_model.bin", weights_only=True)
    assert len(low) == 2 * 2 * 2
    for name, a in low.items():
        if "lora_A" in name:
            weight = name.removeprefix("base_model.model.").replace(".lora_A", "")
            original[weight] = original[weight] + 3 / 2 * low[name.replace("lora_A", "lora_B")] @ a
    found = merged.state_dict()
    for name, tensor in original.items():
        hf = {"lm_head.weight": "lm_head.weight"}.get(name, name.replace("model.", "model.language_model.", 1))
        for number, linear_name in (("0", "linear_1"), ("2", "linear_2")):
            hf = hf.replace(f"language_model.mm_projector.{number}", f"multi_modal_projector.{linear_name}")
        if "inv_freq" not in name:
            torch.testing.assert_close(found[hf][: len(tensor)], tensor, atol=1e-6, rtol=1e-6)
    again = ["convert-weights", str(target), str(tmp_path / "again"), "--base", str(folder / "hf")]
    assert main(again) == 0
    before, after = (load_file(one / "adapter_model.safetensors") for one in (tmp_path / "adapter", tmp_path / "again"))
    assert before.keys() <= after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_not_a_llava_1_5_is_refused_in_one_line(world, tmp_path, capsys):
    folder, state, _ = world
    clip, count = str(folder / "clip"), iter(range(99))

    def refused(message, changed=None, *more, source=None, **config):
        source = source or write(tmp_path / f"s{next(count)}", {**state, **(changed or {})}, **config)
        arguments = ["convert-weights", str(source), str(tmp_path / "x"), *(more or ("--vision-tower", clip))]
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
        assert not (tmp_path / "x").exists()

    refused("its mm_projector_type is 'linear', not 'mlp2x_gelu'", mm_projector_type="linear")
    refused("image_aspect_ratio 'anyres' divides images into tiles, as LLaVA-1.6", image_aspect_ratio="anyres")
    refused("its class is ['LlavaMistralForCausalLM']", architectures=["LlavaMistralForCausalLM"])
    refused("tokens around images", mm_use_im_start_end=True)
    refused("hold 'model.image_newline', which LLaVA-1.5 does not have", {"model.image_newline": torch.ones(WIDTH)})
    refused("'model.norm.weight' is [7], the configs say [32]", {"model.norm.weight": torch.ones(7)})
    refused("which the configs do not have", {"model.layers.2.mlp.up_proj.weight": torch.ones(INNER, WIDTH)})
    refused("lack 'model.layers.2.", num_hidden_layers=3)
    refused("is of type 'llama'", None, "--vision-tower", str(vicuna(tmp_path)))
    refused("--base changes nothing", None, "--base", clip)
    refused("--to 'hf' is unknown", None, "--to", "hf")
    refused("has the layout of LLaVA's authors already", None, "--to", "llava")
    refused("is not in the layout of LLaVA's authors", None, "--to", "transformers", source=folder / "hf")
    refused("the authors' code loads it by name", None, "--to", "llava", source=folder / "hf")
    refused("is not a LLaVA-1.5 of transformers", None, "--to", "llava", source=folder / "clip")
    pope = f"pope={folder / 'clip' / 'config.json'}"
    evaluate = ["evaluate", "--model", str(folder / "llava-tiny"), "--benchmark", pope, "--out", str(tmp_path / "x")]
    assert main(evaluate) == 1
    err = capsys.readouterr().err
    assert f"pairsight convert-weights {folder / 'llava-tiny'} {folder / 'llava-tiny'}-transformers" in err, err


def vicuna(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    return folder
