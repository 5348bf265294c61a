"""Pearson's r and Cohen's κ of numbers that come row by row, from sums: a million rows take no more than ten.

Shapes: N rows of a block, L names on the left, R on the right.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Row = tuple[Mapping[str, float], Mapping[str, float]]
_ROWS_A_BLOCK = 1_024


class JointSums:
    """The sums over all rows that have both of two named numbers, for each name on the left and on the right.

    With n such rows, S_xy = Σxy − Σx·Σy / n, and means m: r = S_xy / √(S_xx · S_yy), and
    κ = 2 S_xy / (S_xx + S_yy + n (m_x − m_y)²), which is 1 − Σ(x − y)² over what it would be were x and y independent.
    Sums are taken from each name's first number, so that hardly a digit cancels. What is not a number is absent.

    Source: quadratic κ as a concordance, Fleiss and Cohen (1973).
    """

    def __init__(self) -> None:
        self._left: dict[str, float] = {}
        self._right: dict[str, float] = {}
        self._rows: list[Row] = []
        self._sums_6LR = np.zeros((6, 0, 0))
        self._low_2LR, self._high_2LR = np.zeros((2, 0, 0)), np.zeros((2, 0, 0))

    def add(self, left: Mapping[str, float], right: Mapping[str, float]) -> None:
        """One row: the numbers of each side by name; a name that is absent takes no part."""
        self._rows.append((left, right))
        if len(self._rows) == _ROWS_A_BLOCK:
            self._add_block()

    def pearson(self, left: str, right: str) -> float | None:
        """r of two names; None where either is constant, or fewer than two rows have both."""
        at = self._at(left, right)
        if at is None:
            return None
        n, x, y, xx, yy, xy = map(float, self._sums_6LR[:, *at])
        varies = bool((self._low_2LR[:, *at] < self._high_2LR[:, *at]).all())
        spread = (xx - x * x / n) * (yy - y * y / n) if n > 1 and varies else 0.0
        return min(1.0, max(-1.0, (xy - x * y / n) / spread**0.5)) if spread > 0 else None

    def kappa(self, left: str, right: str) -> float | None:
        """κ of two names with weights (x − y)²; None where no row has both, or all numbers are one."""
        at = self._at(left, right)
        if at is None or self._low_2LR[:, *at].min() >= self._high_2LR[:, *at].max():
            return None
        n, x, y, xx, yy, xy = map(float, self._sums_6LR[:, *at])
        apart = (x - y) / n + self._left[left] - self._right[right]
        return 2 * (xy - x * y / n) / (xx - x * x / n + yy - y * y / n + n * apart * apart)

    def _at(self, left: str, right: str) -> tuple[int, int] | None:
        """Where the sums of two names are, all rows added."""
        if self._rows:
            self._add_block()
        if left not in self._left or right not in self._right:
            return None
        return list(self._left).index(left), list(self._right).index(right)

    def _add_block(self) -> None:
        x_NL = _block([left for left, _ in self._rows], self._left)
        y_NR = _block([right for _, right in self._rows], self._right)
        self._rows = []
        wider = [
            (0, 0),
            *(
                (0, new - old)
                for new, old in zip((len(self._left), len(self._right)), self._sums_6LR.shape[1:], strict=True)
            ),
        ]
        self._sums_6LR = np.pad(self._sums_6LR, wider)
        self._low_2LR = np.pad(self._low_2LR, wider, constant_values=np.inf)
        self._high_2LR = np.pad(self._high_2LR, wider, constant_values=-np.inf)
        from_y_NR = y_NR - list(self._right.values())
        for index, origin in enumerate(self._left.values()):
            x_NR = np.repeat(x_NL[:, [index]], y_NR.shape[1], axis=1)
            both_NR = ~np.isnan(x_NR + y_NR)
            dx_NR, dy_NR = np.where(both_NR, x_NR - origin, 0.0), np.where(both_NR, from_y_NR, 0.0)
            parts = (both_NR, dx_NR, dy_NR, dx_NR * dx_NR, dy_NR * dy_NR, dx_NR * dy_NR)
            self._sums_6LR[:, index] += np.stack([part.sum(axis=0) for part in parts])
            for side, values_NR in enumerate((x_NR, y_NR)):
                low_R, high_R = self._low_2LR[side, index], self._high_2LR[side, index]
                np.minimum(low_R, np.where(both_NR, values_NR, np.inf).min(axis=0), out=low_R)
                np.maximum(high_R, np.where(both_NR, values_NR, -np.inf).max(axis=0), out=high_R)


def _block(rows: list[Mapping[str, float]], origins: dict[str, float]) -> NDArray[np.float64]:
    """Rows as an array, `nan` where a name is absent or its number is not finite; new names get their first number."""
    finite = [{name: float(value) for name, value in row.items() if math.isfinite(value)} for row in rows]
    for row in finite:
        for name, value in row.items():
            origins.setdefault(name, value)
    block = np.array([[row.get(name, np.nan) for name in origins] for row in finite], dtype=np.float64)
    return block.reshape(len(rows), len(origins))
