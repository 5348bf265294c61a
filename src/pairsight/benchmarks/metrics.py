"""Metrics as pure functions of column sums, named in a benchmark's `metrics` or used in its own `combine`.

A column is R sums: the totals, or R resamples of them.
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
class Formula:
    """One metric: a function from columns to R values (None: nothing was counted), and which values are better."""

    of: Callable[[Columns], Floats | None]
    better: Better


def mean(total: str, count: str, better: Better = "higher") -> Formula:
    """total / count; omitted if nothing was counted at all, as in a split without labels.

    Args:
        total: the numerator's column.
        count: the denominator's column.
        better: which values are better.
    """
    return Formula(lambda sums: ratio(sums[total], sums[count]) if (sums[count] > 0).any() else None, better)


def rate(part: str, total: str, better: Better) -> Formula:
    """part / total, `nan` where the total is 0.

    Args:
        part: the numerator's column.
        total: the denominator's column.
        better: which values are better.
    """
    return Formula(lambda sums: ratio(sums[part], sums[total]), better)


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
"""The metrics of `yes_no`, and which values of each are better."""


def yes_no(tp: Floats, fp: Floats, tn: Floats, fn: Floats, yes: Floats) -> dict[str, Floats]:
    """The metrics of yes-no questions with yes as the positive class.

    Args:
        tp: correct answers to questions whose answer is yes.
        fp: wrong answers to questions whose answer is no.
        tn: correct answers to questions whose answer is no.
        fn: wrong answers to questions whose answer is yes.
        yes: answers read as yes.

    Source: POPE's `evaluate.py` (Y. Li et al., 2305.10355).
    """
    total = tp + fp + tn + fn
    precisions, recalls = precision(tp, fp), recall(tp, fn)
    return {
        "f1": f1(precisions, recalls), "accuracy": ratio(tp + tn, total), "precision": precisions, "recall": recalls,
        "yes_rate": ratio(yes, total),
    }  # fmt: skip
