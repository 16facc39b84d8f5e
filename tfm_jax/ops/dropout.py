"""Dropout as a pure function: no key, no dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array, Key

__all__ = ["dropout"]


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
    if not 0 <= rate < 1:
        raise ValueError(
            f"dropout: got rate={rate}; wanted 0 <= rate < 1, the share of elements set to zero."
        )
    if key is None or rate == 0:
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"dropout: got x of dtype {x.dtype}; wanted a floating dtype. Cast x first.")
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    # In bfloat16, 1 - rate would be rounded (0.9 to 0.898), and every kept element with it.
    scaled = x.astype(np.promote_types(x.dtype, np.float32)) / (1 - rate)
    return jnp.where(keep, scaled, 0).astype(x.dtype)
