"""Rows of a table of vectors, also where the table is sharded over a mesh."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from tfm_jax.sharding import activation_spec, free_axes, parameter_spec, reshard
from tfm_jax.types import Array

__all__ = ["lookup"]


def lookup(
    table: Array, indices: Array, letters: str = "V D", *, scale: float = 1.0, dtype: str | None = None
) -> Array:
    """Rows of a table; an index out of range gives NaN, never another row.

    Equivalent to::

        (table[indices] * scale).astype(dtype)

    On a mesh whose rules shard the letters, neither the table nor its gradient is ever whole on a device: the
    devices exchange the vectors of their tokens, or gather the table where that is smaller.

    Args:
      table: [V, D].
      indices: int [..., B, T].
      letters: of the table, as its module declares them.
      scale: a factor.
      dtype: of the result; None is the table's.

    Returns:
      [..., B, T, D].
    """
    dtype = table.dtype.name if dtype is None else dtype
    # Small integer types cannot hold V.
    indices = indices.astype(jnp.int32) if indices.dtype.itemsize < 4 else indices
    plan = _plan(table, indices, letters, scale, dtype)
    if plan is not None:
        return _sharded_lookup(plan, table, indices)
    rows = table.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return (rows if scale == 1.0 else rows * scale).astype(dtype)


class _Plan(NamedTuple):
    """How a sharded table is read. Axes are names of mesh axes."""

    shape: tuple[int, int]
    scale: float
    dtype: str
    table_dtype: str
    vocabulary: tuple[str, ...]  # the axes that shard V
    features: tuple[str, ...]  # the axes that shard D
    indices: P
    exchange: bool  # exchange the vectors of tokens, instead of gathering the table over ``features``

    @property
    def table(self) -> P:
        return P(self.vocabulary or None, self.features or None)

    @property
    def others(self) -> tuple[str, ...]:
        """The axes that shard the indices and not the table: each has its own part of the gradient."""
        return tuple(axis for axis in _names(self.indices) if axis not in self.features)

    def local(self, indices: Array, n_rows: int) -> Array:
        """Flat indices into this device's rows; ``n_rows`` for those of other devices."""
        indices = indices.reshape(-1)
        valid = (indices >= 0) & (indices < self.shape[0])
        indices = jnp.where(valid, indices, -1).astype(jnp.int32)
        if self.vocabulary:
            indices = indices - n_rows * jax.lax.axis_index(self.vocabulary)
        return jnp.where((indices >= 0) & (indices < n_rows), indices, n_rows)


def _plan(table: Array, indices: Array, letters: str, scale: float, dtype: str) -> _Plan | None:
    """None where the table is whole on each device, and where the compiler does as well."""
    sizes = free_axes()
    if not sizes or indices.ndim < 1:
        return None
    vocabulary, features = map(_names, parameter_spec("nn.Embedding", letters, table.shape))
    spec = activation_spec("nn.Embedding", "B T", indices.shape)
    sharding = _names(spec)
    if not vocabulary + features or set(vocabulary) & set(sharding) or not set(features) <= set(sharding):
        return None
    n_local = math.prod(indices.shape) // math.prod(sizes[axis] for axis in sharding)
    n_rows = table.shape[0] // math.prod(sizes[axis] for axis in vocabulary)
    exchange = bool(features) and n_local <= n_rows
    shape = (table.shape[0], table.shape[1])
    return _Plan(shape, scale, dtype, table.dtype.name, vocabulary, features, spec, exchange)


def _names(entries: object) -> tuple[str, ...]:
    """The mesh axes of an entry of a PartitionSpec, or of all of them."""
    if entries is None:
        return ()
    if isinstance(entries, str):
        return (entries,)
    assert isinstance(entries, tuple | P)
    return tuple(name for entry in entries for name in _names(entry))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sharded_lookup(plan: _Plan, table: Array, indices: Array) -> Array:
    """As ``lookup``. Its gradient is summed in float32, whatever the dtype of the rows."""

    def read(table: Array, indices: Array) -> Array:
        table = (table if plan.scale == 1.0 else table * plan.scale).astype(plan.dtype)
        wanted = plan.local(indices, table.shape[0])
        if plan.exchange:
            wanted = jax.lax.all_gather(wanted, plan.features, tiled=True)
        elif plan.features:
            table = jax.lax.all_gather(table, plan.features, axis=1, tiled=True)
        rows = table.at[wanted].get(mode="fill", fill_value=0)
        if plan.exchange:
            rows = jax.lax.all_to_all(rows, plan.features, split_axis=0, concat_axis=1, tiled=True)
        if plan.vocabulary:
            rows = jax.lax.psum(rows, plan.vocabulary)  # of one row and zeros
        rows = rows.reshape(*indices.shape, -1)
        valid = (indices >= 0) & (indices < plan.shape[0])
        return jnp.where(valid[..., None], rows, jnp.nan)

    mapped = jax.shard_map(read, in_specs=(plan.table, plan.indices), out_specs=P(*plan.indices, None))
    return mapped(reshard(table, plan.table), reshard(indices, plan.indices))


def _forward(plan: _Plan, table: Array, indices: Array) -> tuple[Array, Array]:
    return _sharded_lookup(plan, table, indices), indices


def _backward(plan: _Plan, indices: Array, gradient: Array) -> tuple[Array, np.ndarray]:
    V, D = plan.shape
    sizes = free_axes()
    n_rows = V // math.prod(sizes[axis] for axis in plan.vocabulary)
    parts = math.prod(sizes[axis] for axis in plan.features)

    def add(gradient: Array, indices: Array) -> Array:
        wanted, rows = plan.local(indices, n_rows), gradient.reshape(-1, D)
        if plan.exchange:
            wanted = jax.lax.all_gather(wanted, plan.features, tiled=True)
            rows = jax.lax.all_to_all(rows, plan.features, split_axis=1, concat_axis=0, tiled=True)
        rows = rows.astype(np.promote_types(rows.dtype, np.float32)) * plan.scale
        zeros = jnp.zeros((n_rows, D // parts if plan.exchange else D), rows.dtype)
        total = zeros.at[wanted].add(rows, mode="drop")
        if plan.features and not plan.exchange:
            total = jax.lax.psum_scatter(total, plan.features, scatter_dimension=1, tiled=True)
        return (jax.lax.psum(total, plan.others) if plan.others else total).astype(plan.table_dtype)

    specs = P(*plan.indices, None), plan.indices
    mapped = jax.shard_map(add, in_specs=specs, out_specs=plan.table)
    table_gradient = mapped(*map(reshard, (gradient, indices), specs))
    return table_gradient, np.zeros(indices.shape, jax.dtypes.float0)


_sharded_lookup.defvjp(_forward, _backward)
