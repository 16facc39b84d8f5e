"""The laws of layer norm: of any ``f(x [B, T, D]) -> [B, T, D]``, without parameters or with unit ones."""

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, law, same
from tfm_jax.laws.suites.cases.vectors import (
    NormSubject,
    VectorsCase,
    cases,
    compiled_is_eager,
    dtype_is_kept,
    each_by_itself,
)

__all__ = ["layer_norm"]


@law(cases())
def definition(norm: NormSubject, x: VectorsCase) -> None:
    """The output is (x - mean) / sqrt(variance + eps), with eps under the root."""
    for size in (1, np.sqrt(norm.eps)):
        small = (x.x * size).astype(np.float32)
        same(norm(small), normed(small, norm.eps), atol=TOLERANCE, what=f"output of x * {size:.2g}")


@law(cases())
def mean_is_zero(norm: NormSubject, x: VectorsCase) -> None:
    """The elements of an output have mean 0."""
    same(norm(x.x).mean(-1), 0, atol=TOLERANCE, what="means of the outputs")


@law(cases())
def variance_is_one(norm: NormSubject, x: VectorsCase) -> None:
    """The elements of an output have variance 1, the mean of all D squares, but for eps."""
    variance = x.x.astype(np.float64).var(-1)
    wanted = variance / (variance + norm.eps)
    same(norm(x.x).astype(np.float64).var(-1), wanted, atol=5 * TOLERANCE, what="variances of the outputs")


@law(cases())
def shift(norm: NormSubject, x: VectorsCase) -> None:
    """The same number added to all elements of a vector changes nothing."""
    number = x.rng.integers(1, 5, (*x.x.shape[:2], 1)).astype(np.float32)
    same(norm(x.x + number), norm(x.x), atol=5 * TOLERANCE, what="output of x with a number added")


@law(cases())
def large_mean(norm: NormSubject, x: VectorsCase) -> None:
    """A mean of thousands does not drown the variance, which is that of what is left without the mean."""
    shifted = x.x + np.float32(4096)
    same(norm(shifted), normed(shifted, norm.eps), atol=5e-3, what="output of x + 4096")


@law(cases())
def scale(norm: NormSubject, x: VectorsCase) -> None:
    """A vector times a positive number gives the same, where the variance is far above eps."""
    x64, number = x.x * np.float32(64), np.float32(2.0 ** x.rng.integers(1, 5))
    got, wanted = norm(x64 * number), norm(x64)
    same(got, wanted, atol=TOLERANCE + norm.eps, what=f"output of x * 64 * {number:g}, beside that of x * 64")


@law(cases())
def sign(norm: NormSubject, x: VectorsCase) -> None:
    """A vector with its sign turned gives the output with its sign turned."""
    same(norm(-x.x), -norm(x.x), atol=TOLERANCE, what="output of -x")


@law(cases())
def equal_elements(norm: NormSubject, x: VectorsCase) -> None:
    """A vector of equal elements gives 0, and not nan."""
    equal = np.broadcast_to(x.rng.choice([0.0, 1.0, -2.0], (*x.x.shape[:2], 1)), x.x.shape)
    same(norm(equal.astype(np.float32)), 0, atol=1e-3, what=f"output of vectors of {equal[..., 0].tolist()}")


@law(cases())
def gradients(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient is that of the definition: the mean and the variance have theirs."""
    got = norm.given(lambda: norm.gradient(x.slope, x.x))
    same(got, gradient(x.x, x.slope, norm.eps), atol=20 * TOLERANCE, what="gradient")


@law(cases())
def gradient_at_equal_elements(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient at a vector of equal elements is finite, for eps keeps the root from 0."""
    got = norm.given(lambda: norm.gradient(x.slope, np.ones_like(x.x)))
    same(got, gradient(np.ones_like(x.x), x.slope, norm.eps), atol=1e-2, what="gradient at a vector of ones")


@law(cases())
def statistics_are_float32(norm: NormSubject, x: VectorsCase) -> None:
    """The mean and the variance of a bfloat16 vector are computed in float32."""
    half = (64 + 4 * x.x).astype(jnp.bfloat16)
    wanted = normed(half.astype(np.float32), norm.eps)
    same(norm(half), wanted, atol=2**-6, what="output of 64 + 4 x in bfloat16")


def normed(x: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def gradient(x: np.ndarray, slope: np.ndarray, eps: float) -> np.ndarray:
    out, slope = normed(x, eps), slope.astype(np.float64)
    along = (slope * out).mean(-1, keepdims=True) * out
    deviation = np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + eps)
    return (slope - slope.mean(-1, keepdims=True) - along) / deviation


layer_norm = Suite(
    "layer_norm",
    "norm(x [B, T, D]) -> [B, T, D]",
    NormSubject,
    (
        definition,
        mean_is_zero,
        variance_is_one,
        shift,
        large_mean,
        scale,
        sign,
        equal_elements,
        each_by_itself,
        gradients,
        gradient_at_equal_elements,
        dtype_is_kept,
        statistics_are_float32,
        compiled_is_eager,
    ),
)
