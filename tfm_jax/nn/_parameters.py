"""Parameter initialization: in float32, whatever JAX's default dtype, then rounded to ``param_dtype``."""

import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_array
from tfm_jax.nn.variants import Initializer
from tfm_jax.types import Key

__all__ = ["constant", "initialize"]


def initialize(
    initializer: Initializer,
    key: Key,
    shape: tuple[int, ...],
    dtype: str,
    *,
    inputs: int = 1,
    independent: int = 0,
) -> nnx.Param:
    """A parameter: first the axes that number independent ones, then its inputs, then its outputs."""
    axes = tuple(range(independent, len(shape)))
    value = initializer(key, shape, in_axes=axes[:inputs], out_axes=axes[inputs:])
    value = as_array(type(initializer).__name__, "parameter", value)
    if value.shape != shape:
        raise ValueError(
            f"{type(initializer).__name__}: got a parameter of shape {value.shape}; wanted {shape}. Return "
            "an array of the shape that is passed."
        )
    return nnx.Param(value.astype(dtype))


def constant(value: float, shape: tuple[int, ...] | int, dtype: str) -> nnx.Param:
    """A parameter with every element set to one value."""
    return nnx.Param(jnp.full(shape, value, dtype))
