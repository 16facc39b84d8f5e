"""Mutants of norm variants: a module for each size, with a scale."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant
from tfm_jax.nn.variants import Norm

JIT = False


def divide(x, scale):
    """x divided by its largest element, which is no norm that the library knows."""
    wide = x.astype(jnp.float32)
    largest = jnp.abs(wide).max(-1, keepdims=True)
    out = wide / jnp.where(largest > 0, largest, 1) * scale.astype(jnp.float32)
    return out.astype(x.dtype)


class Scaled(nnx.Module):
    """Calls the function of a variant with a scale of ones."""

    def __init__(self, norm, size, *, axis, dtype):
        self.norm, self.letters = norm, axis if norm.letters is None else norm.letters
        self.scale = nnx.Param(jnp.ones(size, norm.dtype or dtype))

    def axes(self):
        return {"scale": self.letters} if self.letters else {}

    def __call__(self, x):
        return self.norm.call(x, jnp.broadcast_to(self.scale[...], x.shape))


@dataclasses.dataclass(frozen=True)
class Variant(Norm):
    call: Callable = divide
    letters: str | None = None
    dtype: str | None = None

    def build(self, size, *, axis, dtype, rngs):
        return Scaled(self, size, axis=axis, dtype=dtype)


def rms(x, scale):
    mean_square = jnp.square(x).mean(-1, keepdims=True)
    return x / jnp.sqrt(mean_square) * scale.astype(x.dtype)


def over_the_positions(x, scale):
    return divide(x - x.mean(-2, keepdims=True) if x.ndim > 1 else x, scale)


def of_three_dims_only(x, scale):
    return divide(x, scale) * (1 if x.ndim == 3 else 2)


def of_exponentials(x, scale):
    return divide(jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), scale)


def with_a_gradient_of_infinity(x, scale):
    return divide(x, scale) + 0 * jnp.sqrt(x - jax.lax.stop_gradient(x))


def wrong_under_jit(x, scale):
    return divide(x, scale) * (2 if tiny.is_traced(x) else 1)


RIGHT = Variant()
MUTANTS = {
    "over the positions": Mutant(Variant(over_the_positions), ["vectors_are_independent"]),
    "other leading dims give twice the output": Mutant(Variant(of_three_dims_only), ["leading_dims"]),
    "the output is float32": Mutant(
        Variant(lambda x, scale: divide(x.astype(jnp.float32), scale)), ["dtype_is_preserved"]
    ),
    "no eps": Mutant(Variant(rms), ["zero_vectors"]),
    "exponentials overflow": Mutant(Variant(of_exponentials), ["large_vectors"]),
    "the gradient of a square root at 0": Mutant(
        Variant(with_a_gradient_of_infinity), ["gradients_are_finite", "zero_vectors"]
    ),
    "no axes are declared": Mutant(Variant(letters=""), ["parameters"]),
    "the axis is always D": Mutant(Variant(letters="D"), ["parameters"]),
    "the parameters are float32": Mutant(Variant(dtype="float32"), ["parameters"]),
    "twice the output under jit": Mutant(Variant(wrong_under_jit), ["compiled_matches_eager"]),
}
