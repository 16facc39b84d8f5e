"""What is known while tracing: the platform, concrete values, symbolic sizes, varying mesh axes."""

from collections.abc import Callable

import jax
import jax.core
import jax.export
import numpy as np

from tfm_jax.types import Array

__all__ = ["current_platform", "definitely", "is_concrete", "is_symbolic", "vary_with"]


def current_platform() -> str:
    """The platform of the current mesh, or of the default device.

    Equivalent to::

        jax.default_backend()                              # without a mesh

    Returns:
      "cpu", "gpu" or "tpu".
    """
    # JAX declares its options when it is imported, which its types do not show.
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    device = jax.sharding.get_abstract_mesh().abstract_device or default
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def is_concrete(leaf: object) -> bool:
    """Whether the values of a pytree leaf can be read now, on this host."""
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, int | np.ndarray | np.generic)


def is_symbolic(size: object) -> bool:
    """Whether a number is a symbolic size of ``jax.export``."""
    # It accepts any object, which its types do not show.
    return jax.export.is_symbolic_dim(size)  # pyright: ignore[reportArgumentType]


def definitely(comparison: Callable[[], bool | Array]) -> bool:
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


def vary_with(x: Array, others: object) -> Array:
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


def _varying_axes(x: object) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
