"""The laws of T5's buckets: of any ``f(q positions [T], k positions [S]) -> int [T, S]``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.suites.cases.positions import (
    FARTHEST,
    PairsSubject,
    PositionsCase,
    cases,
    compiled_is_eager,
    each_pair_by_itself,
    only_differences,
)

__all__ = ["BucketsSubject", "relative_buckets"]


class BucketsSubject(PairsSubject):
    """Buckets of distances as their laws ask for them.

    Args:
      function: takes the positions of queries, int [T], and of keys, int [S]; gives the buckets, int [T, S].
      buckets: how many there are.
      max_distance: from here on all distances share the last.
      bidirectional: whether keys after the query have half of the buckets; if not, they share bucket 0.
    """

    letters = "[T, S]"

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ):
        super().__init__(function)
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional

    @property
    def count(self) -> int:
        """The buckets of one direction; the first half of them holds one distance each."""
        return self.buckets // 2 if self.bidirectional else self.buckets

    def __call__(self, q: Any, k: Any) -> np.ndarray:
        """The buckets, which must be whole numbers."""
        out = super().__call__(q, k)
        if not np.issubdtype(out.dtype, np.integer):
            raise Violation(f"dtype: got {out.dtype}, wanted whole numbers, to index a table by")
        return out


@law(cases())
def within_range(f: BucketsSubject, x: PositionsCase) -> None:
    """Every bucket is one of the table's, from 0 to ``buckets`` - 1."""
    got = f(x.q, x.k)
    if got.min() < 0 or got.max() >= f.buckets:
        raise Violation(f"buckets: got {got.tolist()}, wanted them from 0 to {f.buckets - 1}")


@law(cases())
def small_distances_are_exact(f: BucketsSubject, x: PositionsCase) -> None:
    """Each of the small distances, fewer than half the buckets of a direction, has a bucket of its own."""
    distance = np.arange(f.count // 2, dtype=np.int32)
    got = f(x.q[:1] + distance[-1], x.q[:1] + distance)[0, ::-1]
    same(got, distance, what=f"buckets of the distances {distance.tolist()}")


@law(cases())
def monotone(f: BucketsSubject, x: PositionsCase) -> None:
    """A farther key has the same bucket or a later one, and all that are very far share the last."""
    back = np.arange(FARTHEST + 2 * f.max_distance, dtype=np.int32)
    got = f(back[-1:], back[::-1])[0]
    if (np.diff(got) < 0).any():
        n = int(np.argmax(np.diff(got) < 0))
        raise Violation(f"buckets: got {got[n]} for distance {n} and {got[n + 1]} for distance {n + 1}")
    same(got[f.max_distance :], f.count - 1, what=f"buckets from distance {f.max_distance} on")


@law(cases())
def direction(f: BucketsSubject, x: PositionsCase) -> None:
    """Keys after the query share no bucket with those before it; if there is one direction, all have 0."""
    at, apart = np.int32([2 * FARTHEST]), 1 + np.abs(x.distance[0])
    before, after = (f(at, at + side)[0] for side in (-apart, apart))
    if not f.bidirectional:
        same(after, 0, what=f"buckets of keys {apart.tolist()} after the query")
    elif set(before.tolist()) & set(after.tolist()):
        raise Violation(f"buckets {apart.tolist()} apart: got {before} before the query, {after} after it")


@law(cases())
def definition(f: BucketsSubject, x: PositionsCase) -> None:
    """Larger distances share buckets whose borders grow as a geometric series up to ``max_distance``."""
    same(f(x.q, x.k), buckets_of(f, x.distance), what="buckets")


def buckets_of(f: BucketsSubject, difference: np.ndarray) -> np.ndarray:
    """By whole numbers, which no rounding moves over a border."""
    exact = f.count // 2
    rest = f.count - exact
    reached = lambda n, j: n**rest >= f.max_distance**j * exact ** (rest - j)  # Python's, of any size

    def bucket(n: int) -> int:
        n, first = (abs(n), f.count * (n > 0)) if f.bidirectional else (max(-n, 0), 0)
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
        only_differences,
        each_pair_by_itself,
        compiled_is_eager,
    ),
)
