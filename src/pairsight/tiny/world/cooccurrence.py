"""Which absent object a scene suggests most, and how strongly: the language prior that makes models hallucinate."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pairsight.tiny.world.scenes import scenes, type_weights

_NUM_SCENES_FOR_QUANTILES = 2000


def type_posterior(kinds: frozenset[int]) -> NDArray[np.float64]:
    """P(type | kinds present) ∝ Π P(kind | type), five numbers that sum to 1 (uniform when nothing is present)."""
    weights = type_weights()
    likelihood = np.ones(weights.shape[0])
    for kind in sorted(kinds):
        likelihood = likelihood * weights[:, kind]
    return np.asarray(likelihood / likelihood.sum())


def suggestion(kinds: frozenset[int]) -> NDArray[np.float64]:
    """How much a set of kinds suggests each other kind.

    P(next = k | kinds) = Σ_t P(t | kinds) · P(k | t) / (1 − Σ_present P(i | t)), 0 for kinds already present.

    Args:
        kinds: kinds present, 0–29.

    Returns:
        30 probabilities that sum to 1.
    """
    weights = type_weights()
    present = sorted(kinds)
    left = weights.copy()
    left[:, present] = 0.0
    left /= left.sum(axis=1, keepdims=True)
    return np.asarray(type_posterior(kinds) @ left)


@cache
def top_absent(kinds: frozenset[int]) -> int:
    """The absent kind that co-occurs most with those present: POPE's adversarial object."""
    return int(np.argmax(suggestion(kinds)))


@cache
def trigger(kinds: frozenset[int]) -> int:
    """The present kind that alone suggests `top_absent` most: the one a hallucination follows in a caption."""
    absent = top_absent(kinds)
    return max(sorted(kinds), key=lambda kind: float(suggestion(frozenset({kind}))[absent]))


@cache
def strength(kinds: frozenset[int]) -> float:
    """The quantile (0–1) of the top absent kind's suggestion among scenes of the train part."""
    return float(np.searchsorted(_top_suggestions(), suggestion(kinds).max()) / _NUM_SCENES_FOR_QUANTILES)


@cache
def _top_suggestions() -> NDArray[np.float64]:
    tops = [suggestion(scene.kinds).max() for scene in scenes("train", _NUM_SCENES_FOR_QUANTILES, seed=0)]
    return np.sort(np.array(tops))
