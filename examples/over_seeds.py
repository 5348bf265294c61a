"""A mean over seeds with Student's 95 % interval, as the tables of docs/LOG.md show it."""

from collections.abc import Sequence
from statistics import fmean, stdev

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantiles of Student's t for so many seeds."""


def over_seeds(values: Sequence[float]) -> str:
    """`mean ± half the interval`; the mean alone for one seed, or for more than the table knows."""
    if len(values) not in T_95:
        return f"{fmean(values):+.3f}"
    return f"{fmean(values):+.3f} ± {T_95[len(values)] * stdev(values) / len(values) ** 0.5:.3f}"
