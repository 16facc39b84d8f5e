"""The laws of RMS norm: of any ``f(x [B, T, D]) -> [B, T, D]``, without a scale or with a scale of 1."""

import functools

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

__all__ = ["rms_norm"]


@law(cases())
def definition(norm: NormSubject, x: VectorsCase) -> None:
    """The output is x / sqrt(mean square + eps), with eps under the root."""
    for size in (1, np.sqrt(norm.eps)):
        small = (x.x * size).astype(np.float32)
        same(norm(small), normed(small, norm.eps), atol=TOLERANCE, what=f"output of x * {size:.2g}")


@law(cases())
def mean_square_is_one(norm: NormSubject, x: VectorsCase) -> None:
    """The squares of an output's elements have mean 1, but for eps."""
    square = np.square(x.x.astype(np.float64)).mean(-1)
    got = np.square(norm(x.x).astype(np.float64)).mean(-1)
    same(got, square / (square + norm.eps), atol=5 * TOLERANCE, what="mean squares of the outputs")


@law(cases())
def mean_stays(norm: NormSubject, x: VectorsCase) -> None:
    """No mean is taken off: a vector of equal elements keeps them, scaled to 1."""
    got = norm(3 * np.ones_like(x.x))
    same(got, 3 / np.sqrt(9 + norm.eps), atol=TOLERANCE, what="output of vectors of 3")


@law(cases())
def scale(norm: NormSubject, x: VectorsCase) -> None:
    """A vector times a positive number gives the same, where the mean square is far above eps."""
    x64, number = x.x * np.float32(64), np.float32(2.0 ** x.rng.integers(1, 5))
    got, wanted = norm(x64 * number), norm(x64)
    same(got, wanted, atol=TOLERANCE + norm.eps, what=f"output of x * 64 * {number:g}, beside that of x * 64")


@law(cases())
def sign(norm: NormSubject, x: VectorsCase) -> None:
    """A vector with its sign turned gives the output with its sign turned."""
    same(norm(-x.x), -norm(x.x), atol=TOLERANCE, what="output of -x")


@law(cases())
def zeros(norm: NormSubject, x: VectorsCase) -> None:
    """A vector of zeros gives zeros, and not nan."""
    same(norm(np.zeros_like(x.x)), 0, what="output of vectors of 0")


@law(cases())
def gradients(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient is that of the definition: the mean square has its own."""
    got = norm.given(lambda: norm.gradient(x.slope, x.x))
    same(got, gradient(x.x, x.slope, norm.eps), atol=20 * TOLERANCE, what="gradient")


@law(cases())
def gradient_at_zeros(norm: NormSubject, x: VectorsCase) -> None:
    """The gradient at a vector of zeros is finite, for eps keeps the root from 0."""
    got = norm.given(lambda: norm.gradient(x.slope, np.zeros_like(x.x)))
    same(got, gradient(np.zeros_like(x.x), x.slope, norm.eps), atol=1e-3, what="gradient at a vector of 0")


@law(cases())
def statistics_are_float32(norm: NormSubject, x: VectorsCase) -> None:
    """The squares of float16 elements, which float16 cannot hold, are computed in float32."""
    half = (x.x * 1024).astype(np.float16)
    wanted = normed(half.astype(np.float32), norm.eps)
    same(norm(half), wanted, atol=2**-8, what="output of 1024 x in float16")


def normed(x: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)


def gradient(x: np.ndarray, slope: np.ndarray, eps: float) -> np.ndarray:
    out, slope = normed(x, eps), slope.astype(np.float64)
    rms = np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True) + eps)
    return (slope - (slope * out).mean(-1, keepdims=True) * out) / rms


rms_norm = Suite(
    "rms_norm",
    "norm(x [B, T, D]) -> [B, T, D]",
    functools.partial(NormSubject, eps=1e-6),
    (
        definition,
        mean_square_is_one,
        mean_stays,
        scale,
        sign,
        zeros,
        each_by_itself,
        gradients,
        gradient_at_zeros,
        dtype_is_kept,
        statistics_are_float32,
        compiled_is_eager,
    ),
)
