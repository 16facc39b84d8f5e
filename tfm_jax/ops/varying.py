"""Under ``shard_map``: which devices a value differs on, made equal for what meets in one loop."""

from typing import Any

import jax

from tfm_jax.types import Array

__all__ = ["vary_with"]


def vary_with(x: Array, others: Any) -> Array:
    """x, of the type that it has after meeting others: different on every device on which any of them is.

    Equivalent to::

        x                                               # its values; outside of shard_map, its type too

    Args:
      x: an array. A scan wants its carry to keep its type, so a carry that meets ``others`` starts as this.
      others: a pytree of arrays.

    Returns:
      x.
    """
    varying = lambda leaf: jax.typeof(leaf).manual_axis_type.varying
    axes = frozenset().union(*map(varying, jax.tree.leaves(others))) - varying(x)
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x
