"""Losses against formulas written out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from pairsight.errors import ConfigError
from pairsight.registry import losses as loss_registry
from pairsight.training.config import TrainingConfig
from pairsight.training.loss_grid import LossInputs, per_token
from pairsight.training.losses import (
    bradley_terry,
    cdpo,
    dpo,
    hinge,
    ipo,
    kto,
    mdpo,
    mpo,
    multi_negative,
    orpo,
    robust,
    sft,
    simpo,
    vision_contrast,
)
from pairsight.training.objective import Objective


def inputs(policy, reference=None, lengths=None, mask=None, state=None) -> LossInputs:
    """Log-probs as nested lists [B][N][K]."""
    policy_BNK = torch.tensor(policy, dtype=torch.float64)
    shape = policy_BNK.shape
    return LossInputs(
        policy_BNK,
        None if reference is None else torch.tensor(reference, dtype=torch.float64),
        torch.ones(shape[0], shape[2]) if lengths is None else torch.tensor(lengths),
        torch.ones(shape, dtype=torch.bool) if mask is None else torch.tensor(mask),
        torch.ones(shape[0], dtype=torch.float64),
        state or {},
    )


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_dpo_by_hand():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]])
    margin = 0.1 * ((-10 + 11) - (-12 + 9))  # 0.4
    out = dpo(x, beta=0.1)
    assert out.loss_B.item() == pytest.approx(-math.log(sigma(margin)))
    assert out.rewards_BK.tolist() == [[pytest.approx(0.1), pytest.approx(-0.3)]]


def test_dpo_with_label_smoothing_by_hand():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]])
    expected = -0.8 * math.log(sigma(0.4)) - 0.2 * math.log(sigma(-0.4))
    assert dpo(x, beta=0.1, label_smoothing=0.2).loss_B.item() == pytest.approx(expected)


def test_several_rejected_completions_are_the_mean_of_their_pairs_and_absent_ones_do_not_count():
    x = inputs(
        [[[-10.0, -12.0, -14.0]], [[-1.0, -3.0, 0.0]]],
        [[[-10.0, -10.0, -10.0]], [[-1.0, -1.0, 0.0]]],
        mask=[[[True, True, True]], [[True, True, False]]],
    )
    first = (-math.log(sigma(0.2)) - math.log(sigma(0.4))) / 2
    assert dpo(x, beta=0.1).loss_B.tolist() == [pytest.approx(first), pytest.approx(-math.log(sigma(0.2)))]


def test_dpo_at_the_reference_is_log_two_and_swapping_flips_the_margin():
    same = inputs([[[-5.0, -7.0]]], [[[-5.0, -7.0]]])
    assert dpo(same).loss_B.item() == pytest.approx(math.log(2))
    there = dpo(inputs([[[-5.0, -7.0]]], [[[-6.0, -6.0]]])).rewards_BK[0]
    back = dpo(inputs([[[-7.0, -5.0]]], [[[-6.0, -6.0]]])).rewards_BK[0]
    assert float(there[0] - there[1]) == pytest.approx(-float(back[0] - back[1]))


def test_sft_is_the_negative_log_prob_and_the_batch_mean_is_over_tokens():
    x = inputs([[[-6.0]], [[-10.0]]], lengths=[[2.0], [8.0]])
    assert sft(x).loss_B.tolist() == [6.0, 10.0]
    step = Objective(TrainingConfig(loss="sft"))(x, num_prompts=2, num_tokens=10)
    assert float(step.total) == pytest.approx(1.6)


def test_a_weighted_sum_keeps_each_loss_its_denominator():
    x = inputs([[[-6.0, -9.0]]], [[[-6.0, -9.0]]], lengths=[[2.0, 3.0]])
    objective = Objective(TrainingConfig(loss=("dpo", "sft"), loss_weights=(2.0, 0.5)))
    step = objective(x, num_prompts=4, num_tokens=20)
    assert float(step.total) == pytest.approx(2 * math.log(2) / 4 + 0.5 * 6 / 20)


def test_average_log_prob_divides_by_length():
    x = inputs([[[-10.0, -12.0]]], [[[-8.0, -6.0]]], lengths=[[2.0, 3.0]])
    averaged = per_token(x)
    assert averaged.policy_logps_BNK.tolist() == [[[-5.0, -4.0]]]
    assert averaged.reference_logps_BNK.tolist() == [[[-4.0, -2.0]]]
    step = Objective(TrainingConfig(average_log_prob=True, beta=1.0))(x, num_prompts=1, num_tokens=2)
    assert float(step.total) == pytest.approx(-math.log(sigma(-1 + 2)))


def test_weights_scale_a_prompts_loss():
    x = inputs([[[-5.0, -7.0]], [[-5.0, -7.0]]], [[[-5.0, -7.0]], [[-5.0, -7.0]]])
    x = replace(x, weights_B=torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert float(Objective(TrainingConfig())(x, num_prompts=2, num_tokens=2).total) == pytest.approx(math.log(2) / 2)


def test_options_no_loss_takes_are_refused():
    with pytest.raises(ConfigError, match="has no option 'gammma'"):
        Objective(TrainingConfig(loss_options={"gammma": 1.0}))
    with pytest.raises(ConfigError, match="2 numbers, one per loss"):
        TrainingConfig.parse({"loss": ["dpo", "sft"], "loss_weights": [1.0]})


def test_cdpo_is_dpo_that_assumes_a_tenth_flipped():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]])
    assert torch.equal(cdpo(x).loss_B, dpo(x, label_smoothing=0.1).loss_B)


def test_robust_by_hand():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]])
    expected = (-0.9 * math.log(sigma(0.4)) + 0.1 * math.log(sigma(-0.4))) / 0.8
    assert robust(x, beta=0.1).loss_B.item() == pytest.approx(expected)


def test_ipo_by_hand():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]])  # log-ratios 1 and -3
    assert ipo(x, beta=0.1).loss_B.item() == pytest.approx((4 - 5) ** 2)


def test_hinge_by_hand():
    x = inputs([[[-10.0, -12.0]], [[0.0, -50.0]]], [[[-11.0, -9.0]], [[-10.0, -10.0]]])
    assert hinge(x, beta=0.1).loss_B.tolist() == [pytest.approx(0.6), 0.0]


def test_multi_negative_by_hand_is_dpo_for_one_and_log_of_one_plus_k_at_the_reference():
    x = inputs([[[-10.0, -12.0, -14.0]]], [[[-10.0, -10.0, -10.0]]])
    assert multi_negative(x, beta=0.1).loss_B.item() == pytest.approx(math.log(1 + math.exp(-0.2) + math.exp(-0.4)))
    one = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]])
    torch.testing.assert_close(multi_negative(one).loss_B, dpo(one).loss_B)
    same = inputs([[[-1.0, -2.0, -3.0, 0.0]]], [[[-1.0, -2.0, -3.0, 0.0]]], mask=[[[True, True, True, False]]])
    assert multi_negative(same).loss_B.item() == pytest.approx(math.log(3))


def test_simpo_by_hand():
    x = inputs([[[-6.0, -12.0]]], lengths=[[3.0, 4.0]])
    assert simpo(x, beta=2.0, gamma=1.0).loss_B.item() == pytest.approx(-math.log(sigma(2 * (-2 + 3) - 1)))


def test_orpo_by_hand():
    x = inputs([[[-1.0, -4.0]]], lengths=[[2.0, 4.0]])
    odds_chosen = math.exp(-0.5) / (1 - math.exp(-0.5))
    odds_rejected = math.exp(-1.0) / (1 - math.exp(-1.0))
    expected = 0.5 - 0.1 * math.log(sigma(math.log(odds_chosen / odds_rejected)))
    assert orpo(x, beta=0.1).loss_B.item() == pytest.approx(expected)


def test_kto_by_hand_and_its_running_kl():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]], state={"kto_kl": 2.0})
    out = kto(x, beta=0.1, undesirable_weight=2.0)
    expected = ((1 - sigma(0.1 - 0.2)) + 2 * (1 - sigma(0.2 + 0.3))) / 2
    assert out.loss_B.item() == pytest.approx(expected)
    assert out.state["kto_kl"].tolist() == [-1.0]
    below_zero = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]], state={"kto_kl": -5.0})
    assert kto(below_zero).loss_B.item() == pytest.approx(((1 - sigma(0.1)) + (1 - sigma(0.3))) / 2)


def test_mpo_by_hand_and_its_running_delta():
    x = inputs([[[-10.0, -12.0]]], [[[-11.0, -9.0]]], lengths=[[5.0, 4.0]], state={"mpo_delta": 0.05})
    out = mpo(x, beta=0.1)
    quality = -math.log(sigma(0.1 - 0.05)) - math.log(sigma(0.05 + 0.3))
    assert out.loss_B.item() == pytest.approx(0.8 * -math.log(sigma(0.4)) + 0.2 * quality + 1.0 * 2.0)
    assert out.state["mpo_delta"].tolist() == [pytest.approx((0.1 - 0.3) / 2)]


GRID = inputs(
    [[[-10.0, -12.0], [-20.0, 0.0]]],
    [[[-11.0, -9.0], [-16.0, 0.0]]],
    mask=[[[True, True], [True, False]]],
)


def test_mdpo_by_hand():
    expected = -math.log(sigma(0.4)) - math.log(sigma(0.1 + 0.4)) - math.log(sigma(0.1))
    assert mdpo(GRID, beta=0.1).loss_B.item() == pytest.approx(expected)


def test_vision_contrast_by_hand():
    assert vision_contrast(GRID, beta=0.1).loss_B.item() == pytest.approx(-math.log(sigma(0.5)))


def test_bradley_terry_by_hand():
    assert bradley_terry(inputs([[[2.0, 0.5]]])).loss_B.item() == pytest.approx(-math.log(sigma(1.5)))


PREFERENCE = (dpo, cdpo, robust, ipo, hinge, multi_negative, simpo, orpo, kto, mpo, mdpo)
ALL = (*PREFERENCE, vision_contrast, bradley_terry, sft)


@pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
def test_every_loss_pulls_the_chosen_up_ignores_absent_completions_and_is_registered(function):
    policy = torch.tensor([[[-10.0, -12.0, -99.0], [-11.0, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    x = replace(
        inputs([[[0.0] * 3] * 2], [[[-10.0, -12.0, 0.0], [-11.0, 0.0, 0.0]]], lengths=[[5.0, 6.0, 0.0]]),
        mask_BNK=torch.tensor([[[True, True, False], [True, False, False]]]),
        policy_logps_BNK=policy,
    )
    out = function(x)
    (gradient,) = torch.autograd.grad(out.loss_B.sum(), policy)
    assert gradient[0, 0, 0] < 0
    assert gradient[0, 0, 2] == 0
    assert loss_registry.get(function.__name__) is function
    assert set(function.spec.running) == set(out.state)


def test_running_numbers_go_from_step_to_step_as_their_loss_says():
    objective = Objective(TrainingConfig(loss=("kto", "mpo")))
    assert objective.running == {"kto_kl": "last", "mpo_delta": "mean"}
