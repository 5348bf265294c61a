"""The fast paths of a forward pass give the results of the plain ones."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch.nn.functional import linear, log_softmax, scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from pairsight.training.kernels.attention import RowLayout, TreeSpans, attend, tree_attention
from pairsight.training.kernels.head import head_logps
from pairsight.training.kernels.layers import fuse_lora, rms_norm, rotate
from pairsight.training.kernels.spans import Span, spans_of, spans_of_some
from pairsight.training.tokens import merge


def test_spans_of_a_prompt_two_questions_and_their_completions():
    sequences = ([1, 2, 3, 10, 11], [1, 2, 3, 12], [1, 2, 4, 13])
    tree = merge([np.array(s, np.int64) for s in sequences])
    spans = spans_of(tree.parent_S)
    assert spans == (Span(0, 5, ((0, 5),)), Span(5, 6, ((0, 3), (5, 6))), Span(6, 8, ((0, 2), (6, 8))))
    mask = TreeSpans(spans).mask(spans[2], torch.float32, torch.device("cpu"))
    assert (mask == 0).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_a_forest_has_one_causal_span_per_tree():
    tree = merge([np.array(s, np.int64) for s in ([1, 2], [3, 4, 5])])
    spans = spans_of(tree.parent_S)
    assert spans == (Span(0, 2, ((0, 2),)), Span(2, 5, ((2, 5),)))
    assert TreeSpans(spans).mask(spans[1], torch.float32, torch.device("cpu")) is None


def test_spans_of_some_queries_keep_their_keys_up_to_the_last():
    spans = (Span(0, 5, ((0, 5),)), Span(5, 9, ((0, 3), (5, 9))))
    assert spans_of_some(spans, np.array([2, 3, 6, 8])) == (
        Span(0, 2, ((0, 4),)),
        Span(2, 3, ((0, 3), (5, 7))),
        Span(3, 4, ((0, 3), (5, 9))),
    )


def test_spans_end_where_a_block_begins_or_ends_and_a_window_drops_keys():
    """A token, an image of three, two words, and another word in their stead."""
    parent, block = np.array([-1, 0, 1, 2, 3, 4, 3]), np.array([-1, 0, 0, 0, -1, -1, -1])
    assert spans_of(parent, block) == (
        Span(0, 1, ((0, 1),)),
        Span(1, 4, ((0, 4),), None, None),
        Span(4, 6, ((0, 6),)),
        Span(6, 7, ((0, 4), (6, 7))),
    )
    in_window = spans_of(parent, block, window=2)
    assert in_window == (
        Span(0, 1, ((0, 1),), 1),
        Span(1, 4, ((0, 4),), 1, None),
        Span(4, 6, ((3, 6),), 1),
        Span(6, 7, ((3, 4), (6, 7)), 1),
    )
    assert spans_of_some(in_window, np.array([2, 5])) == (  # aligned at the ends, one key of the block comes after
        Span(0, 1, ((1, 4),), 2, None),
        Span(1, 2, ((4, 6),), 1),
    )


@pytest.mark.parametrize("block", [2, 64])
@pytest.mark.parametrize("kept", [2**24, 0])  # by blocks, and by the library's fused attention
@pytest.mark.parametrize("some", [None, [1, 2, 4, 6, 9]])
def test_attention_by_spans_is_masked_attention(block, kept, some, monkeypatch):
    monkeypatch.setattr("pairsight.training.kernels.blocked_attention._BLOCK", block)
    monkeypatch.setattr("pairsight.training.kernels.blocked_attention._KEPT", kept)
    torch.manual_seed(0)
    tree = merge([np.array(s, np.int64) for s in ([1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 7, 8], [9, 9])])
    size = len(tree)
    queries = np.arange(size) if some is None else np.array(some)
    query, key, value = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (len(queries), size, size))
    index = np.arange(size)
    seen = torch.from_numpy((index[None] <= index[:, None]) & (index[:, None] < tree.end_S[None]))[queries]
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    spans = spans_of(tree.parent_S) if some is None else spans_of_some(spans_of(tree.parent_S), queries)
    layout = RowLayout({"full_attention": TreeSpans(spans)})
    got, _ = tree_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, row_layout=layout)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), [query, key, value]),
        torch.autograd.grad((expected * weights).sum(), [query, key, value]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_each_kind_of_layer_has_its_own_spans():
    full, sliding = (TreeSpans([Span(0, 2, ((0, 2),), left)]) for left in (None, 0))
    config = SimpleNamespace(layer_types=["sliding_attention", "full_attention"])
    layers = [SimpleNamespace(config=config, layer_idx=index) for index in range(2)]
    layout = RowLayout({"full_attention": full, "sliding_attention": sliding})
    assert [layout.spans_for(layer) for layer in layers] == [sliding, full]
    assert RowLayout({"full_attention": full}).spans_for(torch.nn.Module()) is full  # all layers are of one kind
    assert RowLayout(None).spans_for(layers[0]) is None


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_norm_and_rotation_are_those_of_transformers(kind):
    torch.manual_seed(0)
    norm = kind(6, eps=1e-5).requires_grad_(False)
    norm.weight.normal_()
    cos, sin = (torch.randn(2, 3, 4).repeat(1, 1, 2) for _ in range(2))
    hidden = torch.randn(2, 3, 6, requires_grad=True)
    states = torch.randn(2, 3, 5, 8, requires_grad=True)
    theirs_turned, _ = apply_rotary_pos_emb(states.transpose(1, 2), states.transpose(1, 2), cos, sin)
    for ours, theirs, given in (
        (rms_norm(norm, hidden, one_plus=kind is Gemma3RMSNorm), norm(hidden), hidden),
        (rotate(states, cos, sin), theirs_turned.transpose(1, 2), states),
    ):
        torch.testing.assert_close(ours, theirs)
        weights = torch.randn_like(theirs)
        torch.testing.assert_close(
            torch.autograd.grad((ours * weights).sum(), given), torch.autograd.grad((theirs * weights).sum(), given)
        )


def distance(got, truth) -> float:
    """Of one tensor from another, relative to it."""
    return float((got.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_norm_in_bf16_is_as_close_to_the_truth_as_that_of_transformers(kind):
    torch.manual_seed(0)
    one_plus = kind is Gemma3RMSNorm
    norm = kind(64, eps=1e-5).requires_grad_(False).bfloat16()
    norm.weight.normal_()
    given = (3 * torch.randn(2, 50, 64)).bfloat16()
    weights = torch.randn(2, 50, 64).bfloat16()
    found = []
    for way, dtype in (("ours", torch.bfloat16), ("theirs", torch.bfloat16), ("truth", torch.float64)):
        hidden = given.detach().to(dtype).requires_grad_()
        if way == "truth":
            scale = norm.weight.double() + one_plus
            out = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale
        else:
            out = rms_norm(norm, hidden, one_plus=one_plus) if way == "ours" else norm(hidden)
        found.append((out.detach(), *torch.autograd.grad((out * weights.to(dtype)).sum(), hidden)))
    ours, theirs, truth = found
    assert ours[0].dtype == ours[1].dtype == torch.bfloat16
    for index in range(2):
        assert distance(ours[index], truth[index]) <= 1.02 * distance(theirs[index], truth[index])


@pytest.mark.parametrize("cos_type", [torch.bfloat16, torch.float32])  # with weights in bf16, and in float32
def test_rotation_in_bf16_is_as_close_to_the_truth_as_that_of_transformers(cos_type):
    torch.manual_seed(0)
    angles = (6 * torch.rand(2, 50, 8)).repeat(1, 1, 2)
    cos, sin = angles.cos().to(cos_type), angles.sin().to(cos_type)
    given, weights = torch.randn(2, 50, 3, 16).bfloat16(), torch.randn(2, 50, 3, 16).bfloat16()
    found = []
    for function, dtype in ((rotate, None), (apply_rotary_pos_emb, None), (apply_rotary_pos_emb, torch.float64)):
        states = given.detach().to(dtype).requires_grad_()
        turning = (cos.to(dtype), sin.to(dtype))
        if function is rotate:
            out = rotate(states, *turning)
        else:
            out = function(states.transpose(1, 2), states.transpose(1, 2), *turning)[0].transpose(1, 2)
        found.append((out.detach(), *torch.autograd.grad((out.bfloat16() * weights).sum(), states)))
    ours, theirs, truth = found
    assert ours[0].dtype == ours[1].dtype == torch.bfloat16
    for index in range(2):
        assert distance(ours[index], truth[index]) <= 1.02 * distance(theirs[index].bfloat16(), truth[index])


def test_attention_by_spans_brings_what_autocast_left_mixed_to_one_type():
    torch.manual_seed(0)
    query, key = (torch.randn(1, 2, 6, 8, requires_grad=True) for _ in range(2))
    value = torch.randn(1, 2, 6, 8).bfloat16().requires_grad_()
    spans = (Span(0, 4, ((0, 4),)), Span(4, 6, ((0, 2), (4, 6))))
    with torch.autocast("cpu", torch.bfloat16):
        got = attend(query, key, value, TreeSpans(spans))
    alone = attend(query.bfloat16(), key.bfloat16(), value, TreeSpans(spans))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, alone)
    assert [g.dtype for g in torch.autograd.grad(got.sum(), [query, value])] == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("shared", [2, 1])
def test_gradients_of_a_prefix_in_bf16_do_not_round_at_each_completion(shared: int):
    """32 completions: the error is that of one masked attention over the row, which adds up inside one product."""
    torch.manual_seed(0)
    tree = merge([np.array([*range(60), *range(1000 * n, 1000 * n + 10)], np.int64) for n in range(1, 33)])
    index = np.arange(len(tree))
    hidden = torch.from_numpy((index[None] > index[:, None]) | (index[:, None] >= tree.end_S[None]))
    mask = torch.zeros(1, 1, *hidden.shape).masked_fill_(hidden, torch.finfo(torch.bfloat16).min)
    query, key, value = (torch.randn(1, heads, len(tree), 32).bfloat16() for heads in (2, shared, shared))
    weights = torch.randn(1, len(tree), 2, 32).bfloat16()
    found = []
    for spans, dtype in ((True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float64)):
        given = [states.detach().to(dtype).requires_grad_() for states in (query, key, value)]
        if spans:
            out = attend(*given, TreeSpans(spans_of(tree.parent_S)))
        else:
            keys, values = (states.repeat_interleave(2 // shared, 1) for states in given[1:])
            out = scaled_dot_product_attention(given[0], keys, values, attn_mask=mask.to(dtype)).transpose(1, 2)
        found.append(torch.autograd.grad((out * weights.to(dtype)).sum(), given))
    for ours, dense, truth in zip(*found, strict=True):
        assert distance(ours, truth) <= 1.2 * distance(dense, truth)


def lora_pair(**options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    targets = ["q_proj", "o_proj", "down_proj"]
    plain = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=3, lora_alpha=7, target_modules=targets, **options))
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 6
    return plain, fused


def outcome(model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(input_ids=torch.tensor([[1, 2, 3, 4, 5]])).logits
    logits.square().sum().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_dropout": 0.5}])
def test_fused_adapters_give_the_same_values_and_gradients(options):
    plain, fused = lora_pair(**options)
    plain.train(), fused.train()
    torch.manual_seed(1)
    expected, expected_gradients = outcome(plain)
    torch.manual_seed(1)
    got, gradients = outcome(fused)
    torch.testing.assert_close(got, expected)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_fused_adapters_can_be_switched_off_and_merged():
    plain, fused = lora_pair()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad(), plain.disable_adapter(), fused.disable_adapter():
        torch.testing.assert_close(fused(input_ids=ids).logits, plain(input_ids=ids).logits)
    with torch.no_grad():
        expected = plain(input_ids=ids).logits
        torch.testing.assert_close(fused.merge_and_unload()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def spread_lora_pair(**options):
    """A plain and a fused model in bf16 below adapters in float32, and the plain one in float32; values alike."""
    plain, _ = lora_pair(**options)
    trained = {name: p.detach().clone() for name, p in plain.named_parameters() if p.requires_grad}
    plain.bfloat16()
    for name, parameter in plain.named_parameters():
        if name in trained:
            parameter.data = trained[name]
    truth, fused = copy.deepcopy(plain).float(), copy.deepcopy(plain)
    fuse_lora(fused)
    return plain, fused, truth


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.05, 0.5])
def test_adapters_in_float32_above_weights_in_bf16_are_fused(dropout, autocast, monkeypatch):
    plain, fused, truth = spread_lora_pair(lora_dropout=dropout)
    found = []
    for model in (fused, plain, truth):
        model.train()
        torch.manual_seed(1)
        if model is fused:
            monkeypatch.setattr(Linear, "forward", None)  # peft's own: not called
        with torch.autocast("cpu", torch.bfloat16, enabled=model is not truth and (autocast or model is plain)):
            found.append(outcome(model))
        monkeypatch.undo()
    (ours, ours_gradients), (theirs, their_gradients), (exact, exact_gradients) = found
    assert ours.dtype == torch.bfloat16
    assert distance(ours, exact) <= 1.2 * distance(theirs, exact)
    assert ours_gradients.keys() == exact_gradients.keys()
    assert all(gradient.dtype == torch.float32 for gradient in ours_gradients.values())
    mean = [
        float(np.mean([distance(gradients[name], exact) for name, exact in exact_gradients.items()]))
        for gradients in (ours_gradients, their_gradients)
    ]
    assert mean[0] <= 1.2 * mean[1]


def test_dropout_of_fused_adapters_is_off_in_evaluation_and_repeats_under_checkpointing():
    plain, fused = lora_pair(lora_dropout=0.5)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(fused.eval()(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            fused.gradient_checkpointing_enable({"use_reentrant": False})
        fused.train()
        fused.zero_grad()
        torch.manual_seed(1)
        gradients.append({name: g.clone() for name, g in outcome(fused)[1].items()})
    assert gradients[0].keys() == gradients[1].keys() != set()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_head_log_probs_and_gradients_are_those_of_a_log_softmax(trained: bool, bias: bool, monkeypatch):
    monkeypatch.setattr("pairsight.training.kernels.head._CHUNK_ELEMENTS", 16 * 11)  # several chunks
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, bias=bias).requires_grad_(trained)
    hidden = torch.randn(40, 5, requires_grad=True)
    target = torch.randint(0, 11, (40,))
    weights = torch.randn(40)
    expected = log_softmax(linear(hidden, head.weight, head.bias), -1).gather(1, target[:, None])[:, 0]
    got = head_logps(head, hidden, target)
    torch.testing.assert_close(got, expected)
    inputs = [hidden, *(head.parameters() if trained else ())]
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("certainty", [0.5, 0.98, 0.997, 0.9999])
def test_a_frozen_heads_gradient_in_bf16_is_there_at_near_certain_tokens(certainty: float):
    torch.manual_seed(0)
    head = torch.nn.Linear(256, 512, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    head.weight.normal_()
    weight, target = head.weight.double(), torch.randint(0, 512, (24,))
    noise = 0.05 * torch.randn(24, 256).double()
    scale = torch.zeros(24, 1).double()
    for step in [0.5**n for n in range(1, 30)]:  # hidden states along the target's row, as long as certainty asks
        likely = ((scale + step) * weight[target] + noise).matmul(weight.T).softmax(-1)
        scale += step * (likely.gather(1, target[:, None]) < certainty)
    given = (scale * weight[target] + noise).bfloat16()
    exact = given.double().requires_grad_()
    probability = (exact @ weight.T).log_softmax(-1).gather(1, target[:, None]).exp()
    assert probability.detach().mean() == pytest.approx(certainty, rel=5e-3)
    (truth,) = torch.autograd.grad(probability.log().sum(), exact)
    hidden = given.clone().requires_grad_()
    (ours,) = torch.autograd.grad(head_logps(head, hidden, target).sum(), hidden)
    assert ours.dtype == torch.bfloat16
    assert float((ours.double() * truth).sum() / truth.square().sum()) == pytest.approx(1.0, abs=0.02)
    plain = given.clone().requires_grad_()
    theirs = head(plain).float().log_softmax(-1).gather(1, target[:, None])
    assert distance(ours, truth) <= 1.2 * distance(torch.autograd.grad(theirs.sum(), plain)[0], truth)
