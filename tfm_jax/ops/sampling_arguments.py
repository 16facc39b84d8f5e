"""What is passed to the functions of ``sampling``, checked."""

import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array
from tfm_jax.ranges import Range, check_each
from tfm_jax.types import Array

__all__ = ["check_array", "check_logits", "per_row"]


def per_row(where: str, name: str, value: float | Array, logits: Array, wanted: Range) -> Array:
    """A parameter in the dtype that is computed in, in a shape that broadcasts against the logits."""
    dtype = np.promote_types(logits.dtype, np.float32)
    check_each(where, name, value, wanted)
    value = jnp.asarray(value, dtype)
    if value.ndim and value.shape != logits.shape[:-1]:
        raise ValueError(
            f"{where}: got {name} of shape {value.shape} with logits of shape {logits.shape}; wanted one "
            f"number, or one a row: {logits.shape[:-1]}."
        )
    return value[..., None] if value.ndim else value


def check_logits(where: str, logits: Array) -> Array:
    logits = as_array(where, "logits", logits)
    if logits.ndim < 1 or logits.shape[-1] < 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"{where}: got logits of shape {logits.shape} and dtype {logits.dtype}; wanted [..., V] of "
            "a floating dtype, V at least 1."
        )
    return logits


def check_array(where: str, name: str, array: Array, shape: tuple[int | None, ...], dtype: type) -> Array:
    array = as_array(where, name, array)
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or not jnp.issubdtype(array.dtype, dtype):
        sizes = ", ".join("M" if size is None else str(size) for size in shape)
        kind = "bool" if dtype is jnp.bool_ else "int"
        raise ValueError(
            f"{where}: got {name} of shape {array.shape} and dtype {array.dtype}; wanted {kind} [{sizes}]."
        )
    return array
