"""How sure a figure is: cluster bootstrap, paired differences, kappa and Pearson's r. Pure functions on numpy arrays.

A figure is combined from sums: every item has one row of numbers, rows are added up over items, and `combine` turns
R rows of totals into R values of each metric. A bootstrap resample is then a vector of counts per cluster, and all
resamples together are one matrix product, counts @ sums.

Shapes: I items, G clusters, C columns of sums, R resamples, M models.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Combine = Callable[[Floats], dict[str, Floats]]
Clusters = Sequence[Hashable] | NDArray[np.int64]
"""The cluster of each item, or its number by first appearance as `numbered` gives it."""

NUM_RESAMPLES = 2000
"""Resamples of a bootstrap: enough for the third digit of a p-value near .05 (ours)."""

_MAX_CELLS = 2_000_000
_MANY_CLUSTERS = 5_000  # from here on drawing each takes seconds
"""Numbers in one block of resampled counts: 16 MB, whatever the number of clusters or resamples."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value and its 95 % interval; `nan` bounds where fewer than two clusters leave the spread unknown."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two models on the same items: difference = aligned − base, its 95 % interval and p-value."""

    base: float
    aligned: float
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Resampled:
    """A table's metrics on all items, and on each of the R resamples."""

    values: dict[str, float]
    resampled: dict[str, Floats]


def cluster_bootstrap(
    sums_IC: ArrayLike,
    clusters_I: Clusters,
    combine: Combine,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Percentile intervals of metrics when clusters (images) are drawn with replacement.

    value = combine(Σ_i sums_i); resample r draws G of the G clusters with counts n_rg and has combine(Σ_g n_rg · S_g),
    S_g the sum over the items of cluster g; low and high are the 2.5 and 97.5 percentiles over r.

    Args:
        sums_IC: one row per item.
        clusters_I: the cluster of each item; items of one cluster stay together.
        combine: R rows of column totals -> metric name -> R values; `nan` where a metric is undefined.
        num_resamples: R.
        seed: of the draws; equal seeds, clusters and sums give equal resamples.

    Returns:
        Metric name -> estimate, in `combine`'s order.

    Source: B. Efron, Bootstrap methods (1979), with clusters as units (Field and Welsh 2007).
    """
    (table,) = resample([sums_IC], clusters_I, combine, num_resamples=num_resamples, seed=seed)
    return estimates(table)


def paired_bootstrap(
    base_IC: ArrayLike,
    aligned_IC: ArrayLike,
    clusters_I: Clusters,
    combine: Combine,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Differences of two models' metrics on the same items, resampling both models together.

    Each resample draws the same clusters for both models, so what is common to an item cancels. The p-value is the
    interval's dual, p = min(1, 2·(1 + min(#{d_r ≤ 0}, #{d_r ≥ 0})) / (1 + R)).

    Args:
        base_IC: one row per item, the base model's.
        aligned_IC: the same items in the same order, the other model's.
        clusters_I: the cluster of each item.
        combine: as in `cluster_bootstrap`.
        num_resamples: R.
        seed: of the draws.

    Returns:
        Metric name -> difference, for the metrics that both models have.
    """
    base, aligned = resample([base_IC, aligned_IC], clusters_I, combine, num_resamples=num_resamples, seed=seed)
    return differences(base, aligned)


def resample(
    tables_MIC: Sequence[ArrayLike],
    clusters_I: Clusters,
    combine: Combine,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[Resampled]:
    """Resample the clusters of several tables of the same items together: what `estimates` and `differences` need.

    Args:
        tables_MIC: per model (or parser) one row of sums per item, the same items in the same order.
        clusters_I: the cluster of each item.
        combine: as in `cluster_bootstrap`.
        num_resamples: R.
        seed: of the draws.

    Raises:
        ValueError: a table has not one row per item.
    """
    totals_MGC = _cluster_totals([np.asarray(table, dtype=np.float64) for table in tables_MIC], clusters_I)
    num_models, num_clusters, num_columns = totals_MGC.shape
    if num_clusters == 0:
        return [Resampled({}, {})] * num_models
    total = [{k: float(v[0]) for k, v in combine(t.sum(axis=0, keepdims=True)).items()} for t in totals_MGC]
    if num_clusters == 1:
        return [Resampled(values, {name: np.array([np.nan]) for name in values}) for values in total]
    flat_GK = totals_MGC.transpose(1, 0, 2).reshape(num_clusters, -1)
    sums_RMC = _resampled_sums(flat_GK, num_resamples, seed).reshape(num_resamples, num_models, num_columns)
    undefined_R = np.full(num_resamples, np.nan)
    tables = []
    for model, values in enumerate(total):
        found = combine(np.ascontiguousarray(sums_RMC[:, model]))
        tables.append(Resampled(values, {name: found.get(name, undefined_R) for name in values}))
    return tables


def estimates(table: Resampled) -> dict[str, Estimate]:
    """Each metric of one table with its interval."""
    return {name: Estimate(value, *_interval(table.resampled[name])) for name, value in table.values.items()}


def differences(base: Resampled, aligned: Resampled) -> dict[str, Difference]:
    """aligned − base for each metric that both have, from tables that were resampled together."""
    found = {}
    for name, value in base.values.items():
        if name in aligned.values:
            delta_R = aligned.resampled[name] - base.resampled[name]
            other = aligned.values[name]
            found[name] = Difference(value, other, other - value, *_interval(delta_R), _p_value(delta_R))
    return found


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """numerator / denominator, elementwise, and `nan` where the denominator is 0: nothing was there to be measured."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient: Floats = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)
    return quotient


def kappa(
    ratings_a: Sequence[Hashable],
    ratings_b: Sequence[Hashable],
    weights: Literal["none", "linear", "quadratic"] = "none",
) -> float:
    """Cohen's κ = 1 − Σ w·observed / Σ w·expected, the agreement of two raters beyond chance.

    Args:
        ratings_a: one rating per item; numbers where weights are used.
        ratings_b: the other rater's, same items.
        weights: w_ij of a disagreement: 1, |i − j| or (i − j)² for ratings i ≠ j.

    Returns:
        At most 1; 0 is chance; `nan` for no items or when both raters always gave one same rating.

    Raises:
        ValueError: the two have different lengths.

    Source: J. Cohen (1960; weighted 1968).
    """
    if len(ratings_a) != len(ratings_b):
        raise ValueError(f"kappa needs two ratings per item, found {len(ratings_a)} and {len(ratings_b)}")
    if not ratings_a:
        return float("nan")
    levels: list[Hashable] = list(dict.fromkeys([*ratings_a, *ratings_b]))
    index = {level: k for k, level in enumerate(levels)}
    observed_LL = np.zeros((len(levels), len(levels)))
    for a, b in zip(ratings_a, ratings_b, strict=True):
        observed_LL[index[a], index[b]] += 1.0 / len(ratings_a)
    expected_LL = np.outer(observed_LL.sum(axis=1), observed_LL.sum(axis=0))
    if weights == "none":
        weights_LL = 1.0 - np.eye(len(levels))
    else:
        level_L = np.asarray(levels, dtype=np.float64)
        distance_LL = np.abs(level_L[:, None] - level_L[None, :])
        weights_LL = distance_LL if weights == "linear" else distance_LL**2
    chance = float((weights_LL * expected_LL).sum())
    return 1.0 - float((weights_LL * observed_LL).sum()) / chance if chance > 0 else float("nan")


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r = Σ(x − x̄)(y − ȳ) / √(Σ(x − x̄)² · Σ(y − ȳ)²).

    Args:
        x: numbers.
        y: as many numbers.

    Returns:
        In [−1, 1]; `nan` when either is constant or fewer than two are given.

    Raises:
        ValueError: different lengths.
    """
    x_N, y_N = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if x_N.size != y_N.size:
        raise ValueError(f"pearson needs pairs of numbers, found {x_N.size} and {y_N.size}")
    if x_N.size < 2 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return float("nan")
    dx_N, dy_N = x_N - x_N.mean(), y_N - y_N.mean()
    r = float(dx_N @ dy_N / np.sqrt((dx_N @ dx_N) * (dy_N @ dy_N)))
    return min(1.0, max(-1.0, r))


def _cluster_totals(sums: Sequence[Floats], clusters_I: Clusters) -> Floats:
    """The column sums of each cluster, per model: (M, G, C). Clusters keep the order in which they first appear."""
    if isinstance(clusters_I, np.ndarray):
        index_I, num_clusters = clusters_I, int(clusters_I.max(initial=-1)) + 1
    else:
        index: dict[Hashable, int] = {}
        index_I = np.fromiter((index.setdefault(c, len(index)) for c in clusters_I), dtype=np.int64)
        num_clusters = len(index)
    for sums_IC in sums:
        if sums_IC.ndim != 2 or len(sums_IC) != len(index_I):
            raise ValueError(f"a bootstrap needs one row of sums per item: {sums_IC.shape} for {len(index_I)} items")
    totals_MGC = np.zeros((len(sums), num_clusters, sums[0].shape[1]))
    for model, sums_IC in enumerate(sums):
        np.add.at(totals_MGC[model], index_I, sums_IC)
    return totals_MGC


def _resampled_sums(flat_GK: Floats, num_resamples: int, seed: int) -> Floats:
    """Column totals of each resample.

    Many clusters are drawn by kind: how often those of equal totals are drawn, all together, is multinomial.
    """
    num_clusters = len(flat_GK)
    if num_clusters > _MANY_CLUSTERS:
        kinds_UK, counts_U = np.unique(flat_GK, axis=0, return_counts=True)
        if len(kinds_UK) * 4 <= num_clusters:
            drawn_RU = np.random.default_rng(seed).multinomial(num_clusters, counts_U / num_clusters, num_resamples)
            return drawn_RU.astype(np.float64) @ kinds_UK
    return np.concatenate([counts_RG @ flat_GK for counts_RG in _counts(num_clusters, num_resamples, seed)])


def _counts(num_clusters: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each resample drew each cluster, in blocks of bounded size."""
    rng = np.random.default_rng(seed)
    rows = max(1, _MAX_CELLS // num_clusters)
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        counts_RG = np.empty((size, num_clusters))
        for row in range(size):
            drawn = rng.integers(num_clusters, size=num_clusters)
            counts_RG[row] = np.bincount(drawn, minlength=num_clusters)
        yield counts_RG


def _interval(values_R: Floats) -> tuple[float, float]:
    known = values_R[~np.isnan(values_R)]
    if known.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _p_value(delta_R: Floats) -> float:
    known = delta_R[~np.isnan(delta_R)]
    if known.size == 0:
        return float("nan")
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2.0 * (1 + tail) / (1 + known.size))


def numbered(keys_I: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each key's number, 0, 1, 2… in the order in which the keys first appear."""
    _, first_G, index_I = np.unique(keys_I, return_index=True, return_inverse=True)
    number_G = np.empty(len(first_G), np.int64)
    number_G[np.argsort(first_G)] = np.arange(len(first_G))
    numbers_I: NDArray[np.int64] = number_G[index_I]
    return numbers_I
