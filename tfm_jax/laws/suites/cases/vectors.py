"""Vectors, each by itself: cases of functions [B, T, D] -> [B, T, D], and the laws that all of them keep."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import TOLERANCE, Violation, law, same, show
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = [
    "NormSubject",
    "VectorsCase",
    "VectorsSubject",
    "cases",
    "compiled_is_eager",
    "dtype_is_kept",
    "each_by_itself",
]

SHAPES = ((1, 1, 2), (1, 2, 3), (2, 2, 4), (2, 3, 8))  # the simplest first


@dataclasses.dataclass(frozen=True)
class VectorsCase(Seeded):
    """Vectors of multiples of an eighth, near 0, no two elements of a vector the same."""

    x: np.ndarray  # float32 [B, T, D]
    seed: int

    @property
    def some_token(self) -> tuple[int, int]:
        """One of the vectors, the same for the same case."""
        b, t = np.unravel_index(self.seed % (self.x.shape[0] * self.x.shape[1]), self.x.shape[:2])
        return int(b), int(t)

    @property
    def slope(self) -> np.ndarray:
        """Factors of the outputs, for a gradient."""
        return self.rng.standard_normal(self.x.shape).astype(np.float32)

    def __str__(self) -> str:
        B, T, D = self.x.shape
        return f"B = {B}, T = {T}, D = {D}\nx = {show(self.x)}"


@st.composite
def cases(draw) -> VectorsCase:
    B, T, D = draw(st.sampled_from(SHAPES))
    seed = draw(SEEDS)
    rng = np.random.default_rng(seed)
    steps = rng.permuted(np.broadcast_to(np.arange(D) - D // 2, (B, T, D)), axis=-1)
    return VectorsCase((steps + rng.integers(-3, 4, (B, T, D)) / 8).astype(np.float32), seed)


class VectorsSubject(Subject):
    """A function of vectors that keeps their shape."""

    def __call__(self, x: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(x), x.shape, "[B, T, D]")


class NormSubject(VectorsSubject):
    """A norm as its laws ask it.

    Args:
      function: takes a JAX array [B, T, D] and gives one like it; no parameters, or scale 1 and bias 0.
      eps: what the function adds to the variance or to the mean square.
    """

    def __init__(self, function: Callable[..., Any], *, eps: float = 1e-5):
        super().__init__(function)
        self.eps = eps


@law(cases())
def each_by_itself(f: VectorsSubject, x: VectorsCase) -> None:
    """A vector's output depends on no other vector, of its own row or of another."""
    at = x.some_token
    others = x.rng.standard_normal(x.x.shape).astype(np.float32)
    others[at] = x.x[at]
    what = f"output of token {at[1]} of row {at[0]}, with other vectors beside it"
    same(f(others)[at], f(x.x)[at], atol=TOLERANCE, what=what)


@law(cases())
def dtype_is_kept(f: VectorsSubject, x: VectorsCase) -> None:
    """bfloat16 in is bfloat16 out, and near the output in float32."""
    half = x.x.astype(jnp.bfloat16)
    out = f(half)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}, wanted bfloat16")
    same(out, f(half.astype(np.float32)), atol=2**-5, what="output in bfloat16")


@law(cases())
def compiled_is_eager(f: VectorsSubject, x: VectorsCase) -> None:
    """jit, and vmap over the batch, give what the plain call gives."""
    plain = f(x.x)
    for name, call in {"jit": f.compiled, "vmap": f.row_by_row}.items():
        got = f.given(lambda call=call: np.asarray(call(x.x)))
        same(got, plain, atol=TOLERANCE, what=f"output under {name}")
