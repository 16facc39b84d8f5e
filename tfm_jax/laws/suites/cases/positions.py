"""Positions, and functions of two lists of them: what laws of both are tried on, and those that all keep."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import TOLERANCE, law, same
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = [
    "PairsSubject",
    "PositionsCase",
    "cases",
    "compiled_is_eager",
    "each_pair_by_itself",
    "only_differences",
]

SHAPES = ((1, 1), (1, 2), (3, 2), (4, 6))  # T and S, the simplest first
FARTHEST = 300


@dataclasses.dataclass(frozen=True)
class PositionsCase(Seeded):
    """Where queries and keys stand, in any order."""

    q: np.ndarray  # int32 [T]
    k: np.ndarray  # int32 [S]
    seed: int

    @property
    def distance(self) -> np.ndarray:
        """Key less query, [T, S]."""
        return self.k[None] - self.q[:, None]

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """A batch of two: these positions, and others with other distances."""
        return np.stack([self.q, self.q + 7]), np.stack([self.k, 2 * self.k + 1])

    def __str__(self) -> str:
        return f"positions of queries {self.q.tolist()}, of keys {self.k.tolist()}"


@st.composite
def cases(draw) -> PositionsCase:
    lengths = draw(st.sampled_from(SHAPES))
    places = st.integers(0, FARTHEST)
    q, k = (np.asarray(draw(st.lists(places, min_size=n, max_size=n)), np.int32) for n in lengths)
    return PositionsCase(q, k, draw(SEEDS))


class PairsSubject(Subject):
    """A function of the positions of queries [T] and keys [S], its output [..., T, S]."""

    letters = "[N, T, S]"

    def __call__(self, q: Any, k: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        out, n = super().__call__(q, k), self.letters.count(",") - 1
        return of_shape(out, (*np.shape(out)[:n], *np.shape(q), *np.shape(k)), self.letters)


@law(cases())
def only_differences(f: PairsSubject, x: PositionsCase) -> None:
    """Queries and keys that all stand further on by the same number give the same: only distances count."""
    far = np.int32(x.rng.integers(1, 1000))
    same(f(x.q + far, x.k + far), f(x.q, x.k), atol=TOLERANCE, what=f"output {far} positions further on")


@law(cases())
def each_pair_by_itself(f: PairsSubject, x: PositionsCase) -> None:
    """What a query and a key get depends on no other position, nor on their places: alone it is the same."""
    t, s = x.seed % len(x.q), x.seed % len(x.k)
    alone, wanted = f(x.q[t : t + 1], x.k[s : s + 1]), f(x.q, x.k)[..., t : t + 1, s : s + 1]
    same(alone, wanted, atol=TOLERANCE, what=f"output of query {t} and key {s} alone")


@law(cases())
def compiled_is_eager(f: PairsSubject, x: PositionsCase) -> None:
    """jit, and vmap over rows of positions, give what the plain calls give."""
    plain = np.stack([f(q, k) for q, k in zip(*x.rows, strict=True)])
    jitted = f.given(lambda: np.asarray(f.compiled(x.q, x.k)))
    same(jitted, plain[0], atol=TOLERANCE, what="output under jit")
    mapped = f.given(lambda: np.asarray(f.mapped(*x.rows)))
    same(mapped, plain, atol=TOLERANCE, what="output under vmap, of these positions and others")
