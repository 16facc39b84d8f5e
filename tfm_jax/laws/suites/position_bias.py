"""The laws of position biases, ``bias(positions [T], positions [S]) -> [N, T, S]``, and of ALiBi."""

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law
from tfm_jax.laws.subject import Function
from tfm_jax.laws.suites.cases.positions import (
    PairsSubject,
    PositionsCase,
    cases,
    compiled_matches_eager,
    pairs_are_independent,
    translation_invariance,
)

__all__ = ["AlibiSubject", "alibi", "position_bias"]


class AlibiSubject(PairsSubject):
    """ALiBi, ``function(query positions, key positions)``.

    Args:
      function: takes the positions of queries, int [T], and of keys, int [S]; returns the bias [N, T, S].
      after: whether the bias of keys after the query is checked; False if a causal mask masks them anyway.
    """

    def __init__(self, function: Function, *, after: bool = True):
        super().__init__(function)
        self.after = after

    def bias_and_distance(self, x: PositionsCase) -> tuple[np.ndarray, np.ndarray]:
        """The bias [N, T, S] and the distances [T, S], both 0 where the bias is not checked."""
        checked = np.ones_like(x.distance, bool) if self.after else x.distance <= 0
        return np.where(checked, self(x.q, x.k), 0), np.where(checked, np.abs(x.distance), 0)


@law(cases())
def never_positive(f: AlibiSubject, x: PositionsCase) -> None:
    """A bias is never positive."""
    got, _ = f.bias_and_distance(x)
    if not (got <= 0).all():
        raise Violation(f"bias: got {got.max():.4g} as the largest; wanted none above 0")


@law(cases())
def zero_at_distance_0(f: AlibiSubject, x: PositionsCase) -> None:
    """The bias at a query's own position is 0."""
    got = f(x.q, x.q)
    assert_close(np.diagonal(got, axis1=-2, axis2=-1), 0, what="bias at distance 0")


@law(cases())
def decreases_with_distance(f: AlibiSubject, x: PositionsCase) -> None:
    """Of two keys, the one farther away has the smaller bias, in every head."""
    got, distance = f.bias_and_distance(x)
    farther = (distance[:, :, None] > distance[:, None]) & (distance[:, None] > 0)
    wrong = farther & ~(got[..., :, None] < got[..., None, :])
    if wrong.any():
        n, t, i, j = np.argwhere(wrong)[0]
        raise Violation(
            f"bias of head {n}, query {t}: got {got[n, t, i]:.6g} at distance {distance[t, i]} and "
            f"{got[n, t, j]:.6g} at distance {distance[t, j]}; wanted less at the larger one"
        )


@law(cases())
def linear_in_distance(f: AlibiSubject, x: PositionsCase) -> None:
    """The bias at distance d is d times the bias at distance 1."""
    got, distance = f.bias_and_distance(x)
    one = f(np.array([1], np.int32), np.array([0], np.int32))
    assert_close(got, one * distance, atol=TOLERANCE)


@law(cases())
def slopes(f: AlibiSubject, x: PositionsCase) -> None:
    """The slopes are 2^(-8 n / N) for n = 1..N, and those of the paper if N is not a power of two."""
    got, distance = f.bias_and_distance(x)
    assert_close(got, -slopes_of(len(got))[:, None, None] * distance, atol=TOLERANCE)


def slopes_of(N: int) -> np.ndarray:
    """The slopes of ALiBi: those of the largest power P <= N, then every other one of 2 P."""
    power = 2 ** int(np.log2(N))
    extra = [2.0 ** (-8 * n / (2 * power)) for n in range(1, 2 * (N - power), 2)]
    return np.array([2.0 ** (-8 * n / power) for n in range(1, power + 1)] + extra)


_SIGNATURE = "bias(query positions int [T], key positions int [S]) -> [N, T, S]"
_COMMON = (translation_invariance, pairs_are_independent, compiled_matches_eager)

position_bias = Suite("position_bias", _SIGNATURE, PairsSubject, _COMMON)

alibi = Suite(
    "alibi",
    _SIGNATURE,
    AlibiSubject,
    (
        never_positive,
        zero_at_distance_0,
        decreases_with_distance,
        linear_in_distance,
        slopes,
        *_COMMON,
    ),
)
