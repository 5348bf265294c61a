"""The next token: temperature, top-k, top-p and the inverted cumulative distribution, by hand and against peers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from pairsight.models.local.tokens import choose, keep_top_k, keep_top_p, penalise_repetition
from pairsight.models.protocols import Sampling

HALVES = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.125), math.log(0.125)]])


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    assert choose(logits, Sampling(temperature=0), None).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 2), (0.87, 2), (0.88, 3), (0.999999, 3)]
)
def test_a_draw_inverts_the_cumulative_distribution(number, token):
    drawn = choose(HALVES, Sampling(temperature=1), torch.tensor([number], dtype=torch.float64))
    assert drawn.tolist() == [token]


def test_temperature_flattens():
    # at temperature 2 the probabilities are 2, sqrt(2), 1, 1 over their sum 5.414: the first ends at 0.369
    draws = torch.tensor([0.36, 0.38], dtype=torch.float64)
    assert choose(HALVES.repeat(2, 1), Sampling(temperature=2), draws).tolist() == [0, 1]


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    for number in (0.0, 0.3, 0.5, 0.9, 1 - 2**-53):
        drawn = choose(logits, Sampling(temperature=1), torch.tensor([number], dtype=torch.float64))
        assert drawn.item() in (1, 3)


def test_top_k_and_top_p_by_hand():
    assert torch.isfinite(keep_top_k(HALVES, 2)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(keep_top_p(HALVES, 0.6)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(keep_top_p(HALVES, 0.4)).tolist() == [[True, False, False, False]]
    assert torch.isfinite(keep_top_p(HALVES, 1.0)).all()
    assert torch.isfinite(keep_top_k(HALVES, 0)).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), top_k=st.integers(1, 12), top_p=st.floats(0.05, 0.99))
def test_what_is_kept_is_what_transformers_keeps(seed, top_k, top_p):
    logits = torch.randn((3, 10), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(keep_top_k(logits, top_k), TopKLogitsWarper(top_k)(None, logits))
    ours, theirs = keep_top_p(logits, top_p), TopPLogitsWarper(top_p)(None, logits)
    assert torch.equal(ours, theirs)


def test_repetition_penalty_is_that_of_transformers():
    logits = torch.tensor([[1.0, -1.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    ours = penalise_repetition(logits, seen, 1.5)
    assert torch.equal(ours, RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 1, 0]]), logits.clone()))
    assert ours[0].tolist() == pytest.approx([2 / 3, -1.5, 2.0, -2.0])


def test_draws_follow_the_distribution():
    numbers = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    drawn = choose(HALVES.repeat(len(numbers), 1), Sampling(temperature=1), numbers)
    assert [round(share, 3) for share in (torch.bincount(drawn, minlength=4) / len(numbers)).tolist()] == [
        0.5,
        0.25,
        0.125,
        0.125,
    ]
