"""Parameter initialization: in float32, whatever JAX's default dtype, then rounded to ``param_dtype``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax.types import Array, Key

__all__ = ["constant", "initialize", "lookup", "normal"]


def initialize(init: Callable[..., Array], key: Key, shape: tuple[int, ...], dtype: str) -> nnx.Param:
    """A parameter from an initializer of ``jax.nn.initializers``."""
    return nnx.Param(init(key, shape, jnp.float32).astype(dtype))


def normal(std: float, key: Key, shape: tuple[int, ...], dtype: str) -> nnx.Param:
    """A parameter from a normal distribution with mean 0."""
    return nnx.Param((jax.random.normal(key, shape, jnp.float32) * std).astype(dtype))


def constant(value: float, shape: tuple[int, ...] | int, dtype: str) -> nnx.Param:
    """A parameter with every element set to one value."""
    return nnx.Param(jnp.full(shape, value, dtype))


def lookup(table: Array, indices: Array) -> Array:
    """Rows of a table; an index out of range gives NaN, never another row."""
    return table.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
