"""The short ways of a forward pass give what the long ones give."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import linear, log_softmax
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from pairsight.training.fused_elementwise import rms_norm, rotate
from pairsight.training.fused_lora import fuse_lora
from pairsight.training.head import head_logps
from pairsight.training.prefix_tree import merge
from pairsight.training.spans import Span, spans_of, spans_of_some
from pairsight.training.tree_attention import TreeSpans, tree_attention


def test_spans_of_a_prompt_two_questions_and_their_completions():
    sequences = ([1, 2, 3, 10, 11], [1, 2, 3, 12], [1, 2, 4, 13])
    tree = merge([np.array(s, np.int64) for s in sequences])
    spans = spans_of(tree.parent_S)
    assert spans == (Span(0, 5, ((0, 5),), 0), Span(5, 6, ((0, 3), (5, 6)), 3), Span(6, 8, ((0, 2), (6, 8)), 2))
    mask = TreeSpans(spans).mask(spans[2], torch.float32, torch.device("cpu"))
    assert (mask == 0).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_a_forest_has_one_causal_span_a_tree():
    tree = merge([np.array(s, np.int64) for s in ([1, 2], [3, 4, 5])])
    spans = spans_of(tree.parent_S)
    assert spans == (Span(0, 2, ((0, 2),), 0), Span(2, 5, ((2, 5),), 0))
    assert TreeSpans(spans).mask(spans[1], torch.float32, torch.device("cpu")) is None


def test_spans_of_some_queries_keep_their_keys_up_to_the_last():
    spans = (Span(0, 5, ((0, 5),), 0), Span(5, 9, ((0, 3), (5, 9)), 3))
    assert spans_of_some(spans, np.array([2, 3, 6, 8])) == (
        Span(0, 2, ((0, 4),), 2),
        Span(2, 3, ((0, 3), (5, 7)), 4),
        Span(3, 4, ((0, 3), (5, 9)), 6),
    )


@pytest.mark.parametrize("block", [2, 64])
@pytest.mark.parametrize("kept", [2**24, 0])  # by blocks, and by the library's fused attention
@pytest.mark.parametrize("some", [None, [1, 2, 4, 6, 9]])
def test_attention_by_spans_is_masked_attention(block, kept, some, monkeypatch):
    monkeypatch.setattr("pairsight.training.blocked_attention._BLOCK", block)
    monkeypatch.setattr("pairsight.training.blocked_attention._KEPT", kept)
    torch.manual_seed(0)
    tree = merge([np.array(s, np.int64) for s in ([1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 7, 8], [9, 9])])
    size = len(tree)
    queries = np.arange(size) if some is None else np.array(some)
    query, key, value = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (len(queries), size, size))
    place = np.arange(size)
    seen = torch.from_numpy((place[None] <= place[:, None]) & (place[:, None] < tree.end_S[None]))[queries]
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    spans = spans_of(tree.parent_S) if some is None else spans_of_some(spans_of(tree.parent_S), queries)
    mask = torch.zeros(1, 1, 1, 1)
    mask.tree = TreeSpans(spans)
    got, _ = tree_attention(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), [query, key, value]),
        torch.autograd.grad((expected * weights).sum(), [query, key, value]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_norm_and_rotation_are_those_of_transformers():
    torch.manual_seed(0)
    norm = LlamaRMSNorm(6, eps=1e-5).requires_grad_(False)
    norm.weight.normal_()
    cos, sin = (torch.randn(2, 3, 4).repeat(1, 1, 2) for _ in range(2))
    hidden = torch.randn(2, 3, 6, requires_grad=True)
    states = torch.randn(2, 3, 5, 8, requires_grad=True)
    theirs_turned, _ = apply_rotary_pos_emb(states.transpose(1, 2), states.transpose(1, 2), cos, sin)
    for ours, theirs, given in (
        (rms_norm(norm, hidden), norm(hidden), hidden),
        (rotate(states, cos, sin), theirs_turned.transpose(1, 2), states),
    ):
        torch.testing.assert_close(ours, theirs)
        weights = torch.randn_like(theirs)
        torch.testing.assert_close(
            torch.autograd.grad((ours * weights).sum(), given), torch.autograd.grad((theirs * weights).sum(), given)
        )


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


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_head_log_probs_and_gradients_are_those_of_a_log_softmax(trained: bool, bias: bool, monkeypatch):
    monkeypatch.setattr("pairsight.training.head._CHUNK_ELEMENTS", 16 * 11)  # several chunks
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
