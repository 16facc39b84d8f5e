"""The laws of a position-wise layer: of any ``f(x [B, T, D]) -> [B, T, D]``, its parameters inside it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, law, same
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.vectors import (
    VectorsCase,
    cases,
    compiled_is_eager,
    dtype_is_kept,
    each_by_itself,
)

__all__ = ["FeedForwardSubject", "feed_forward"]


class FeedForwardSubject(Subject):
    """A layer as its laws ask it.

    Args:
      function: takes a JAX array [B, T, dim] and gives one like it.
      dim: D, as its parameters want it: the elements of a case are repeated until there are so many.
    """

    def __init__(self, function: Callable[..., Any], *, dim: int = 8):
        super().__init__(function)
        self.dim = dim

    def __call__(self, x: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(x), (*x.shape[:-1], self.dim), "[B, T, D]")

    def raw(self, x: Any) -> Any:
        """The function itself, of vectors of ``dim`` elements."""
        x = jnp.asarray(x)
        return self.function(jnp.tile(x, -(-self.dim // x.shape[-1]))[..., : self.dim])


@law(cases())
def order_of_positions(f: FeedForwardSubject, x: VectorsCase) -> None:
    """Vectors in another order give the outputs in that order: the layer is the same at every position."""
    order = x.rng.permutation(x.x.shape[1])
    same(f(x.x[:, order]), f(x.x)[:, order], atol=TOLERANCE, what=f"output of positions {order.tolist()}")


@law(cases())
def rows_alike(f: FeedForwardSubject, x: VectorsCase) -> None:
    """A row of a batch gives what it gives alone."""
    alone = [f(row[None]) for row in x.x]
    same(f(x.x), np.concatenate(alone), atol=TOLERANCE)


feed_forward = Suite(
    "feed_forward",
    "f(x [B, T, D]) -> [B, T, D]",
    FeedForwardSubject,
    (each_by_itself, order_of_positions, rows_alike, dtype_is_kept, compiled_is_eager),
)
