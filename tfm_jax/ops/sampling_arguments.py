"""What is passed to the functions of ``sampling``, checked."""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array
from tfm_jax.types import Array

__all__ = [
    "ABOVE_0",
    "FINITE",
    "SHARE",
    "check_array",
    "check_count",
    "check_logits",
    "check_range",
    "per_row",
]

ABOVE_0 = "a finite number above 0"
SHARE = "a number in (0, 1]"
FINITE = "a finite number"
_RANGES = {
    ABOVE_0: lambda x: (x > 0) & (x < np.inf),
    SHARE: lambda x: (x > 0) & (x <= 1),
    FINITE: np.isfinite,
}


def check_range(where: str, name: str, value: float | np.ndarray, wanted: str) -> None:
    """Raises a ValueError where a number, or one of an array, is outside the range that ``wanted`` says."""
    if not np.all(_RANGES[wanted](value)):
        raise ValueError(f"{where}: got {name}={value}; wanted {wanted}.")


def check_count(where: str, name: str, value: int, least: int) -> None:
    """Raises a ValueError where a value is not a Python integer of at least ``least``."""
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{where}: got {name}={value!r}; wanted a Python integer of at least {least}.")


def per_row(where: str, name: str, value: float | Array, logits: Array, wanted: str) -> Array:
    """A parameter in the dtype that is computed in, in a shape that broadcasts against the logits."""
    dtype = np.promote_types(logits.dtype, np.float32)
    if not isinstance(value, jax.core.Tracer):
        check_range(where, name, np.asarray(value, np.float64), wanted)
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
