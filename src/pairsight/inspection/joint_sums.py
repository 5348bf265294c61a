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

    With n such rows, means m and S_xy = Σ(x − m_x)(y − m_y): r = S_xy / √(S_xx · S_yy), and
    κ = 2 S_xy / (S_xx + S_yy + n (m_x − m_y)²), which is 1 − Σ(x − y)² over what it would be were x and y independent.
    Each block's sums are about its own means, and blocks are joined as by Chan et al., so that no digits cancel. What
    is not a number is absent.

    Source: quadratic κ as a concordance, Fleiss and Cohen (1973); T. Chan, G. Golub and R. LeVeque (1983), eq. 1.5.
    """

    def __init__(self) -> None:
        self._left: list[str] = []
        self._right: list[str] = []
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
        n, _, _, xx, yy, xy = map(float, self._sums_6LR[:, *at])
        varies = bool((self._low_2LR[:, *at] < self._high_2LR[:, *at]).all())
        spread = math.sqrt(xx) * math.sqrt(yy) if n > 1 and varies else 0.0
        return min(1.0, max(-1.0, xy / spread)) if spread > 0 else None

    def kappa(self, left: str, right: str) -> float | None:
        """κ of two names with weights (x − y)²; None where no row has both, or all numbers are one."""
        at = self._at(left, right)
        if at is None or self._low_2LR[:, *at].min() >= self._high_2LR[:, *at].max():
            return None
        n, x, y, xx, yy, xy = map(float, self._sums_6LR[:, *at])
        return 2 * xy / (xx + yy + n * (x - y) ** 2)

    def _at(self, left: str, right: str) -> tuple[int, int] | None:
        """Where the sums of two names are, all rows added."""
        if self._rows:
            self._add_block()
        if left not in self._left or right not in self._right:
            return None
        return self._left.index(left), self._right.index(right)

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
        for index in range(len(self._left)):
            x_NR = np.repeat(x_NL[:, [index]], y_NR.shape[1], axis=1)
            both_NR = ~np.isnan(x_NR + y_NR)
            self._sums_6LR[:, index] = _joined(self._sums_6LR[:, index], _sums(x_NR, y_NR, both_NR))
            for side, values_NR in enumerate((x_NR, y_NR)):
                low_R, high_R = self._low_2LR[side, index], self._high_2LR[side, index]
                np.minimum(low_R, np.where(both_NR, values_NR, np.inf).min(axis=0), out=low_R)
                np.maximum(high_R, np.where(both_NR, values_NR, -np.inf).max(axis=0), out=high_R)


def _sums(x_NR: NDArray[np.float64], y_NR: NDArray[np.float64], both_NR: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[6, R] of a block: n, m_x, m_y, S_xx, S_yy, S_xy."""
    n_R = both_NR.sum(axis=0)
    means = [np.where(both_NR, values, 0.0).sum(axis=0) / np.maximum(n_R, 1) for values in (x_NR, y_NR)]
    dx_NR, dy_NR = (np.where(both_NR, v - m, 0.0) for v, m in zip((x_NR, y_NR), means, strict=True))
    products = (dx_NR * dx_NR, dy_NR * dy_NR, dx_NR * dy_NR)
    return np.stack([n_R, *means, *(product.sum(axis=0) for product in products)])


def _joined(one_6R: NDArray[np.float64], other_6R: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of two blocks together."""
    n_R = one_6R[0] + other_6R[0]
    share_R = other_6R[0] / np.maximum(n_R, 1)
    dx_R, dy_R = other_6R[1:3] - one_6R[1:3]
    weight_R = one_6R[0] * share_R
    between = np.stack([dx_R * dx_R, dy_R * dy_R, dx_R * dy_R]) * weight_R
    means = one_6R[1:3] + np.stack([dx_R, dy_R]) * share_R
    return np.concatenate([n_R[None], means, one_6R[3:] + other_6R[3:] + between])


def _block(rows: list[Mapping[str, float]], names: list[str]) -> NDArray[np.float64]:
    """Rows as an array, `nan` where a name is absent or its number is not finite; new names are added."""
    finite = [{name: float(value) for name, value in row.items() if math.isfinite(value)} for row in rows]
    known = dict.fromkeys(names)
    for row in finite:
        known |= dict.fromkeys(row)
    names[:] = known
    block = np.array([[row.get(name, np.nan) for name in names] for row in finite], dtype=np.float64)
    return block.reshape(len(rows), len(names))
