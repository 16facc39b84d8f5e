"""The small picture in a mask's ``repr``."""

import functools
from typing import Any

import jax
import numpy as np

from tfm_jax.ops.mask_arrays import at_hand
from tfm_jax.types import Array

__all__ = ["drawing"]

_SIDE = 16  # of the largest drawing


def drawing(mask: Any, T: int, S: int) -> str:
    """The top left corner of a mask for T queries and S keys, as text.

    Equivalent to::

        "\\n".join(" ".join("#" if x else "." for x in row) for row in mask.to_dense(T, S))

    Args:
      mask: a Mask.
      T: the number of queries.
      S: the number of keys.

    Returns:
      A legend and one line a query (at most 16 by 16; the first row of the batch, the first head), or the
      empty string where the mask cannot be read: under tracing, where its parts do not fit together, or where
      an array of it has no element.
    """
    leaves = jax.tree.leaves(mask)
    if not all(map(at_hand, leaves)) or any(0 in np.shape(leaf) for leaf in leaves):
        return ""
    try:
        with jax.ensure_compile_time_eval():  # inside somebody's jit, a mask without tracers is still drawn
            corner = np.asarray(_corner(mask, T, S))
    except (TypeError, ValueError):
        return ""
    cut = f", cut to {_SIDE}" if max(T, S) > _SIDE else ""
    lines = [" ".join("#" if allowed else "." for allowed in row) for row in corner]
    return "\n".join([f"  (T = {T}, S = {S}{cut}; # = may attend)", *lines])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _corner(mask: Any, T: int, S: int) -> Array:
    allowed = mask.to_dense(T, S)
    # Sliced inside the jit: XLA then computes no more of the mask than is drawn.
    return allowed[(0,) * (allowed.ndim - 2)][:_SIDE, :_SIDE]
