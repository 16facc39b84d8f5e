"""The laws of a bias by positions, and of ALiBi: of any ``f(positions [T], positions [S]) -> [N, T, S]``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same
from tfm_jax.laws.suites.cases.positions import (
    PairsSubject,
    PositionsCase,
    cases,
    compiled_is_eager,
    each_pair_by_itself,
    only_differences,
)

__all__ = ["AlibiSubject", "alibi", "position_bias"]


class AlibiSubject(PairsSubject):
    """ALiBi as its laws ask it.

    Args:
      function: takes the positions of queries, int [T], and of keys, int [S]; gives the bias [N, T, S].
      after: whether keys after the query count; where a mask closes them in any case, say False.
    """

    def __init__(self, function: Callable[..., Any], *, after: bool = True):
        super().__init__(function)
        self.after = after

    def read(self, x: PositionsCase) -> tuple[np.ndarray, np.ndarray]:
        """The bias [N, T, S] and the distances [T, S], both 0 where the key does not count."""
        counts = np.ones_like(x.distance, bool) if self.after else x.distance <= 0
        return np.where(counts, self(x.q, x.k), 0), np.where(counts, np.abs(x.distance), 0)


@law(cases())
def never_positive(f: AlibiSubject, x: PositionsCase) -> None:
    """A bias is never positive: it takes weight from what is far, and adds none."""
    got, _ = f.read(x)
    if not (got <= 0).all():
        raise Violation(f"bias: got {got.max():.4g} as the largest, wanted none above 0")


@law(cases())
def nothing_at_distance_0(f: AlibiSubject, x: PositionsCase) -> None:
    """A query's own position has the bias 0."""
    got = f(x.q, x.q)
    same(np.diagonal(got, axis1=-2, axis2=-1), 0, what="bias of positions with themselves")


@law(cases())
def farther_is_less(f: AlibiSubject, x: PositionsCase) -> None:
    """Of two keys, the farther has the smaller bias, in every head."""
    got, distance = f.read(x)
    farther = (distance[:, :, None] > distance[:, None]) & (distance[:, None] > 0)
    wrong = farther & ~(got[..., :, None] < got[..., None, :])
    if wrong.any():
        n, t, i, j = np.argwhere(wrong)[0]
        raise Violation(
            f"bias of head {n}, query {t}: got {got[n, t, i]:.6g} at distance {distance[t, i]} and "
            f"{got[n, t, j]:.6g} at distance {distance[t, j]}"
        )


@law(cases())
def linear_in_distance(f: AlibiSubject, x: PositionsCase) -> None:
    """The bias at a distance is that many times the bias at distance 1."""
    got, distance = f.read(x)
    one = f(np.int32([1]), np.int32([0]))
    same(got, one * distance, atol=TOLERANCE)


@law(cases())
def slopes(f: AlibiSubject, x: PositionsCase) -> None:
    """Slopes are 2^(-8 n / N), n from 1; if N is no power of two, those of the power P below, then of 2 P."""
    got, distance = f.read(x)
    same(got, -slopes_of(len(got))[:, None, None] * distance, atol=TOLERANCE)


def slopes_of(N: int) -> np.ndarray:
    """The slopes of ALiBi: of 2 P, for the heads beyond the power P, the first, third, fifth ..."""
    power = 2 ** int(np.log2(N))
    extra = [2.0 ** (-8 * n / (2 * power)) for n in range(1, 2 * (N - power), 2)]
    return np.array([2.0 ** (-8 * n / power) for n in range(1, power + 1)] + extra)


_SIGNATURE = "bias(query positions int [T], key positions int [S]) -> [N, T, S]"
_COMMON = (only_differences, each_pair_by_itself, compiled_is_eager)
position_bias = Suite("position_bias", _SIGNATURE, PairsSubject, _COMMON)
alibi = Suite(
    "alibi",
    _SIGNATURE,
    AlibiSubject,
    (never_positive, nothing_at_distance_0, farther_is_less, linear_in_distance, slopes, *_COMMON),
)
