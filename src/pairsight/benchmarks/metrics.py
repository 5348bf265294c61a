"""Figures as pure functions of column sums: what a benchmark's `metrics` name, and what a rule of its own is made of.

A column is R values: the totals, or R resamples of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.statistics import ratio

Better = Literal["higher", "lower", "neither"]
Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
"""A column's name -> its R sums."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its R values from the columns (None: nothing of its kind was asked), and which way it is better."""

    of: Callable[[Columns], Floats | None]
    better: Better


def mean(total: str, count: str, better: Better = "higher") -> Figure:
    """total / count; no figure where nothing at all was counted, as in a split without labels.

    Args:
        total: the column that is summed.
        count: the column that counts.
        better: which way the figure is better.
    """
    return Figure(lambda sums: ratio(sums[total], sums[count]) if (sums[count] > 0).any() else None, better)


def rate(part: str, whole: str, better: Better) -> Figure:
    """part / whole, `nan` where the whole is 0.

    Args:
        part: the column of what is counted.
        whole: the column of what it is a part of.
        better: which way the figure is better.
    """
    return Figure(lambda sums: ratio(sums[part], sums[whole]), better)


def precision(true_positives: Floats, false_positives: Floats) -> Floats:
    """TP / (TP + FP)."""
    return ratio(true_positives, true_positives + false_positives)


def recall(true_positives: Floats, false_negatives: Floats) -> Floats:
    """TP / (TP + FN)."""
    return ratio(true_positives, true_positives + false_negatives)


def f1(precisions: Floats, recalls: Floats) -> Floats:
    """2·P·R / (P + R)."""
    return ratio(2 * precisions * recalls, precisions + recalls)


YES_NO: Mapping[str, Better] = {
    "f1": "higher", "accuracy": "higher", "precision": "higher", "recall": "higher", "yes_rate": "neither",
}  # fmt: skip
"""The figures of `yes_no`, and which way each is better."""


def yes_no(tp: Floats, fp: Floats, tn: Floats, fn: Floats, yes: Floats) -> dict[str, Floats]:
    """The figures of yes-no questions with yes as the positive class.

    Args:
        tp: right answers yes.
        fp: wrong answers to questions whose answer is no.
        tn: right answers no.
        fn: wrong answers to questions whose answer is yes.
        yes: answers that say yes.

    Source: POPE's `evaluate.py` (Y. Li et al., 2305.10355).
    """
    total = tp + fp + tn + fn
    precisions, recalls = precision(tp, fp), recall(tp, fn)
    return {
        "f1": f1(precisions, recalls), "accuracy": ratio(tp + tn, total), "precision": precisions, "recall": recalls,
        "yes_rate": ratio(yes, total),
    }  # fmt: skip
