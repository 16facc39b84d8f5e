"""The laws of sinusoidal position encodings, ``encode(positions [T]) -> [T, D]``."""

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape
from tfm_jax.laws.suites.cases.positions import ANGLE_TOLERANCE, PositionsCase, angles, cases, split_pairs

__all__ = ["SinusoidalSubject", "sinusoidal"]


class SinusoidalSubject(Subject):
    """A sinusoidal position encoding, ``function(positions)``.

    Args:
      function: takes positions, int [T]; returns their encodings [T, D].
      theta: the base of the wavelengths, which range from 2 pi to 2 pi * theta.
      pairing: the elements with the sine and the cosine of angle i: "interleaved", 2i and 2i + 1, or "half",
        i and i + D/2.
    """

    def __init__(self, function: Function, *, theta: float = 10_000.0, pairing: str = "interleaved"):
        super().__init__(function)
        self.theta, self.pairing = theta, pairing

    def __call__(self, positions: AnyArray) -> np.ndarray:
        """The encodings, float64 [T, D], D even; their shape checked."""
        out = super().__call__(positions)
        D = 2 * (np.shape(out)[-1] // 2) if np.ndim(out) else 0
        return check_shape(out, (*np.shape(positions), D), "[T, D]").astype(np.float64)


@law(cases())
def definition(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Pair i is the sine and the cosine of position * theta^(-2 i / D)."""
    got = f(x.q)
    theta = angles(x.q, got.shape[-1], f.theta)
    sines, cosines = split_pairs(got, f.pairing)
    assert_close(sines, np.sin(theta), atol=ANGLE_TOLERANCE, what="sines")
    assert_close(cosines, np.cos(theta), atol=ANGLE_TOLERANCE, what="cosines")


@law(cases())
def position_0(f: SinusoidalSubject, x: PositionsCase) -> None:
    """At position 0 all sines are 0 and all cosines are 1."""
    sines, cosines = split_pairs(f(0 * x.q), f.pairing)
    assert_close(sines, 0, atol=TOLERANCE, what="sines of position 0")
    assert_close(cosines, 1, atol=TOLERANCE, what="cosines of position 0")


@law(cases())
def constant_norm(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Every encoding has norm sqrt(D / 2), because sin^2 + cos^2 = 1."""
    got = f(x.q)
    norms = np.sqrt(np.square(got).sum(-1))
    assert_close(norms, np.sqrt(got.shape[-1] / 2), atol=TOLERANCE, what="norms")


@law(cases())
def translation_invariance(f: SinusoidalSubject, x: PositionsCase) -> None:
    """The inner product of two encodings depends only on the difference of their positions."""
    shift = np.int32(x.rng.integers(1, 1000))
    got, wanted = f(x.q + shift) @ f(x.k + shift).T, f(x.q) @ f(x.k).T
    assert_close(got, wanted, atol=2e-3, what=f"inner products with {shift} added to the positions")


@law(cases())
def positions_are_independent(f: SinusoidalSubject, x: PositionsCase) -> None:
    """An encoding depends only on its position, not on its index or on other positions."""
    t = x.seed % len(x.q)
    what = f"encoding of position {x.q[t]} alone"
    assert_close(f(x.q[t : t + 1]), f(x.q)[t : t + 1], atol=TOLERANCE, what=what)


@law(cases())
def adjacent_positions_differ(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Adjacent positions have different encodings."""
    apart = np.abs(f(x.q + 1) - f(x.q)).max(-1)
    if not (apart > 1e-3).all():
        t = int(apart.argmin())
        raise Violation(
            f"encodings of positions {x.q[t]} and {x.q[t] + 1}: got a difference of {apart[t]:.2g}; "
            "wanted more than 0"
        )


@law(cases())
def large_positions(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Angles are computed in float32: position 100,000 is exact enough."""
    positions = x.q + np.int32(100_000)
    got = f(positions)
    theta = angles(positions, got.shape[-1], f.theta)
    sines, cosines = split_pairs(got, f.pairing)
    assert_close(sines, np.sin(theta), atol=0.03, what="sines of positions + 100,000")
    assert_close(cosines, np.cos(theta), atol=0.03, what="cosines of positions + 100,000")


@law(cases())
def compiled_matches_eager(f: SinusoidalSubject, x: PositionsCase) -> None:
    """Under jit, and under vmap over a batch of positions, the output is that of the plain calls."""
    batch, _ = x.batch
    plain = np.stack([f(positions) for positions in batch])
    jitted = f.run(lambda: np.asarray(f.compiled(x.q)))
    assert_close(jitted, plain[0], atol=ANGLE_TOLERANCE, what="encodings under jit")
    mapped = f.run(lambda: np.asarray(f.vmapped(batch)))
    what = "encodings under vmap, for these positions and others"
    assert_close(mapped, plain, atol=ANGLE_TOLERANCE, what=what)


sinusoidal = Suite(
    "sinusoidal",
    "encode(positions int [T]) -> [T, D]",
    SinusoidalSubject,
    (
        definition,
        position_0,
        constant_norm,
        translation_invariance,
        positions_are_independent,
        adjacent_positions_differ,
        large_positions,
        compiled_matches_eager,
    ),
)
