"""Cases of position-wise functions [B, T, D] -> [B, T, D], their subjects, and the laws that they share."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = [
    "NormSubject",
    "VectorsCase",
    "VectorsSubject",
    "cases",
    "compiled_matches_eager",
    "dtype_is_preserved",
    "vectors_are_independent",
]

SHAPES = ((1, 1, 2), (1, 2, 3), (2, 2, 4), (2, 3, 8))  # B, T, D, the simplest first


@dataclasses.dataclass(frozen=True)
class VectorsCase(Seeded):
    """Vectors near 0, of multiples of 1/8, the elements of a vector all different."""

    x: np.ndarray  # float32 [B, T, D]
    seed: int

    @property
    def some_token(self) -> tuple[int, int]:
        """The indices (b, t) of one vector, the same for the same case."""
        b, t = np.unravel_index(self.seed % (self.x.shape[0] * self.x.shape[1]), self.x.shape[:2])
        return int(b), int(t)

    @property
    def cotangent(self) -> np.ndarray:
        """A random cotangent of the output, for a gradient."""
        return self.rng.standard_normal(self.x.shape).astype(np.float32)

    def __str__(self) -> str:
        B, T, D = self.x.shape
        return f"B = {B}, T = {T}, D = {D}\nx = {show(self.x)}"


@st.composite
def cases(draw) -> VectorsCase:
    """Random vectors."""
    shape, seed = draw(st.sampled_from(SHAPES)), draw(strategies.seeds())
    return VectorsCase(draw(strategies.distinct(shape, seed=seed)), seed)


class VectorsSubject(Subject):
    """A function of vectors [B, T, D] that returns [B, T, D]."""

    def __call__(self, x: AnyArray) -> np.ndarray:
        """The output, its shape checked."""
        return check_shape(super().__call__(x), x.shape, "[B, T, D]")


class NormSubject(VectorsSubject):
    """A normalization, ``function(x)``.

    Args:
      function: takes a JAX array [B, T, D] and returns one like it; without parameters, or with scale 1 and
        bias 0.
      eps: what the function adds to the variance or to the mean square.
    """

    def __init__(self, function: Function, *, eps: float = 1e-5):
        super().__init__(function)
        self.eps = eps


@law(cases())
def vectors_are_independent(f: VectorsSubject, x: VectorsCase) -> None:
    """The output for a vector depends on no other vector of the batch."""
    at = x.some_token
    others = x.rng.standard_normal(x.x.shape).astype(np.float32)
    others[at] = x.x[at]
    what = f"output at {list(at)}, with other vectors around it"
    assert_close(f(others)[at], f(x.x)[at], atol=TOLERANCE, what=what)


@law(cases(), severity="contract")
def dtype_is_preserved(f: VectorsSubject, x: VectorsCase) -> None:
    """A bfloat16 input gives a bfloat16 output, close to the float32 output."""
    half = x.x.astype(jnp.bfloat16)
    out = f(half)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}; wanted bfloat16")
    assert_close(out, f(half.astype(np.float32)), atol=2**-5, what="output in bfloat16")


@law(cases())
def compiled_matches_eager(f: VectorsSubject, x: VectorsCase) -> None:
    """Under jit, and under vmap over the batch, the output is that of the plain call."""
    plain = f(x.x)
    for name, call in {"jit": f.compiled, "vmap": f.per_example}.items():
        got = f.run(lambda call=call: np.asarray(call(x.x)))
        assert_close(got, plain, atol=TOLERANCE, what=f"output under {name}")
