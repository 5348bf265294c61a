"""Every way to compute attention over packed rows is softmax over what each token sees on its own path.

What that is, is built here from the paths: of a token's path all up to itself that its window holds, and its own block.
"""

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers.models.mistral import MistralForCausalLM

from pairsight.errors import TrainingError
from pairsight.training.batch import collate, join, pack_row
from pairsight.training.families import describe
from pairsight.training.kernels import attention, blocked_attention
from pairsight.training.kernels.attention import TreeSpans, attend, tree_attention
from pairsight.training.kernels.flex_attention import RowTokens, flexible_attention
from pairsight.training.kernels.layers import use_plain_layers
from pairsight.training.kernels.spans import Span, spans_of, spans_of_some
from pairsight.training.kernels.varlen_attention import VarlenKernel, VarlenPlan, varlen_attention
from pairsight.training.scorer import Scoring, packed_token_logps
from pairsight.training.tokens import TokenExample, TokenSequence, merge

SEQUENCES = ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 8], [1, 2, 9, 10, 11], [1, 2, 9, 12], [20, 21, 22], [20, 21, 23])
"""Two trees: questions on one prompt, completions of each."""
CASES = {
    "causal": ({}, None),
    "window": ({}, 3),
    "window of one": ({}, 1),
    "image": ({3: 0, 4: 0}, None),
    "image longer than the window": ({3: 0, 4: 0, 5: 0}, 2),
    "prompt": ({1: 0, 2: 0, 20: 1, 21: 1}, None),
    "image in a window": ({3: 0, 4: 0, 10: 1, 11: 1}, 3),
}
"""Symbols that lie in a block, and which; nothing branches inside one. Tokens that a window holds."""


class Row:
    """A packed row with what each of its tokens sees."""

    def __init__(self, blocks: dict[int, int], window: int | None, queries: list[int] | None) -> None:
        symbols = [np.array(s, np.int64) for s in SEQUENCES]
        tree = merge(symbols)
        self.size = len(tree)
        block = np.array([blocks.get(SEQUENCES[s][d], -1) for s, d in zip(tree.source_S, tree.depth_S, strict=True)])
        seen = np.zeros((self.size, self.size), bool)
        for path in tree.paths:
            for depth, token in enumerate(path):
                past = path[max(0, depth + 1 - (window or self.size)) : depth + 1]
                later = [t for t in path[depth:] if block[token] >= 0 and block[t] == block[token]]
                seen[token, [*past, *later]] = True
        self.queries = np.arange(self.size) if queries is None else np.array(queries)
        self.seen = torch.from_numpy(seen[self.queries])
        spans = spans_of(tree.parent_S, block, window)
        some = None
        if queries is not None:
            spans, some = spans_of_some(spans, self.queries), torch.from_numpy(self.queries)
        numbers = (torch.from_numpy(n) for n in (tree.end_S, tree.depth_S, block))
        self.tree = TreeSpans(spans, RowTokens(*numbers, window, some))

    def states(self, heads: int, shared: int, width: int = 8) -> list[torch.Tensor]:
        torch.manual_seed(0)
        shapes = ((heads, len(self.queries)), (shared, self.size), (shared, self.size))
        return [torch.randn(1, *shape, width, requires_grad=True) for shape in shapes]

    def expected(self, query, key, value, scaling):
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (key, value))
        scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~self.seen, -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2)


def softmax_by_segment(query, key, value, bounds, *, window, scale):
    """Segments of queries and keys aligned at their ends, as FlashAttention documents its windows."""
    (cu_seq_q, cu_seq_k, max_q, max_k), out = bounds, []
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    for a, b, c, d in zip(cu_seq_q[:-1], cu_seq_q[1:], cu_seq_k[:-1], cu_seq_k[1:], strict=True):
        q, k, v = query[a:b], key[c:d], value[c:d]
        assert len(q) <= max_q and len(k) <= max_k
        k, v = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (k, v))
        own, other = torch.arange(len(q))[:, None] + len(k) - len(q), torch.arange(len(k))
        hidden = torch.zeros(len(q), len(k), dtype=torch.bool)
        hidden |= (other < own - window[0]) if window[0] >= 0 else False
        hidden |= (other > own + window[1]) if window[1] >= 0 else False
        scores = (torch.einsum("qhe,khe->hqk", q, k) * scale).masked_fill(hidden, -torch.inf)
        out.append(torch.einsum("hqk,khe->qhe", scores.softmax(-1), v))
    return torch.cat(out)


def varlen_attn(  # noqa: PLR0917 - as it is called
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return softmax_by_segment(query, key, value, (cu_seq_q, cu_seq_k, max_q, max_k), window=window_size, scale=scale)


def older_varlen_attn(  # noqa: PLR0917 - as it is called
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None
):
    window = (-1, 0) if is_causal else (-1, -1)
    bounds = (cu_seq_q, cu_seq_k, max_q, max_k)
    return softmax_by_segment(query, key, value, bounds, window=window, scale=query.shape[-1] ** -0.5)


def flash_attn_varlen_func(  # noqa: PLR0917 - as it is called
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
):
    assert not causal
    bounds = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return softmax_by_segment(q, k, v, bounds, window=window_size, scale=softmax_scale)


def by_blocks(query, key, value, tree, scaling):
    return blocked_attention.blocked_attention(query, key, value, tree.spans, scaling)


def by_spans(query, key, value, tree, scaling):
    return attention._span_by_span(query, key, value, tree, scaling, dropout=0.0)


def together(query, key, value, tree, scaling, *, kernel=varlen_attn):
    plan = VarlenPlan.of(tree.spans, key.shape[2], torch.device("cpu"))
    return varlen_attention(query, key, value, plan, scaling, kernel=VarlenKernel.of(kernel), dropout=0.0)


def by_block_mask(query, key, value, tree, scaling):
    return flexible_attention(query, key, value, tree.block_mask(torch.device("cpu")), scaling)


def check(way, row: Row, heads: int = 4, shared: int = 2, tolerance: float = 5e-7):
    states = row.states(heads, shared)
    got, expected = way(*states, row.tree, 0.3), row.expected(*states, 0.3)
    assert got.is_contiguous()
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=1e-5)
    weights = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), states) for out in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=5 * tolerance, rtol=1e-5)


SOME = [1, 2, 3, 6, 8, 9, 12]
"""Queries of a last layer: single ones, neighbours, some inside blocks."""


@pytest.mark.parametrize("some", [None, SOME])
@pytest.mark.parametrize("case", CASES)
def test_attention_in_blocks_span_by_span_and_together_is_softmax_over_a_path(case, some, monkeypatch):
    for size in (2, 128):
        monkeypatch.setattr(blocked_attention, "_BLOCK", size)
        monkeypatch.setattr(attention, "_SHORTEST", size)
        monkeypatch.setattr(attention, "_MASKED", 10 * size)
        for heads, shared in ((2, 2), (4, 2), (3, 1)):
            for way in (by_blocks, by_spans, together, partial(together, kernel=flash_attn_varlen_func)):
                check(way, Row(*CASES[case], some), heads, shared)


@pytest.mark.parametrize("some", [None, SOME])
def test_an_older_kernel_without_scale_and_windows_takes_what_it_can(some):
    kernel = VarlenKernel.of(older_varlen_attn)
    for case in ("causal", "prompt"):
        row = Row(*CASES[case], some)
        assert not kernel.missing(row.tree.spans, grouped=False, dropout=0.0)
        check(partial(together, kernel=older_varlen_attn), row, 2, 2)
    assert kernel.missing(Row(*CASES["window"], some).tree.spans, grouped=False, dropout=0.0) == "windows"
    assert kernel.missing(row.tree.spans, grouped=True, dropout=0.0) == "grouped keys"
    assert kernel.missing(row.tree.spans, grouped=False, dropout=0.1) == "dropout"


def test_newer_kernels_take_windows_and_grouped_keys_and_flash_attention_dropout():
    spans = Row(*CASES["image in a window"], None).tree.spans
    assert not VarlenKernel.of(varlen_attn).missing(spans, grouped=True, dropout=0.0)
    assert VarlenKernel.of(varlen_attn).missing(spans, grouped=True, dropout=0.1) == "dropout"
    assert not VarlenKernel.of(flash_attn_varlen_func).missing(spans, grouped=True, dropout=0.1)


def test_the_installed_kernel_takes_the_arguments_that_ours_have():
    from torch.nn.attention.varlen import varlen_attn as installed

    kernel = VarlenKernel.of(installed)
    assert not kernel.missing(Row(*CASES["window"], None).tree.spans, grouped=True, dropout=0.0)
    assert list(inspect.signature(installed).parameters)[:7] == list(inspect.signature(varlen_attn).parameters)[:7]


def test_all_spans_go_into_one_call_and_blocks_into_a_second():
    plan = VarlenPlan.of(Row(*CASES["window"], None).tree.spans, 16, torch.device("cpu"))
    assert [call.window for call in plan.calls] == [(2, 0)]
    assert plan.query_N is None and plan.back_N is None
    plan = VarlenPlan.of(Row(*CASES["image"], None).tree.spans, 16, torch.device("cpu"))
    assert [call.window for call in plan.calls] == [(-1, 0), (-1, -1)]
    one = VarlenPlan.of([Span(0, 3, ((0, 3),)), Span(3, 5, ((3, 5),))], 5, torch.device("cpu"))
    assert one.key_K is None  # nothing is shared: nothing is gathered
    (call,) = one.calls
    assert call.query_bounds_C.tolist() == call.key_bounds_C.tolist() == [0, 3, 5]


def test_gradients_of_gathered_keys_in_bf16_are_summed_in_float32():
    """One key that 300 spans see: summed in bfloat16 the last of them would round away."""
    spans = [Span(0, 1, ((0, 1),)), *(Span(n, n + 1, ((0, 1), (n, n + 1))) for n in range(1, 301))]
    plan = VarlenPlan.of(spans, 301, torch.device("cpu"))
    value = torch.zeros(1, 1, 301, 8, dtype=torch.bfloat16, requires_grad=True)
    zeros = torch.zeros(1, 1, 301, 8, dtype=torch.bfloat16)
    out = varlen_attention(zeros, zeros, value, plan, 1.0, kernel=VarlenKernel.of(varlen_attn), dropout=0.0)
    (gradient,) = torch.autograd.grad(out.sum(), value)
    assert float(gradient[0, 0, 0, 0]) == 151  # its own, and half of 300 others


@pytest.mark.parametrize(("case", "some"), [("causal", None), ("image in a window", SOME)])
def test_flex_attention_is_softmax_over_a_path(case, some, monkeypatch):
    """Uncompiled; PyTorch refuses gradients on a CPU, though its own formulas compute them."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *states: None)
    check(by_block_mask, Row(*CASES[case], some))


@pytest.mark.parametrize("some", [None, SOME])
@pytest.mark.parametrize("case", CASES)
def test_the_blocks_of_flex_attention_hold_what_is_seen(case, some, monkeypatch):
    from pairsight.training.kernels import flex_attention

    monkeypatch.setattr(flex_attention, "_BLOCK", 2)
    row = Row(*CASES[case], some)
    some_AK, all_AK = flex_attention._visible_blocks(row.tree.spans, len(row.queries), row.size)
    rows, columns = some_AK.shape
    padded = np.zeros((2 * rows, 2 * columns), bool)
    padded[: len(row.queries), : row.size] = row.seen
    blocks = padded.reshape(rows, 2, columns, 2)
    assert (some_AK >= blocks.any((1, 3))).all()
    assert (all_AK <= blocks.all((1, 3))).all()
    if case == "causal" and some is None:
        assert (some_AK == blocks.any((1, 3))).all()
        assert all_AK.any()


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_way_is_softmax_over_a_path(case, width):
    for some in (None, SOME):
        row = Row(*CASES[case], some)
        exact = [states.cuda().detach().requires_grad_() for states in row.states(4, 2, width)]
        row.seen = row.seen.cuda()
        truth = row.expected(*exact, 0.3)
        weights = torch.randn_like(truth)
        expected = (truth, *torch.autograd.grad((truth * weights).sum(), exact))
        for dtype, tolerance in ((torch.bfloat16, 3e-2), (torch.float32, 1e-4)):
            states = [one.detach().to(dtype).requires_grad_() for one in exact]
            out = attend(*states, row.tree, 0.3)
            got = (out, *torch.autograd.grad((out * weights.to(dtype)).sum(), states))
            for ours, theirs in zip(got, expected, strict=True):
                assert float((ours.float() - theirs).norm() / theirs.norm()) < tolerance


def test_layers_that_do_not_pass_on_the_layout_are_an_error():
    states = torch.zeros(1, 1, 2, 4)
    with pytest.raises(TrainingError, match=r"Linear was not given `row_layout`.*share_prefixes=false"):
        tree_attention(torch.nn.Linear(1, 1), states, states, states, torch.empty(1, 1, 0, 0))


SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def tiny(name: str):
    torch.manual_seed(0)
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE))
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=50))
    kinds = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, sliding_window=50, layer_types=kinds))


def example(prompt: int, lengths: list[int], block: tuple[int, int] | None) -> TokenExample:
    """Completions of a made-up prompt, part of which is an image's block."""
    sequences = []
    for number, length in enumerate(lengths):
        ids = np.concatenate([np.arange(prompt) % 40, np.full(length, 41 + number)])
        none = np.full(len(ids), -1)
        blocks = none.copy()
        if block:
            blocks[slice(*block)] = 0
        sequences.append(TokenSequence(ids, ids, np.arange(len(ids))[None], blocks, none, none, prompt, 0, b""))
    return TokenExample("x", tuple(sequences), len(lengths), 1.0, prompt + sum(lengths))


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("kept", [2**24, 0])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_nothing_of_the_size_of_tokens_by_tokens_is_made(name, kept, monkeypatch):
    monkeypatch.setattr(blocked_attention, "_KEPT", kept)
    model = tiny(name)
    attention.use_tree_attention(model)
    use_plain_layers(model)
    block = (20, 60) if name == "gemma3" else None
    rows = [pack_row([example(300, [150, 150], block)]), pack_row([example(200, [100, 100], block)])]
    batch = collate([join(rows)], len, [0, 1])
    tokens = batch.input_ids_RS.shape[1]
    assert tokens == 1000
    scoring = Scoring(describe(model), None, vision_frozen=True)
    with Largest() as largest:
        packed_token_logps(model, batch, scoring).sum().backward()
    assert largest.size < tokens**2 / 2
    with Largest() as largest:
        packed_token_logps(model, collate(rows, len, [0, 1]), scoring)
    assert largest.size >= 2 * 600**2  # two rows have a dense mask, and the test sees it
