"""The laws of RMS norm, ``norm(x [B, T, D]) -> [B, T, D]``, without parameters or with scale 1."""

import functools

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, assert_close, law
from tfm_jax.laws.suites.cases.vectors import (
    NormSubject,
    VectorsCase,
    cases,
    compiled_matches_eager,
    dtype_is_preserved,
    vectors_are_independent,
)

__all__ = ["rms_norm"]


@law(cases())
def definition(norm: NormSubject, x: VectorsCase) -> None:
    """The output is x / sqrt(mean square + eps), with eps inside the square root."""
    for size in (1, np.sqrt(norm.eps)):
        small = (x.x * size).astype(np.float32)
        wanted = normalized(small, norm.eps)
        assert_close(norm(small), wanted, atol=TOLERANCE, what=f"output of x * {size:.2g}")


@law(cases())
def mean_square_is_one(norm: NormSubject, x: VectorsCase) -> None:
    """The mean square of an output vector is 1, up to eps."""
    square = np.square(x.x.astype(np.float64)).mean(-1)
    got, wanted = np.square(norm(x.x).astype(np.float64)).mean(-1), square / (square + norm.eps)
    assert_close(got, wanted, atol=5 * TOLERANCE, what="mean squares of the outputs")


@law(cases())
def mean_is_not_subtracted(norm: NormSubject, x: VectorsCase) -> None:
    """The mean is not subtracted: a vector of equal positive elements gives ones."""
    got = norm(3 * np.ones_like(x.x))
    assert_close(got, 3 / np.sqrt(9 + norm.eps), atol=TOLERANCE, what="output of vectors of 3")


@law(cases())
def scale_invariance(norm: NormSubject, x: VectorsCase) -> None:
    """Multiplying a vector by a positive number changes nothing, where the mean square is far above eps."""
    x64, number = x.x * np.float32(64), np.float32(2.0 ** x.rng.integers(1, 5))
    what = f"output of x * 64 * {number:g}, compared with that of x * 64"
    assert_close(norm(x64 * number), norm(x64), atol=TOLERANCE + norm.eps, what=what)


@law(cases())
def sign_equivariance(norm: NormSubject, x: VectorsCase) -> None:
    """Negating a vector negates the output."""
    assert_close(norm(-x.x), -norm(x.x), atol=TOLERANCE, what="output of -x")


@law(cases())
def zero_vectors(norm: NormSubject, x: VectorsCase) -> None:
    """A vector of zeros gives 0, not NaN."""
    assert_close(norm(np.zeros_like(x.x)), 0, what="output of vectors of 0")


@law(cases())
def gradients(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient is that of the definition, through the mean square."""
    got = norm.run(lambda: norm.gradient(x.cotangent, x.x))
    assert_close(got, gradient(x.x, x.cotangent, norm.eps), atol=20 * TOLERANCE, what="gradient")


@law(cases())
def gradient_at_zero_vectors(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient at a vector of zeros is finite, because eps keeps the square root from 0."""
    zeros = np.zeros_like(x.x)
    got = norm.run(lambda: norm.gradient(x.cotangent, zeros))
    assert_close(got, gradient(zeros, x.cotangent, norm.eps), atol=1e-3, what="gradient at a vector of 0")


@law(cases())
def statistics_are_float32(norm: NormSubject, x: VectorsCase) -> None:
    """The mean square of a float16 vector is computed in float32: float16 would overflow."""
    half = (x.x * 1024).astype(np.float16)
    wanted = normalized(half.astype(np.float32), norm.eps)
    assert_close(norm(half), wanted, atol=2**-8, what="output of 1024 x in float16")


def normalized(x: np.ndarray, eps: float) -> np.ndarray:
    """RMS norm in float64."""
    x = x.astype(np.float64)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)


def gradient(x: np.ndarray, cotangent: np.ndarray, eps: float) -> np.ndarray:
    """The gradient of sum(normalized(x) * cotangent) in float64."""
    out, cotangent = normalized(x, eps), cotangent.astype(np.float64)
    rms = np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True) + eps)
    return (cotangent - (cotangent * out).mean(-1, keepdims=True) * out) / rms


rms_norm = Suite(
    "rms_norm",
    "norm(x [B, T, D]) -> [B, T, D]",
    functools.partial(NormSubject, eps=1e-6),
    (
        definition,
        mean_square_is_one,
        mean_is_not_subtracted,
        scale_invariance,
        sign_equivariance,
        zero_vectors,
        vectors_are_independent,
        gradients,
        gradient_at_zero_vectors,
        dtype_is_preserved,
        statistics_are_float32,
        compiled_matches_eager,
    ),
)
