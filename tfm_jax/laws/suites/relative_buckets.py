"""The laws of T5's relative position buckets, ``buckets(positions [T], positions [S]) -> int [T, S]``."""

import numpy as np

from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.subject import AnyArray, Function
from tfm_jax.laws.suites.cases.positions import (
    MAX_POSITION,
    PairsSubject,
    PositionsCase,
    cases,
    compiled_matches_eager,
    pairs_are_independent,
    translation_invariance,
)

__all__ = ["BucketsSubject", "relative_buckets"]


class BucketsSubject(PairsSubject):
    """Relative position buckets, ``function(query positions, key positions)``.

    Args:
      function: takes the positions of queries, int [T], and of keys, int [S]; returns buckets, int [T, S].
      buckets: the number of buckets.
      max_distance: the distance from which on all distances share the last bucket.
      bidirectional: whether half of the buckets are for keys after the query; if not, these share bucket 0.
    """

    letters = "[T, S]"

    def __init__(
        self,
        function: Function,
        *,
        buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ):
        super().__init__(function)
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional

    @property
    def per_direction(self) -> int:
        """The number of buckets of one direction; the first half of them holds one distance each."""
        return self.buckets // 2 if self.bidirectional else self.buckets

    def __call__(self, q: AnyArray, k: AnyArray) -> np.ndarray:
        """The buckets, their shape and dtype checked."""
        out = super().__call__(q, k)
        if not np.issubdtype(out.dtype, np.integer):
            raise Violation(f"dtype: got {out.dtype}; wanted integers")
        return out


@law(cases())
def within_range(f: BucketsSubject, x: PositionsCase) -> None:
    """Every bucket is from 0 to ``buckets`` - 1."""
    got = f(x.q, x.k)
    if got.min() < 0 or got.max() >= f.buckets:
        raise Violation(f"buckets: got {got.tolist()}; wanted them from 0 to {f.buckets - 1}")


@law(cases())
def small_distances_are_exact(f: BucketsSubject, x: PositionsCase) -> None:
    """Each distance below half the buckets of a direction has a bucket of its own."""
    distance = np.arange(f.per_direction // 2, dtype=np.int32)
    got = f(x.q[:1] + distance[-1], x.q[:1] + distance)[0, ::-1]
    assert_close(got, distance, what=f"buckets of the distances {distance.tolist()}")


@law(cases())
def monotone(f: BucketsSubject, x: PositionsCase) -> None:
    """Buckets do not decrease with the distance, and distances from ``max_distance`` on share the last."""
    back = np.arange(MAX_POSITION + 2 * f.max_distance, dtype=np.int32)
    got = f(back[-1:], back[::-1])[0]
    if (np.diff(got) < 0).any():
        n = int(np.argmax(np.diff(got) < 0))
        raise Violation(
            f"buckets: got {got[n]} for distance {n} and {got[n + 1]} for {n + 1}; wanted no decrease"
        )
    what = f"buckets from distance {f.max_distance} on"
    assert_close(got[f.max_distance :], f.per_direction - 1, what=what)


@law(cases())
def direction(f: BucketsSubject, x: PositionsCase) -> None:
    """Keys before and after the query share no bucket; if not bidirectional, keys after it have bucket 0."""
    at, apart = np.array([2 * MAX_POSITION], np.int32), 1 + np.abs(x.distance[0])
    before, after = (f(at, at + offset)[0] for offset in (-apart, apart))
    if not f.bidirectional:
        assert_close(after, 0, what=f"buckets of keys {apart.tolist()} after the query")
    elif set(before.tolist()) & set(after.tolist()):
        raise Violation(
            f"buckets at distances {apart.tolist()}: got {before} before the query, {after} after it; "
            "wanted none shared"
        )


@law(cases())
def definition(f: BucketsSubject, x: PositionsCase) -> None:
    """Larger distances share buckets whose boundaries grow geometrically up to ``max_distance``."""
    assert_close(f(x.q, x.k), buckets_of(f, x.distance), what="buckets")


def buckets_of(f: BucketsSubject, difference: np.ndarray) -> np.ndarray:
    """The buckets, in integers, so that no rounding moves a distance over a boundary."""
    exact = f.per_direction // 2
    rest = f.per_direction - exact

    def reached(n: int, j: int) -> bool:  # Python ints do not overflow
        return n**rest >= f.max_distance**j * exact ** (rest - j)

    def bucket(n: int) -> int:
        n, first = (abs(n), f.per_direction * (n > 0)) if f.bidirectional else (max(-n, 0), 0)
        return first + (n if n < exact else exact + sum(reached(n, j) for j in range(1, rest)))

    return np.vectorize(bucket, otypes=[np.int64])(difference.astype(object))


relative_buckets = Suite(
    "relative_buckets",
    "buckets(query positions int [T], key positions int [S]) -> int [T, S]",
    BucketsSubject,
    (
        definition,
        within_range,
        small_distances_are_exact,
        monotone,
        direction,
        translation_invariance,
        pairs_are_independent,
        compiled_matches_eager,
    ),
)
