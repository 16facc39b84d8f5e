"""Which kind of device runs what is traced now."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tfm_jax.types import Array

__all__ = ["current_platform", "definitely", "is_concrete", "vary_with"]


def current_platform() -> str:
    """Where what is traced now will run: on the mesh that is set, or on the default device.

    Equivalent to::

        jax.default_backend()                              # without a mesh

    Returns:
      "cpu", "gpu" or "tpu".
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def definitely(comparison: Callable[[], bool]) -> bool:
    """Whether a comparison of sizes holds, whatever the symbolic sizes of ``jax.export`` turn out to be.

    Equivalent to::

        bool(comparison())                                  # of sizes that are numbers

    Args:
      comparison: compares sizes, such as ``lambda: T * S <= 65536``.

    Returns:
      True where it holds for every value of the symbols; False where it fails, or may fail.
    """
    try:
        return bool(comparison())
    except Exception as error:
        # JAX exports no name for it.
        if type(error).__name__ != "InconclusiveDimensionOperation":
            raise
        return False


def is_concrete(leaf: Any) -> bool:
    """Whether the values of a leaf can be read here and now."""
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, int | np.ndarray | np.generic)


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
