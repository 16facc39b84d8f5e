"""The first values of parameters: float32, whatever JAX's default dtype is, then rounded to their own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax.types import Array, Key

__all__ = ["constant", "drawn", "normal"]


def drawn(init: Callable[..., Array], key: Key, shape: tuple[int, ...], dtype: str) -> nnx.Param:
    """What an initializer of ``jax.nn.initializers`` draws."""
    return nnx.Param(init(key, shape, jnp.float32).astype(dtype))


def normal(std: float, key: Key, shape: tuple[int, ...], dtype: str) -> nnx.Param:
    """Normal with a standard deviation."""
    return nnx.Param((jax.random.normal(key, shape, jnp.float32) * std).astype(dtype))


def constant(value: float, shape: tuple[int, ...] | int, dtype: str) -> nnx.Param:
    """The same number everywhere."""
    return nnx.Param(jnp.full(shape, value, dtype))


def look_up(table: Array, index: Array) -> Array:
    """Rows of a table; an index outside it gives NaN, never some other row."""
    return table.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
