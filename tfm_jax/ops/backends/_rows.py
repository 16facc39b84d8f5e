"""Fully masked rows, NaN and Inf for the kernels, from the structure of a mask instead of its T x S table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends.common import nonfinite_rows
from tfm_jax.ops.masks.algebra import Mask, Sizes, conjuncts
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Segments, Window
from tfm_jax.ops.masks.tiles import AnyArray
from tfm_jax.ops.tracing import vary_with
from tfm_jax.types import Array

__all__ = ["distance_range", "fix_rows_by_structure", "key_ids_and_validity", "queries_with_keys"]


def fix_rows_by_structure(
    out: Array,  # [..., T, N, Hv]
    mask: Mask,
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    nonfinite_q: Array,  # bool [..., T, N, 1]
    nonfinite_k: Array,  # bool [..., S, K, 1]
) -> Array:
    """``fix_rows`` for masks that ``&`` joins, in O((T + S) log) unless an input has NaN or Inf."""
    readable = queries_with_keys(mask, q.shape[:-3], q.shape[-3], k.shape[-3])
    if readable is not None:
        out = jnp.where(readable[..., None, None], out, 0)

    rows = vary_with(jnp.zeros((*out.shape[:-1], 1), bool), (mask, nonfinite_q, nonfinite_k))

    def find() -> Array:
        *batch, T, N, _ = q.shape
        S = k.shape[-3]
        allowed = mask.evaluate(Sizes(tuple(batch), N, T, S))
        allowed = jnp.broadcast_to(allowed, (*allowed.shape[:-2], T, S))
        return rows | nonfinite_rows(allowed, nonfinite_q, nonfinite_k)

    # The table is evaluated only where it is needed, and is never kept.
    found = nonfinite_q.any() | nonfinite_k.any()
    return _with_nan(out, jax.lax.cond(found, find, lambda: rows))


# Compiled: as an array outside of jit, the NaN would stop every run under jax_debug_nans.
@functools.partial(jax.jit, inline=True)
def _with_nan(out: Array, rows: Array) -> Array:
    return jnp.where(rows, jnp.nan, out)


def queries_with_keys(mask: Mask, batch: tuple[int, ...], T: int, S: int) -> Array | None:
    """bool [..., T]: whether a query may attend to any key. None where the structure says that all may.

    Args:
      mask: ``causal``, ``window``, ``segments``, ``padding`` and ``prefix``, joined by ``&``, with offsets
        that are ints.
      batch: the leading dims [...] of q.
      T: the number of queries.
      S: the number of keys.
    """
    leaves = conjuncts(mask)
    least, greatest = distance_range(leaves)
    first = np.maximum(0, np.arange(T) + least)
    last = np.minimum(S - 1, np.arange(T) + greatest)
    segments = [leaf for leaf in leaves if isinstance(leaf, Segments)]
    if not any(isinstance(leaf, Padding | Prefix) for leaf in leaves):
        one_table = all(leaf.key_ids is None or leaf.key_ids is leaf.query_ids for leaf in segments)
        # With one id per position, every query may attend to itself.
        if (one_table and least <= 0 <= greatest) if segments else (first <= last).all():
            return None
    positions = np.arange(S, dtype=np.int32)
    first, last = (x.astype(np.int32)[None] for x in (first, np.maximum(last, -1)))
    query_ids, key_ids, valid = key_ids_and_validity(mask, batch, T, S)
    if not segments:
        # The last valid key at or before the last position that a query may attend to.
        found = jax.lax.cummax(jnp.where(valid, positions[None], -1), axis=1)[:, np.maximum(last[0], 0)]
        readable = (found >= first) & (last >= 0)
    else:
        readable = _any_key_of_segment(query_ids, key_ids, valid, first, last)
    return readable.reshape(*batch, T)


def _any_key_of_segment(
    query_ids: Array, key_ids: Array, valid: Array, first: np.ndarray, last: np.ndarray
) -> Array:  # -> bool [examples, T]
    """Whether a valid key with the query's id is at a position from ``first`` to ``last``.

    Keys and queries are sorted by id, then by position; a query's last key is the one before it.
    """
    (n, T), S = query_ids.shape, key_ids.shape[1]
    ids = jnp.concatenate([key_ids, query_ids], axis=1)
    positions = jnp.broadcast_to(np.concatenate([np.arange(S, dtype=np.int32), last[0]])[None], (n, S + T))
    is_query = jnp.broadcast_to(np.repeat(np.array([[0, 1]], np.int32), [S, T], axis=1), (n, S + T))
    usable = jnp.concatenate([valid, jnp.zeros((n, T), bool)], axis=1)
    index = jax.lax.broadcasted_iota(jnp.int32, (n, S + T), 1)
    ids, positions, _, usable, index = jax.lax.sort(
        (ids, positions, is_query, usable, index), dimension=1, num_keys=3
    )
    before = jax.lax.cummax(jnp.where(usable, jax.lax.broadcasted_iota(jnp.int32, (n, S + T), 1), -1), axis=1)
    at = jnp.maximum(before, 0)
    same = (before >= 0) & (jnp.take_along_axis(ids, at, axis=1) == ids)
    found = jnp.where(same, jnp.take_along_axis(positions, at, axis=1), -1)
    _, found = jax.lax.sort((index, found), dimension=1, num_keys=1)  # back in their order
    return (found[:, S:] >= first) & (found[:, S:] >= 0)


def distance_range(leaves: list[Mask]) -> tuple[float, float]:
    """The range of (key position - query position) that all causal masks and windows allow."""
    least, greatest = -np.inf, np.inf
    for leaf in leaves:
        match leaf:
            case Causal(offset):
                greatest = min(greatest, int(offset or 0))
            case Window(left, right, offset):
                least = least if left is None else max(least, int(offset or 0) - left)
                greatest = greatest if right is None else min(greatest, int(offset or 0) + right)
    return least, greatest


def key_ids_and_validity(
    mask: Mask | None, batch: tuple[int, ...], T: int, S: int
) -> tuple[Array, Array, Array]:  # int32 [examples, T], int32 [examples, S], bool [examples, S]
    """Segment ids of queries and keys, and which keys are valid."""

    def per_example(x: AnyArray, n: int) -> Array:
        return jnp.broadcast_to(x, (*batch, n)).reshape(-1, n)

    query_ids, key_ids = (per_example(jnp.zeros(n, np.int32), n) for n in (T, S))
    valid = jnp.ones(key_ids.shape, bool)
    for leaf in conjuncts(mask):
        match leaf:
            case Segments(queries, keys):
                query_ids = per_example(queries.astype(np.int32), T)
                key_ids = query_ids if keys is None else per_example(keys.astype(np.int32), S)
            case Padding(keys):
                valid = valid & per_example(keys, S)
            case Prefix(n):
                n = jnp.asarray(n, np.int32)[..., None]
                valid = valid & per_example(jnp.arange(S).reshape(*(1,) * (n.ndim - 1), S) < n, S)
    return query_ids, key_ids, valid
