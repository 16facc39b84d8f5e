"""The laws of a position-wise feed-forward layer, ``f(x [B, T, D]) -> [B, T, D]``."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, assert_close, law
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape
from tfm_jax.laws.suites.cases.vectors import (
    VectorsCase,
    cases,
    compiled_matches_eager,
    dtype_is_preserved,
    vectors_are_independent,
)

__all__ = ["FeedForwardSubject", "feed_forward"]


class FeedForwardSubject(Subject):
    """A feed-forward layer, ``function(x)``, with its parameters bound.

    Args:
      function: takes a JAX array [B, T, dim] and returns one like it.
      dim: the layer's D. The vectors of a case are repeated and cut to this size.
    """

    def __init__(self, function: Function, *, dim: int = 8):
        super().__init__(function)
        self.dim = dim

    def __call__(self, x: AnyArray) -> np.ndarray:
        """The output, its shape checked."""
        return check_shape(super().__call__(x), (*x.shape[:-1], self.dim), "[B, T, D]")

    def raw(self, x: AnyArray) -> Any:
        """The function, called with vectors of size ``dim``."""
        x = jnp.asarray(x)
        return self.function(jnp.tile(x, -(-self.dim // x.shape[-1]))[..., : self.dim])


@law(cases())
def permutation_equivariance(f: FeedForwardSubject, x: VectorsCase) -> None:
    """Permuting the positions permutes the outputs: the layer is the same at every position."""
    order = x.rng.permutation(x.x.shape[1])
    what = f"output of positions {order.tolist()}"
    assert_close(f(x.x[:, order]), f(x.x)[:, order], atol=TOLERANCE, what=what)


@law(cases())
def examples_are_independent(f: FeedForwardSubject, x: VectorsCase) -> None:
    """An example gives the same output in a batch as alone."""
    alone = [f(example[None]) for example in x.x]
    assert_close(f(x.x), np.concatenate(alone), atol=TOLERANCE)


feed_forward = Suite(
    "feed_forward",
    "f(x [B, T, D]) -> [B, T, D]",
    FeedForwardSubject,
    (
        vectors_are_independent,
        permutation_equivariance,
        examples_are_independent,
        dtype_is_preserved,
        compiled_matches_eager,
    ),
)
