"""Dropout as a pure function of a PRNG key; no key, no dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array, as_key, check_shapes
from tfm_jax.ranges import RATE, check_static
from tfm_jax.types import Array, Key

__all__ = ["check_rate", "drop_at", "dropout"]


def dropout(x: Array, rate: float, key: Key | None) -> Array:  # [...] -> [...]
    """Dropout: zeroes each element with probability ``rate`` and scales the others by 1 / (1 - rate).

    Equivalent to::

        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        x if key is None or rate == 0 else jnp.where(keep, x / (1 - rate), 0)

    Args:
      x: [...] float, of any shape.
      rate: the probability of a zero, a Python number in [0, 1).
      key: a PRNG key, which is consumed, or None for no dropout (evaluation).

    Returns:
      An array of x's shape and dtype; x itself where ``key`` is None or ``rate`` is 0.

    Raises:
      ValueError: ``rate`` is outside [0, 1), or x is not floating while dropout is on.

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", section 4
    (the inverted form, section 10: kept units are scaled in training, none in evaluation).
    """
    check_rate("dropout", rate)
    x = as_array("dropout", "x", x)
    key = None if key is None else as_key("dropout", key)
    if key is None or rate == 0:
        return x
    check_shapes("dropout", x=(x, "...", "float"))
    keep = jax.random.bernoulli(key, np.float32(1 - rate), x.shape)  # float32, or x64 changes the bits
    # bfloat16 would round 1 - rate (0.9 to 0.898), and so every kept element.
    scaled = x.astype(np.promote_types(x.dtype, np.float32)) / (1 - rate)
    return jnp.where(keep, scaled, 0).astype(x.dtype)


def drop_at(x: Array, rows: Array, cols: Array, rate: float, key: Key) -> Array:  # [..., t, s] -> [..., t, s]
    """Dropout of a tile of a table; whether an element is kept depends only on the key and its indices.

    Equivalent to::

        keep = bits(key, rows[..., :, None], cols) >= rate * 2**32              # bits: uniform in uint32
        jnp.where(keep, x / (1 - rate), 0)

    Args:
      x: [..., t, s] float.
      rows: int [..., t], row indices in the full table, in [0, 2**32).
      cols: int [s], column indices in the full table.
      rate: the probability of a zero, in [0, 1).
      key: a typed PRNG key, the same for every tile.

    Returns:
      [..., t, s] of x's dtype.
    """
    # Threefry is the only generator whose bits under vmap equal those of single calls.
    key = jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")
    fold_in_each = jax.vmap(jax.random.fold_in, (None, 0))
    row_keys = fold_in_each(key, rows.reshape(-1).astype(np.uint32))
    element_keys = jax.vmap(fold_in_each, (0, None))(row_keys, cols.astype(np.uint32))
    bits = jax.random.key_data(element_keys)[..., 0].reshape(x.shape)
    keep = bits >= np.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def check_rate(function: str, rate: float, name: str = "rate") -> None:
    """Raises a ValueError unless a dropout rate is a number in [0, 1), known before tracing."""
    check_static(function, name, rate, RATE)
