"""Which examples share a row, and which rows a pass: each kind of sharing has its own bound."""

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from pairsight.training.batch import PassLimits, divide, join, pack_row, plan_passes
from pairsight.training.scorer import pass_limits
from pairsight.training.tokens import TokenPrompt, token_example


def example(image: int, question: int):
    """Ten tokens of an image, two of a question, and completions of one token each: 14 tokens when merged."""
    ids = np.array([100 * image + index for index in range(10)] + [1000 + question, 1001 + question])
    none = np.full(12, -1)
    prompt = TokenPrompt(ids, ids, np.arange(13)[None], none, none, none, number=question, key=b"")
    return token_example(f"{image}-{question}", [prompt], [np.array([7]), np.array([8])], weight=1.0)


EXAMPLES = [example(image=1, question=2), example(image=2, question=4), example(image=1, question=6)]


@pytest.mark.parametrize(
    ("row", "joined", "expected"),
    [
        (18, 14, [[(0, 2)], [(1,)]]),  # 14 + 4 new tokens fit a row, two rows do not fit a pass
        (17, 14, [[(0,)], [(2,)], [(1,)]]),
        (17, 28, [[(0,), (2,)], [(1,)]]),
        (17, 42, [[(0,), (2,), (1,)]]),
        (18, 35, [[(0, 2)], [(1,)]]),  # padded to 18 tokens each
        (18, 36, [[(0, 2), (1,)]]),
        (5, 5, [[(0,)], [(2,)], [(1,)]]),  # what is larger than its bound goes alone
    ],
)
def test_rows_and_passes_have_their_own_bounds(row, joined, expected):
    assert [len(one.sequences[0]) for one in EXAMPLES] == [13] * 3
    assert [one.num_tokens for one in EXAMPLES] == [14] * 3
    assert plan_passes(EXAMPLES, [0, 1, 2], PassLimits(row, joined), share=True) == expected


def test_rows_that_are_joined_end_to_end_take_no_padding():
    for joined, expected in ((31, [[(0, 2)], [(1,)]]), (32, [[(0, 2), (1,)]])):
        limits = PassLimits(18, joined, padded=False)
        assert plan_passes(EXAMPLES, [0, 1, 2], limits, share=True) == expected


def test_joined_rows_are_their_trees_one_after_the_other():
    one, other = pack_row([EXAMPLES[0], EXAMPLES[2]]), pack_row([EXAMPLES[1]])
    both = join([one, other])
    assert both.sequences == (*one.sequences, *other.sequences)
    assert both.tree.source_S.tolist() == [*one.tree.source_S, *(other.tree.source_S + 4)]
    assert both.tree.depth_S.tolist() == [*one.tree.depth_S, *other.tree.depth_S]
    assert both.tree.parent_S.tolist() == [*one.tree.parent_S, -1, *range(18, 30), 29]
    assert both.tree.end_S.tolist() == [*one.tree.end_S, *[32] * 12, 31, 32]
    assert [path.tolist() for path in both.tree.paths[4:]] == [[*range(18, 31)], [*range(18, 30), 31]]
    assert both.predicted_P.tolist() == [*one.predicted_P, 30, 31]
    assert [c.tolist() for c in both.completions] == [[0], [1], [2], [3], [4], [5]]


def test_without_sharing_every_example_is_a_row():
    assert plan_passes(EXAMPLES, [0, 1, 2], PassLimits(100, 14), share=False) == [[(0,)], [(2,)], [(1,)]]


@pytest.mark.parametrize(
    ("numbers", "parts", "share", "expected"),
    [
        ([0, 1, 2], 2, True, [[0, 2], [1]]),  # 18 tokens and 14: what shares an image stays together
        ([2, 0, 1], 2, True, [[0, 2], [1]]),  # in whatever order they come
        ([0, 1, 2], 2, False, [[0, 1], [2]]),
        ([0, 1, 2], 4, True, [[0], [2], [1], []]),  # 11 tokens are a part's share, so nobody shares
        ([1], 2, True, [[1], []]),
        ([], 2, True, [[], []]),
    ],
)
def test_a_batch_is_divided_by_tokens(numbers, parts, share, expected):
    assert divide(EXAMPLES, numbers, parts, share=share) == expected


def test_limits_follow_from_memory_or_from_what_was_asked():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=64, intermediate_size=64, num_hidden_layers=2))
    # (12 + 4) vectors of 64 float32 numbers in each of 2 layers: 8 KiB a token, of 2^29 and 2^28 bytes
    assert pass_limits(model, None) == PassLimits(row=2**16, joined=2**15)
    assert pass_limits(model, 500) == PassLimits(row=500, joined=500)
