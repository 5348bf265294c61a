"""Which decoder layers run by our own forward, and that a layer of another structure never does."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

import families
from backward_graph import operations_behind
from family_parts import text_config
from pairsight.models.load import load_model
from pairsight.training.batch import collate, pack_row
from pairsight.training.families import describe, language_model
from pairsight.training.kernels.attention import attention_masks, row_layout, use_tree_attention
from pairsight.training.kernels.layers import shortens_last_layer, use_plain_layers
from pairsight.training.tokens import TokenPrompt, token_example

FAST = ("llama", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3")
"""One family for each kind of decoder layer."""


def tiny(name: str, folder: Path):
    families.build(name, folder / name)
    return load_model(folder / name, dtype="float32", device="cpu").requires_grad_(False)


def row(family, axes: int):
    """Two completions after one prompt of text, as a batch of one row; positions on several axes differ."""
    prompt, none = np.arange(40, 52), np.full(12, -1)
    positions = np.stack([np.arange(13) // (axis + 1) for axis in range(axes)])
    tokens = TokenPrompt(prompt, prompt, positions, none, none, none, 0, b"")
    example = token_example("0", [tokens], [np.array([60, 61, 62]), np.array([60, 70])], 1.0)
    return collate([pack_row([example])], lambda unit: 0, [0])


def run(model, batch, family, *, packed: bool, by_spans: bool = True):
    """Hidden states of the predicting tokens and gradients of all projections; packed, or by path through the tree."""
    stack = language_model(model)
    stack.zero_grad()
    for name, parameter in stack.named_parameters():
        parameter.requires_grad_("_proj" in name)
    axes = batch.positions_ARS if family.rope_index else batch.positions_ARS[0]
    if packed:
        layout = row_layout(batch, family, model.device, by_spans=by_spans, shortened=shortens_last_layer(model))
        mask = attention_masks(batch, family, layout, torch.float32, model.device)
        hidden = stack(
            input_ids=batch.input_ids_RS, attention_mask=mask, position_ids=axes, use_cache=False, row_layout=layout
        ).last_hidden_state[0]
        taken = batch.predictor_P if layout.needed_RN is None else batch.needed_P
        found = hidden[taken]
    else:
        parents, pieces = batch.parent_RS[0].tolist(), []
        for predictor in batch.predictor_P.tolist():
            path = [predictor]
            while parents[path[-1]] >= 0:
                path.append(parents[path[-1]])
            path = torch.tensor(path[::-1])
            out = stack(input_ids=batch.input_ids_RS[:, path], position_ids=axes[..., path], use_cache=False)
            pieces.append(out.last_hidden_state[0, -1])
        found = torch.stack(pieces)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    (found * weights).sum().backward()
    return found, {name: p.grad for name, p in stack.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("by_spans", [True, False])
@pytest.mark.parametrize("name", FAST)
def test_values_and_gradients_of_each_kind_of_layer_are_those_of_transformers(
    name: str, by_spans: bool, tmp_path: Path
):
    torch.set_num_threads(1)
    plain = tiny(name, tmp_path)
    family = describe(plain)
    batch = row(family, 3 if family.rope_index else 1)
    fast = copy.deepcopy(plain)
    use_tree_attention(fast)
    assert use_plain_layers(fast)
    assert shortens_last_layer(fast)
    widths: list[int] = []
    for layer in language_model(fast).layers:
        layer.register_forward_hook(lambda module, inputs, out: widths.append(out.shape[1]))
    got, gradients = run(fast, batch, family, packed=True, by_spans=by_spans)
    expected, expected_gradients = run(plain, batch, family, packed=False)
    depth = len(widths)
    assert widths == [batch.input_ids_RS.shape[1]] * (depth - 1) + [len(batch.needed_P.unique())]
    names = [node.name() for node in operations_behind(got)]
    norms = names.count("_NormBackward") + names.count("_OnePlusNormBackward")
    of_heads = 2 if "3" in name else 0
    assert norms >= depth * (2 + of_heads) - 1  # below the first norm nothing is trained
    assert names.count("_RotationBackward") == 2 * depth
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    for parameter, gradient in expected_gradients.items():
        if (scale := float(gradient.abs().max())) > 1e-6 * largest:  # else rounding around 0, as a key's bias has it
            assert float((gradients[parameter] - gradient).abs().max()) <= 1e-5 * scale, parameter


def test_a_last_layer_after_which_image_features_are_added_computes_all_tokens(tmp_path: Path):
    folder = families.build("qwen3_vl", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = len(config["vision_config"]["deepstack_visual_indexes"])
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, device="cpu")
    assert use_plain_layers(model)
    assert not shortens_last_layer(model)


def test_layers_of_an_unknown_structure_are_kept_and_named_once(caplog):
    model = Gemma2ForCausalLM(Gemma2Config(**text_config(20)))
    with caplog.at_level(logging.INFO, "pairsight.training"):
        assert not use_plain_layers(model)
    assert not shortens_last_layer(model)
    (record,) = caplog.records
    assert "Gemma2DecoderLayer runs as transformers has it, the last layer on all tokens" in record.getMessage()


def other_norm(layer):
    layer.post_feedforward_layernorm = nn.LayerNorm(32)


def other_scale(layer):
    layer.register_buffer("layer_scalar", torch.ones(1))


def normed_heads(layer):
    layer.self_attn.q_norm = nn.LayerNorm(8)


def no_norm(layer):
    layer.input_layernorm = nn.Identity()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_norm, "post_feedforward_layernorm"),
        (other_scale, "layer_scalar"),
        (normed_heads, "q_norm"),
        (no_norm, "input_layernorm"),
    ],
)
def test_a_known_layer_with_other_weights_than_known_is_kept(change, named: str, caplog):
    model = LlamaForCausalLM(LlamaConfig(**text_config(20)))
    change(model.model.layers[0])
    assert not use_plain_layers(model)
    assert f"LlamaDecoderLayer has or lacks {named}" in caplog.text
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"use_bidirectional_attention": "vision"}, "tokens of an image see each other both ways, but in its sliding"),
        ({"use_bidirectional_attention": "all"}, "its tokens see later tokens"),
        ({"final_logit_softcapping": 30.0}, "its head caps logits"),
        ({}, ""),
    ],
)
def test_what_packing_does_not_know_of_gemma_4_is_said(options: dict, why: str):
    config = Gemma4TextConfig(**text_config(20), vocab_size_per_layer_input=20, num_kv_shared_layers=0, **options)
    with torch.device("meta"):
        model = Gemma4ForCausalLM(config)
    assert describe(model).obstacle.startswith(why)
    assert bool(describe(model).obstacle) == bool(why)
