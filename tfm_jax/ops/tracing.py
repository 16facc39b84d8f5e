"""What is known while tracing: the platform, concrete values, symbolic sizes, varying mesh axes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tfm_jax.types import Array

__all__ = ["current_platform", "definitely", "is_concrete", "vary_with"]


def current_platform() -> str:
    """The platform of the current mesh, or of the default device.

    Equivalent to::

        jax.default_backend()                              # without a mesh

    Returns:
      "cpu", "gpu" or "tpu".
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def is_concrete(leaf: Any) -> bool:
    """Whether the values of a pytree leaf can be read now, on this host."""
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, int | np.ndarray | np.generic)


def definitely(comparison: Callable[[], bool]) -> bool:
    """Whether a comparison of sizes holds for every value of the symbolic sizes of ``jax.export``.

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
        # JAX exports no name for this error.
        if type(error).__name__ != "InconclusiveDimensionOperation":
            raise
        return False


def vary_with(x: Array, others: Any) -> Array:
    """``x``, typed as varying over every mesh axis that any of ``others`` varies over.

    Equivalent to::

        x                                               # its values; outside of shard_map, its type too

    Args:
      x: an array, such as the initial carry of a scan that combines it with ``others``: the carry must keep
        its type.
      others: a pytree of arrays.

    Returns:
      x.
    """
    axes = frozenset().union(*map(_varying_axes, jax.tree.leaves(others))) - _varying_axes(x)
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
