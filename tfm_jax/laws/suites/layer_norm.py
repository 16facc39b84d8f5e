"""The laws of layer norm, ``norm(x [B, T, D]) -> [B, T, D]``, with scale 1 and bias 0."""

import jax.numpy as jnp
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

__all__ = ["layer_norm"]


@law(cases())
def definition(norm: NormSubject, x: VectorsCase) -> None:
    """The output is (x - mean) / sqrt(variance + eps), with eps inside the square root."""
    for size in (1, np.sqrt(norm.eps)):
        small = (x.x * size).astype(np.float32)
        wanted = normalized(small, norm.eps)
        assert_close(norm(small), wanted, atol=TOLERANCE, what=f"output of x * {size:.2g}")


@law(cases())
def mean_is_zero(norm: NormSubject, x: VectorsCase) -> None:
    """The mean of an output vector is 0."""
    assert_close(norm(x.x).mean(-1), 0, atol=TOLERANCE, what="means of the outputs")


@law(cases())
def variance_is_one(norm: NormSubject, x: VectorsCase) -> None:
    """The biased variance of an output vector is 1, up to eps."""
    variance = x.x.astype(np.float64).var(-1)
    got, wanted = norm(x.x).astype(np.float64).var(-1), variance / (variance + norm.eps)
    assert_close(got, wanted, atol=5 * TOLERANCE, what="variances of the outputs")


@law(cases())
def shift_invariance(norm: NormSubject, x: VectorsCase) -> None:
    """Adding a number to all elements of a vector changes nothing."""
    number = x.rng.integers(1, 5, (*x.x.shape[:2], 1)).astype(np.float32)
    what = "output of x with a number added"
    assert_close(norm(x.x + number), norm(x.x), atol=5 * TOLERANCE, what=what)


@law(cases())
def large_mean(norm: NormSubject, x: VectorsCase) -> None:
    """A mean of thousands does not cancel the variance, which is computed from x - mean."""
    shifted = x.x + np.float32(4096)
    assert_close(norm(shifted), normalized(shifted, norm.eps), atol=5e-3, what="output of x + 4096")


@law(cases())
def scale_invariance(norm: NormSubject, x: VectorsCase) -> None:
    """Multiplying a vector by a positive number changes nothing, where the variance is far above eps."""
    x64, number = x.x * np.float32(64), np.float32(2.0 ** x.rng.integers(1, 5))
    what = f"output of x * 64 * {number:g}, compared with that of x * 64"
    assert_close(norm(x64 * number), norm(x64), atol=TOLERANCE + norm.eps, what=what)


@law(cases())
def sign_equivariance(norm: NormSubject, x: VectorsCase) -> None:
    """Negating a vector negates the output."""
    assert_close(norm(-x.x), -norm(x.x), atol=TOLERANCE, what="output of -x")


@law(cases())
def constant_vectors(norm: NormSubject, x: VectorsCase) -> None:
    """A vector of equal elements gives 0, not NaN."""
    constant = np.broadcast_to(x.rng.choice([0.0, 1.0, -2.0], (*x.x.shape[:2], 1)), x.x.shape)
    what = f"output of constant vectors of {constant[..., 0].tolist()}"
    assert_close(norm(constant.astype(np.float32)), 0, atol=1e-3, what=what)


@law(cases())
def gradients(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient is that of the definition, through the mean and the variance."""
    got = norm.run(lambda: norm.gradient(x.cotangent, x.x))
    assert_close(got, gradient(x.x, x.cotangent, norm.eps), atol=20 * TOLERANCE, what="gradient")


@law(cases())
def gradient_at_constant_vectors(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient at a vector of equal elements is finite, because eps keeps the square root from 0."""
    ones = np.ones_like(x.x)
    got = norm.run(lambda: norm.gradient(x.cotangent, ones))
    assert_close(got, gradient(ones, x.cotangent, norm.eps), atol=1e-2, what="gradient at a vector of ones")


@law(cases())
def statistics_are_float32(norm: NormSubject, x: VectorsCase) -> None:
    """The mean and the variance of a bfloat16 vector are computed in float32."""
    half = (64 + 4 * x.x).astype(jnp.bfloat16)
    wanted = normalized(half.astype(np.float32), norm.eps)
    assert_close(norm(half), wanted, atol=2**-6, what="output of 64 + 4 x in bfloat16")


def normalized(x: np.ndarray, eps: float) -> np.ndarray:
    """Layer norm in float64."""
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def gradient(x: np.ndarray, cotangent: np.ndarray, eps: float) -> np.ndarray:
    """The gradient of sum(normalized(x) * cotangent) in float64."""
    out, cotangent = normalized(x, eps), cotangent.astype(np.float64)
    along = (cotangent * out).mean(-1, keepdims=True) * out
    deviation = np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + eps)
    return (cotangent - cotangent.mean(-1, keepdims=True) - along) / deviation


layer_norm = Suite(
    "layer_norm",
    "norm(x [B, T, D]) -> [B, T, D]",
    NormSubject,
    (
        definition,
        mean_is_zero,
        variance_is_one,
        shift_invariance,
        large_mean,
        scale_invariance,
        sign_equivariance,
        constant_vectors,
        vectors_are_independent,
        gradients,
        gradient_at_constant_vectors,
        dtype_is_preserved,
        statistics_are_float32,
        compiled_matches_eager,
    ),
)
