"""What is known while tracing: the platform, the precision, concrete values, symbolic sizes, varying axes."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.core
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from tfm_jax.types import Array

__all__ = [
    "at_precision",
    "current_platform",
    "current_precision",
    "definitely",
    "is_concrete",
    "is_mapped",
    "is_partitioned",
    "is_symbolic",
    "mesh_of",
    "platform_of",
    "vary_with",
]

R = TypeVar("R")


def current_precision() -> str | None:
    """The precision of matrix products that is set here (``jax.default_matmul_precision``); None is unset."""
    # JAX declares its options when it is imported, which its types do not show.
    return jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]


def at_precision(function: Callable[..., R]) -> Callable[..., R]:
    """A function with the precision of its matrix products as a further argument, the first.

    Equivalent to::

        with jax.default_matmul_precision(precision):
            function(*arguments)

    JAX traces the rules of ``custom_vjp`` and ``custom_jvp`` after the call, where the caller's precision may
    be gone: a function with such rules passes ``current_precision()`` to all of them.

    Args:
      function: a function of positional arguments.

    Returns:
      ``(precision, *arguments) -> result``.
    """

    def run(precision: str | None, *arguments: object) -> R:
        with jax.default_matmul_precision(precision):
            return function(*arguments)

    return run


def current_platform() -> str:
    """The platform of the current mesh, or of the default device.

    Equivalent to::

        jax.default_backend()                              # without a mesh

    Returns:
      "cpu", "gpu" or "tpu".
    """
    return _configured_platform() or jax.default_backend()


def platform_of(x: object) -> str | None:
    """The platform that a program with the array ``x`` runs on, where it is known while tracing.

    Equivalent to::

        current_platform()                                 # outside of jit

    Args:
      x: an array, or a ``jax.ShapeDtypeStruct``.

    Returns:
      "cpu", "gpu" or "tpu": of the current mesh; of the mesh that an argument of ``jit`` is sharded over; of
      ``jax.default_device``; outside of ``jit``, of the host. None inside ``jit`` without any of them: there
      the program may be lowered for a platform that the host does not have.
    """
    if not isinstance(x, jax.core.Tracer) or not _is_staged():
        return current_platform()
    return _configured_platform() or _platform_name(mesh_of(x).abstract_device)


def _is_staged() -> bool:
    """Whether operations go into a program, as in ``jit``; ``grad`` and ``vmap`` alone run them at once."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def mesh_of(x: object) -> AbstractMesh:
    """The current mesh; without one, the mesh that an argument of ``jit`` is sharded over; else, empty."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and isinstance(x, jax.core.Tracer):
        mesh = getattr(getattr(jax.typeof(x), "sharding", None), "mesh", mesh)
    return mesh


def is_partitioned(x: object) -> bool:
    """Whether the compiler partitions the program over devices, as far as is known while tracing."""
    mesh = mesh_of(x)
    return not mesh.empty and mesh.size > 1 and not mesh.are_all_axes_manual


def _configured_platform() -> str | None:
    # JAX declares its options when it is imported, which its types do not show.
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return _platform_name(jax.sharding.get_abstract_mesh().abstract_device or default)


def _platform_name(device: object) -> str | None:
    platform = device if device is None or isinstance(device, str) else getattr(device, "platform", None)
    return "gpu" if platform in ("cuda", "rocm") else platform


def is_concrete(leaf: object) -> bool:
    """Whether the values of a pytree leaf can be read now, on this host."""
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, int | np.ndarray | np.generic)


def is_mapped(axis: str | tuple[str, ...]) -> bool:
    """Whether the code runs inside ``shard_map`` or ``pmap`` over an axis of that name."""
    try:
        jax.lax.axis_size(axis)
    except NameError:
        return False
    return True


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
