"""The laws of sinusoidal positions: of any ``f(positions [T]) -> [T, D]``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.positions import PositionsCase, cases

__all__ = ["SinusoidalSubject", "angles_of", "sinusoidal", "split"]

ANGLE = 2e-4  # an angle of hundreds of radians in float32


class SinusoidalSubject(Subject):
    """An encoding of positions as its laws ask it.

    Args:
      function: takes positions, int [T], and gives their encodings, [T, D].
      theta: the base of the wavelengths, from 2 pi to 2 pi * theta.
      pairing: where the sine and the cosine of angle i stand: "interleaved", 2i and 2i + 1, or "half", i and
        i + D/2.
    """

    def __init__(
        self, function: Callable[..., Any], *, theta: float = 10_000.0, pairing: str = "interleaved"
    ):
        super().__init__(function)
        self.theta, self.pairing = theta, pairing

    def __call__(self, positions: Any) -> np.ndarray:
        """The encodings, float64 [T, D], D even."""
        out = super().__call__(positions)
        D = 2 * (np.shape(out)[-1] // 2) if np.ndim(out) else 0
        return of_shape(out, (*np.shape(positions), D), "[T, D]").astype(np.float64)


@law(cases())
def definition(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Pair i is the sine and the cosine of position * theta^(-2 i / D)."""
    got = f(x.q)
    angles = angles_of(x.q, got.shape[-1], f.theta)
    for name, ours, right in zip(
        ("sines", "cosines"), split(got, f.pairing), (np.sin(angles), np.cos(angles)), strict=True
    ):
        same(ours, right, atol=ANGLE, what=name)


@law(cases())
def position_0(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Position 0 is all sines of 0, which are 0, and cosines of 0, which are 1."""
    for name, got, wanted in zip(("sines", "cosines"), split(f(0 * x.q), f.pairing), (0, 1), strict=True):
        same(got, wanted, atol=TOLERANCE, what=f"{name} of position 0")


@law(cases())
def norms(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Every encoding has the norm sqrt(D / 2), for sin^2 + cos^2 = 1."""
    got = f(x.q)
    same(np.sqrt(np.square(got).sum(-1)), np.sqrt(got.shape[-1] / 2), atol=TOLERANCE, what="norms")


@law(cases())
def only_differences(f: SinusoidalSubject, x: PositionsCase) -> None:
    """The inner product of two encodings depends on the difference of their positions alone."""
    far = np.int32(x.rng.integers(1, 1000))
    products = lambda q, k: f(q) @ f(k).T
    got, wanted = products(x.q + far, x.k + far), products(x.q, x.k)
    same(got, wanted, atol=2e-3, what=f"inner products {far} positions further on")


@law(cases())
def each_by_itself(f: SinusoidalSubject, x: PositionsCase) -> None:
    """An encoding depends on its own position, on no other, nor on its place: alone it is the same."""
    t = x.seed % len(x.q)
    same(f(x.q[t : t + 1]), f(x.q)[t : t + 1], atol=TOLERANCE, what=f"encoding of position {x.q[t]} alone")


@law(cases())
def told_apart(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Neighbouring positions have encodings that differ."""
    apart = np.abs(f(x.q + 1) - f(x.q)).max(-1)
    if not (apart > 1e-3).all():
        t = int(apart.argmin())
        raise Violation(f"encodings of positions {x.q[t]} and {x.q[t] + 1}: got {apart[t]:.2g} apart at most")


@law(cases())
def large_positions(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Angles are computed in float32: a position of 100,000 is no other one."""
    positions = x.q + np.int32(100_000)
    got = f(positions)
    angles = angles_of(positions, got.shape[-1], f.theta)
    sines, cosines = split(got, f.pairing)
    same(sines, np.sin(angles), atol=0.03, what="sines of positions + 100,000")
    same(cosines, np.cos(angles), atol=0.03, what="cosines of positions + 100,000")


@law(cases())
def compiled_is_eager(f: SinusoidalSubject, x: PositionsCase) -> None:
    """jit, and vmap over rows of positions, give what the plain calls give."""
    rows, _ = x.rows
    plain = np.stack([f(row) for row in rows])
    same(f.given(lambda: np.asarray(f.compiled(x.q))), plain[0], atol=ANGLE, what="encodings under jit")
    mapped = f.given(lambda: np.asarray(f.mapped(rows)))
    same(mapped, plain, atol=ANGLE, what="encodings under vmap, of these positions and of others")


def angles_of(positions: np.ndarray, dim: int, theta: float) -> np.ndarray:
    """Angles [..., dim / 2] in float64, as the paper defines them."""
    return positions[..., None].astype(np.float64) * theta ** (-np.arange(0, dim, 2) / dim)


def split(x: np.ndarray, pairing: str) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second elements of all pairs."""
    half = x.shape[-1] // 2
    halves = {"half": (x[..., :half], x[..., half:]), "interleaved": (x[..., 0::2], x[..., 1::2])}
    if pairing not in halves:
        raise ValueError(f"got pairing={pairing!r}; wanted one of {', '.join(halves)}")
    return halves[pairing]


sinusoidal = Suite(
    "sinusoidal",
    "encode(positions int [T]) -> [T, D]",
    SinusoidalSubject,
    (
        definition,
        position_0,
        norms,
        only_differences,
        each_by_itself,
        told_apart,
        large_positions,
        compiled_is_eager,
    ),
)
