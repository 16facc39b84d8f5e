"""Dropout as a pure function: no key, no dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array, as_key
from tfm_jax.ranges import RATE, check_static
from tfm_jax.types import Array, Key

__all__ = ["check_rate", "drop_at", "dropout"]


def dropout(x: Array, rate: float, key: Key | None) -> Array:  # [...] -> [...]
    """Sets each element to zero with probability ``rate`` and scales the others so that the mean stays.

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
      ValueError: ``rate`` is outside [0, 1), or x is not floating while there is something to drop.

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", section 4
    (the inverted form, section 10: kept units are scaled by 1 / (1 - rate) in training, none in evaluation).
    """
    check_rate("dropout", rate)
    x = as_array("dropout", "x", x)
    key = None if key is None else as_key("dropout", key)
    if key is None or rate == 0:
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"dropout: got x of dtype {x.dtype}; wanted a floating dtype. Cast x first.")
    keep = jax.random.bernoulli(key, np.float32(1 - rate), x.shape)  # or under x64 the bits are others
    # In bfloat16, 1 - rate would be rounded (0.9 to 0.898), and every kept element with it.
    scaled = x.astype(np.promote_types(x.dtype, np.float32)) / (1 - rate)
    return jnp.where(keep, scaled, 0).astype(x.dtype)


def drop_at(x: Array, rows: Array, cols: Array, rate: float, key: Key) -> Array:  # [..., t, s] -> [..., t, s]
    """Dropout of a part of a table, where whether an element is kept depends on the key and its place alone.

    Equivalent to::

        keep = bits(key, rows[..., :, None], cols) >= rate * 2**32              # bits: uniform in uint32
        jnp.where(keep, x / (1 - rate), 0)

    Args:
      x: [..., t, s] float.
      rows: int [..., t], which row of the whole table, from 0 below 2**32.
      cols: int [s], which column.
      rate: the probability of a zero, in [0, 1).
      key: a typed PRNG key, the same for every part of the table.

    Returns:
      [..., t, s] of x's dtype.
    """
    # The one generator of which a vmap draws what its rows draw alone.
    key = jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")
    along = jax.vmap(jax.random.fold_in, (None, 0))
    places = jax.vmap(along, (0, None))(
        along(key, rows.reshape(-1).astype(np.uint32)), cols.astype(np.uint32)
    )
    bits = jax.random.key_data(places)[..., 0].reshape(x.shape)
    return jnp.where(bits >= np.uint32(min(round(rate * 2**32), 2**32 - 1)), x / (1 - rate), 0).astype(
        x.dtype
    )


def check_rate(where: str, rate: float, name: str = "rate") -> None:
    """Raises a ValueError where a rate is no share of elements that dropout could set to zero."""
    check_static(where, name, rate, RATE)
