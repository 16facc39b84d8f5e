"""Cases of functions of query and key positions, their subject, and the laws that they share."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE, assert_close, law
from tfm_jax.laws.subject import AnyArray, Subject, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = [
    "ANGLE_TOLERANCE",
    "MAX_POSITION",
    "PairsSubject",
    "PositionsCase",
    "angles",
    "cases",
    "compiled_matches_eager",
    "pairs_are_independent",
    "split_pairs",
    "translation_invariance",
]

SHAPES = ((1, 1), (1, 2), (3, 2), (4, 6))  # T and S, the simplest first
MAX_POSITION = 300


@dataclasses.dataclass(frozen=True)
class PositionsCase(Seeded):
    """Positions of queries and keys, in any order."""

    q: np.ndarray  # int32 [T]
    k: np.ndarray  # int32 [S]
    seed: int

    @property
    def distance(self) -> np.ndarray:
        """Key position minus query position, [T, S]."""
        return self.k[None] - self.q[:, None]

    @property
    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """A batch of two, [2, T] and [2, S]: these positions, and others with other distances."""
        return np.stack([self.q, self.q + 7]), np.stack([self.k, 2 * self.k + 1])

    def __str__(self) -> str:
        return f"positions of queries {self.q.tolist()}, of keys {self.k.tolist()}"


@st.composite
def cases(draw) -> PositionsCase:
    """Random positions from 0 to ``MAX_POSITION``."""
    T, S = draw(st.sampled_from(SHAPES))
    q, k = (draw(strategies.positions((n,), largest=MAX_POSITION)) for n in (T, S))
    return PositionsCase(q, k, draw(strategies.seeds()))


class PairsSubject(Subject):
    """A function of the positions of queries [T] and keys [S] that returns [..., T, S]."""

    letters = "[N, T, S]"

    def __call__(self, q: AnyArray, k: AnyArray) -> np.ndarray:
        """The output, its shape checked."""
        out, n = super().__call__(q, k), self.letters.count(",") - 1
        return check_shape(out, (*np.shape(out)[:n], *np.shape(q), *np.shape(k)), self.letters)


@law(cases())
def translation_invariance(f: PairsSubject, x: PositionsCase) -> None:
    """Adding the same number to all query and key positions changes nothing: only distances matter."""
    shift = np.int32(x.rng.integers(1, 1000))
    what = f"output with {shift} added to the positions"
    assert_close(f(x.q + shift, x.k + shift), f(x.q, x.k), atol=TOLERANCE, what=what)


@law(cases())
def pairs_are_independent(f: PairsSubject, x: PositionsCase) -> None:
    """The output for a query and a key depends on their two positions only, not on their indices."""
    t, s = x.seed % len(x.q), x.seed % len(x.k)
    alone, wanted = f(x.q[t : t + 1], x.k[s : s + 1]), f(x.q, x.k)[..., t : t + 1, s : s + 1]
    assert_close(alone, wanted, atol=TOLERANCE, what=f"output of query {t} and key {s} alone")


@law(cases())
def compiled_matches_eager(f: PairsSubject, x: PositionsCase) -> None:
    """Under jit, and under vmap over a batch of positions, the output is that of the plain calls."""
    plain = np.stack([f(q, k) for q, k in zip(*x.batch, strict=True)])
    jitted = f.run(lambda: np.asarray(f.compiled(x.q, x.k)))
    assert_close(jitted, plain[0], atol=TOLERANCE, what="output under jit")
    mapped = f.run(lambda: np.asarray(f.vmapped(*x.batch)))
    assert_close(mapped, plain, atol=TOLERANCE, what="output under vmap, for these positions and others")


ANGLE_TOLERANCE = 2e-4
"""For sines and cosines of float32 angles of hundreds of radians."""


def angles(positions: np.ndarray, dim: int, theta: float) -> np.ndarray:
    """position * theta^(-2 i / dim), float64 [..., dim / 2]."""
    return positions[..., None].astype(np.float64) * theta ** (-np.arange(0, dim, 2) / dim)


def split_pairs(x: np.ndarray, pairing: str) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second elements of all pairs, [..., dim / 2] each.

    Raises:
      ValueError: for a pairing other than "half" and "interleaved".
    """
    half = x.shape[-1] // 2
    halves = {"half": (x[..., :half], x[..., half:]), "interleaved": (x[..., 0::2], x[..., 1::2])}
    if pairing not in halves:
        raise ValueError(f"laws: got pairing={pairing!r}; wanted one of {', '.join(halves)}")
    return halves[pairing]
