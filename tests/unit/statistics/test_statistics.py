import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight import statistics
from pairsight.statistics import cluster_bootstrap, kappa, paired_bootstrap, pearson, ratio


def accuracy(sums_RC):
    return {"accuracy": ratio(sums_RC[:, 0], sums_RC[:, 1])}


def test_value_is_the_metric_of_the_column_totals():
    estimate = cluster_bootstrap([[1, 1], [0, 1], [1, 1], [1, 1]], "aabb", accuracy)["accuracy"]
    assert estimate.value == 0.75


def test_two_clusters_resample_to_the_three_possible_totals():
    seen = []

    def combine(sums_RC):
        seen.append(sums_RC)
        return {"sum": sums_RC[:, 0]}

    cluster_bootstrap([[1.0], [10.0]], ["a", "b"], combine, num_resamples=4000)
    totals = seen[1][:, 0]
    assert set(totals) == {2.0, 11.0, 20.0}  # aa, ab or ba, bb: 1/4, 1/2, 1/4
    assert np.mean(totals == 11.0) == pytest.approx(0.5, abs=0.03)
    assert np.mean(totals == 2.0) == pytest.approx(0.25, abs=0.03)


def test_items_of_one_cluster_stay_together():
    rng = np.random.default_rng(1)
    right = np.repeat(rng.integers(0, 2, 100), 10)
    sums = np.stack([right, np.ones(1000)], axis=1)
    together = cluster_bootstrap(sums, np.repeat(np.arange(100), 10).tolist(), accuracy)["accuracy"]
    apart = cluster_bootstrap(sums, range(1000), accuracy)["accuracy"]
    # √(p(1−p)/100) against √(p(1−p)/1000): √10 = 3.16 times as wide
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(3.16, rel=0.12)


def test_the_interval_of_a_mean_is_the_normal_one():
    sums = np.stack([np.arange(400) % 2, np.ones(400)], axis=1)
    estimate = cluster_bootstrap(sums, range(400), accuracy)["accuracy"]
    half = 1.96 * math.sqrt(0.25 / 400)
    assert estimate.low == pytest.approx(0.5 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.5 + half, abs=0.006)


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    sums = np.stack([np.arange(50) % 3 == 0, np.ones(50)], axis=1)
    first, same, other = (cluster_bootstrap(sums, range(50), accuracy, seed=s) for s in (3, 3, 4))
    assert first == same
    assert first != other


def test_one_cluster_or_none_has_no_interval():
    estimate = cluster_bootstrap([[1, 1], [0, 1]], "aa", accuracy)["accuracy"]
    assert estimate.value == 0.5
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert cluster_bootstrap(np.zeros((0, 2)), [], accuracy) == {}


def test_memory_does_not_grow_with_resamples_times_clusters():
    sums = np.stack([np.arange(50_000.0), np.ones(50_000)], axis=1)  # no two clusters alike
    tracemalloc.start()
    cluster_bootstrap(sums, range(50_000), accuracy, num_resamples=200)  # 80 MB of counts if held at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_many_clusters_of_few_kinds_are_drawn_by_kind_with_the_same_law(monkeypatch):
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 2, size=(6_000, 1)).astype(float) @ np.ones((1, 2)) + [0.0, 1.0]
    clusters = list(range(6_000))
    mean = lambda sums: {"mean": sums[:, 0] / sums[:, 1]}  # noqa: E731
    by_kind = statistics.cluster_bootstrap(rows, clusters, mean, seed=1)["mean"]
    monkeypatch.setattr(statistics, "_MANY_CLUSTERS", 10**9)
    one_by_one = statistics.cluster_bootstrap(rows, clusters, mean, seed=1)["mean"]
    assert by_kind.value == one_by_one.value
    width = one_by_one.high - one_by_one.low
    assert abs(by_kind.low - one_by_one.low) < width / 8
    assert abs(by_kind.high - one_by_one.high) < width / 8
    assert statistics.cluster_bootstrap(rows, clusters, mean, seed=1)["mean"] == one_by_one


def test_a_common_difficulty_cancels_in_a_paired_difference():
    rng = np.random.default_rng(0)
    base = rng.random(300)
    better = base + 0.01
    one = np.ones(300)
    found = paired_bootstrap(np.stack([base, one], axis=1), np.stack([better, one], axis=1), range(300), accuracy)[
        "accuracy"
    ]
    assert found.difference == pytest.approx(0.01)
    assert found.low == pytest.approx(0.01)
    assert found.high == pytest.approx(0.01)
    assert found.p_value == pytest.approx(2 / 2001)


def test_equal_models_differ_by_nothing_with_p_one():
    sums = np.stack([np.arange(40) % 2, np.ones(40)], axis=1)
    found = paired_bootstrap(sums, sums, range(40), accuracy)["accuracy"]
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_p_values_of_no_effect_are_about_uniform():
    rng = np.random.default_rng(5)
    small = 0
    for trial in range(200):
        pair = [np.stack([rng.random(60) < 0.5, np.ones(60)], axis=1) for _ in range(2)]
        found = paired_bootstrap(pair[0], pair[1], range(60), accuracy, num_resamples=400, seed=trial)["accuracy"]
        small += found.p_value < 0.1
    assert 8 <= small <= 36  # 20 expected; ± 4 standard deviations


def test_a_metric_that_is_undefined_stays_undefined():
    found = cluster_bootstrap([[0, 0], [0, 0]], "ab", accuracy)["accuracy"]
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def test_rows_and_clusters_must_match():
    with pytest.raises(ValueError, match="one row of sums per item"):
        cluster_bootstrap([[1, 1]], "ab", accuracy)


def test_kappa_by_hand():
    # Cohen's own layout: 20 both yes, 5 and 10 split, 15 both no; p_o = .7, p_e = .5·.6 + .5·.4 = .5
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert kappa(a, b) == pytest.approx(0.4)
    assert kappa(a, a) == 1.0
    # 0–2: observed Σ|i−j| = 1/4·(0+1+0+2) = .75; expected: a .25 .25 .5, b .25 .5 .25 -> .9375
    #   Σ|i−j|a_i b_j = .25(.5·1 + .25·2) + .25(.25 + .25) + .5(.25·2 + .5·1) = .25 + .125 + .5 = .875
    assert kappa([0, 1, 2, 2], [0, 2, 1, 1], "linear") == pytest.approx(1 - 0.75 / 0.875)
    assert kappa([0, 1, 2, 2], [0, 2, 1, 1], "quadratic") == pytest.approx(
        1 - 0.75 / (0.25 * 1.5 + 0.25 * 0.5 + 0.5 * 1.5)
    )


def test_kappa_without_variety_or_items_is_undefined():
    assert math.isnan(kappa([1, 1], [1, 1]))
    assert math.isnan(kappa([], []))
    with pytest.raises(ValueError, match="3 and 1"):
        kappa([1, 2, 3], [1])


def test_pearson_by_hand():
    # x: 1 2 3 -> −1 0 1; y: 1 3 2 -> −1 1 0; Σ = 1; √(2·2) = 2
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert pearson([1, 2, 3], [-2, -4, -6]) == -1.0
    assert math.isnan(pearson([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="2 and 1"):
        pearson([1, 2], [1])


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30))
def test_pearson_is_bounded_and_symmetric(pairs):
    x, y = zip(*pairs, strict=True)
    r = pearson(x, y)
    assert math.isnan(r) or -1 <= r <= 1
    assert math.isnan(r) or r == pytest.approx(pearson(y, x))


def test_ratio_marks_what_was_not_measured():
    assert ratio([1, 0], [2, 0]).tolist()[0] == 0.5
    assert math.isnan(ratio([1, 0], [2, 0])[1])
