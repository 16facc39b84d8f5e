"""Products of rows with the weights of their experts, for ``mixture_of_experts``: three ways of one result.

Each way gathers the rows of an expert next to each other, applies the expert, and gathers the results back.
An assignment is one of the k experts of a token; the expert E, one past the last, is none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.tracing import at_precision, current_precision, is_symbolic, vary_with
from tfm_jax.types import Array

__all__ = ["Dropout", "Weights", "buffered", "ragged", "tiled", "vary_with_all"]

Activation = Callable[[Array], Array]


class Weights(NamedTuple):
    """The weights of E experts; all have the same dtype."""

    w_in: Array  # [E, D, F]
    w_out: Array  # [E, F, D]
    w_gate: Array | None = None  # [E, D, F]


class Dropout(NamedTuple):
    """Dropout of the hidden elements of each assignment."""

    keep: Array  # bool [n, k, F]
    rate: float


def ragged(
    x: Array, experts: Array, weights: Weights, activation: Activation, dropout: Dropout | None
) -> Array:
    """The output [n, k, D] of each assignment, by ``jax.lax.ragged_dot`` over rows sorted by expert.

    On a TPU its products have the size of the groups. On a CPU and a GPU (JAX 0.10) it multiplies every row
    with every expert.

    Args:
      x: [n, D], a row for each token.
      experts: int32 [n, k] in 0 .. E; E is none, and gives 0.
      weights: of x's dtype.
      activation: an elementwise function.
      dropout: None for none.
    """
    (n, k), E = experts.shape, weights.w_in.shape[0]
    order, sizes = _sort(experts, E)
    source, slots = order, jnp.zeros(n * k, jnp.int32).at[order].set(_iota(n * k)).reshape(n, k)
    rows = _dispatch(x, source, slots)
    inside = (_iota(n * k) < sizes.sum(dtype=jnp.int32))[:, None]

    def product(rows: Array, w: Array) -> Array:
        # What is in rows of no group is undefined.
        # Under vmap, ragged_dot (JAX 0.10) wants all operands mapped, also the weights. XLA removes 0.
        w = _batch_axis_first(w + (0 * sizes[0]).astype(w.dtype))
        y = _batch_axis_first(jax.lax.ragged_dot(_batch_axis_first(rows), w, sizes))
        return jnp.where(inside, y, jnp.zeros_like(y))

    rows = jnp.where(inside, rows, jnp.zeros_like(rows))
    into = tuple(product(rows, w) for w in _input_weights(weights))
    hidden = _hidden(activation, into, _kept(dropout, source, slots), dropout)
    return _collect(product(hidden, weights.w_out), source, slots)


def tiled(
    x: Array, experts: Array, weights: Weights, activation: Activation, dropout: Dropout | None
) -> Array:
    """The output [n, k, D] of each assignment, one tile of rows of one expert at a time.

    The work is that of the assignments, plus at most one tile for each expert; tiles without rows are skipped
    at run time. Arguments as in ``ragged``.
    """
    (n, k), (E, D, F) = experts.shape, weights.w_in.shape
    size = _tile_size(n * k, E)
    full = min(n * k, E) if not is_symbolic(n * k) else E
    n_tiles = full + (n * k - full) // size if not is_symbolic(n * k) else E + n * k // size
    order, sizes = _sort(experts, E)
    n_tiles_of = (sizes + (size - 1)) // size
    ends = jnp.cumsum(n_tiles_of, dtype=jnp.int32)
    group_starts, tile_starts = jnp.cumsum(sizes, dtype=jnp.int32) - sizes, ends - n_tiles_of
    sorted_experts = experts.reshape(-1)[order]

    def of_group(values: Array) -> Array:
        return values.at[sorted_experts].get(mode="fill", fill_value=0)

    rank = _iota(n * k) - of_group(group_starts)
    n_rows = n_tiles * size
    slot = jnp.where(sorted_experts < E, of_group(tile_starts) * size + rank, n_rows)
    slots = jnp.zeros(n * k, jnp.int32).at[order].set(slot.astype(jnp.int32)).reshape(n, k)
    source = _sources(slots, n_rows)
    tile_experts = jnp.sum(_iota(n_tiles)[:, None] >= ends[None], axis=-1, dtype=jnp.int32)

    tiles = _dispatch(x, source, slots).reshape(n_tiles, size, D)
    keep = _kept(dropout, source, slots)
    keep = None if keep is None else keep.reshape(n_tiles, size, F)
    act = functools.partial(_hidden, activation, dropout=None if dropout is None else dropout.rate)
    out: Any = _apply_tiles(current_precision(), act, tiles, weights, keep, tile_experts)
    return _collect(out.reshape(n_rows, D), source, slots)


def buffered(
    x: Array,
    slots: Array,
    n_rows: int,
    weights: Weights,
    activation: Activation,
    dropout: Dropout | None,
) -> Array:
    """The output [n, k, D] of each assignment, by one batched product over a buffer of each expert.

    Args:
      x: [n, D].
      slots: int32 [n, k], the row of each assignment in the buffers of E experts, one after the other; past
        the last is none, and gives 0.
      n_rows: of the buffer of an expert.
      weights, activation, dropout: as in ``ragged``.
    """
    E, D, F = weights.w_in.shape
    source = _sources(slots, E * n_rows)
    rows = _dispatch(x, source, slots).reshape(E, n_rows, D)
    into = tuple(jnp.einsum("ECD,EDF->ECF", rows, w) for w in _input_weights(weights))
    keep = _kept(dropout, source, slots)
    keep = None if keep is None else keep.reshape(E, n_rows, F)
    hidden = _hidden(activation, into, keep, dropout)
    out = jnp.einsum("ECF,EFD->ECD", hidden, weights.w_out)
    return _collect(out.reshape(E * n_rows, D), source, slots)


def _batch_axis_first(x: Array) -> Array:
    """x. Under ``vmap``, ragged_dot (JAX 0.10) wants the mapped axis in front, where a reshape puts it."""
    return x.reshape(-1).reshape(x.shape)


def vary_with_all(tree, others):
    """``vary_with`` for each array of a tree."""
    return jax.tree.map(lambda x: vary_with(x, others), tree)


def _tile_size(n: int, E: int) -> int:
    """The rows of a tile: a power of 2, about half of what an expert gets on average."""
    if is_symbolic(n):
        return 128
    return int(min(512, max(8, 2 ** max(0, (n // (2 * E)).bit_length() - 1))))


def _iota(n: int) -> Array:
    return jnp.arange(n, dtype=jnp.int32)


def _sort(experts: Array, E: int) -> tuple[Array, Array]:
    """The assignments sorted by expert, in a stable order, and the number of each expert [E]."""
    flat = experts.reshape(-1)
    sizes = vary_with(jnp.zeros(E, jnp.int32), flat).at[flat].add(1, mode="drop")
    return jnp.argsort(flat, stable=True).astype(jnp.int32), sizes


def _sources(slots: Array, n_rows: int) -> Array:
    """The assignment in each row; past the last for a row without one."""
    n = slots.size
    empty = vary_with(jnp.full(n_rows, n, jnp.int32), slots)
    return empty.at[slots.reshape(-1)].set(_iota(n), mode="drop")


# Both gathers know their inverse, so that their gradients are gathers too: a scatter is slow, and its order
# of sums is not always the same.


@jax.custom_vjp
def _dispatch(x: Array, source: Array, slots: Array) -> Array:
    """Rows [n_rows, D]: x of the token of each assignment; 0 in rows without one."""
    return x.at[source // slots.shape[1]].get(mode="fill", fill_value=0)


def _dispatch_forward(x, source, slots):
    return _dispatch(x, source, slots), slots


def _dispatch_backward(slots, gradient):
    wide = gradient.at[slots].get(mode="fill", fill_value=0).astype(_wide(gradient))
    return wide.sum(1).astype(gradient.dtype), None, None


_dispatch.defvjp(_dispatch_forward, _dispatch_backward)


@jax.custom_vjp
def _collect(rows: Array, source: Array, slots: Array) -> Array:
    """The rows [n_rows, D] at the slots of the assignments: [n, k, D]; 0 for one without."""
    return rows.at[slots].get(mode="fill", fill_value=0)


def _collect_forward(rows, source, slots):
    return _collect(rows, source, slots), source


def _collect_backward(source, gradient):
    flat = gradient.reshape(-1, gradient.shape[-1])
    return flat.at[source].get(mode="fill", fill_value=0), None, None


_collect.defvjp(_collect_forward, _collect_backward)


def _wide(x: Array) -> np.dtype:
    return np.promote_types(x.dtype, np.float32)


def _input_weights(weights: Weights) -> tuple[Array, ...]:
    return (weights.w_in,) if weights.w_gate is None else (weights.w_gate, weights.w_in)


def _kept(dropout: Dropout | None, source: Array, slots: Array) -> Array | None:
    """Which hidden elements are kept, by row."""
    if dropout is None:
        return None
    keep = dropout.keep.reshape(slots.size, -1)
    return keep.at[source].get(mode="fill", fill_value=False)


def _hidden(
    activation: Activation, into: tuple[Array, ...], keep: Array | None, dropout: Dropout | float | None
) -> Array:
    """The hidden elements from the products with the input weights, ``(gate, in)`` or ``(in,)``."""
    hidden = activation(into[0]) * into[1] if len(into) == 2 else activation(into[0])
    if keep is None or dropout is None:
        return hidden
    rate = dropout.rate if isinstance(dropout, Dropout) else dropout
    scaled = hidden.astype(_wide(hidden)) / (1 - rate)
    return jnp.where(keep, scaled, 0).astype(hidden.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
@at_precision
def _apply_tiles(
    hidden: Callable[..., Array], tiles: Array, weights: Weights, keep: Array | None, tile_experts: Array
) -> Array:
    """Tiles [n_tiles, size, D] through the experts of each; tiles of the expert E, which is none, are 0.

    The gradient of the weights is a sum over tiles in float32, which the transpose of a scan would add up
    over arrays as large as all experts.
    """
    return _forward(hidden, tiles, weights, keep, tile_experts)[0]


def _forward(hidden, tiles, weights, keep, tile_experts):
    def run(tile, keep, weights):
        into = tuple(tile @ w for w in _input_weights(weights))
        return hidden(into, keep) @ weights.w_out, into

    return _scan_tiles(run, (tiles, keep), weights, tile_experts)


def _scan_tiles(run, tiled, weights, tile_experts):
    """``run(*tile, weights of its expert)`` for each tile; zeros for a tile of the expert E."""
    E = weights.w_in.shape[0]

    def step(_, tile_and_expert):
        tile, expert = tile_and_expert
        chosen = jax.tree.map(
            lambda w: jax.lax.dynamic_index_in_dim(w, jnp.minimum(expert, E - 1), keepdims=False), weights
        )
        shapes = jax.eval_shape(run, *tile, chosen)
        used = jax.tree.leaves((tile, chosen, expert))

        def skip(*_):
            return jax.tree.map(lambda x: vary_with(jnp.zeros(x.shape, x.dtype), used), shapes)

        return None, jax.lax.cond(expert < E, run, skip, *tile, chosen)

    return jax.lax.scan(step, None, (tiled, tile_experts))[1]


@at_precision
def _tiles_forward(hidden, tiles, weights, keep, tile_experts):
    out, into = _forward(hidden, tiles, weights, keep, tile_experts)
    return out, (tiles, into, weights, keep, tile_experts)


@at_precision
def _tiles_backward(hidden, kept, gradient):
    tiles, into, weights, keep, tile_experts = kept
    E = weights.w_in.shape[0]

    def step(total, tile):
        tile, into, keep, expert, gradient = tile
        at = jnp.minimum(expert, E - 1)
        chosen = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, at, keepdims=False), weights)
        used = jax.tree.leaves((tile, chosen, gradient, expert))

        def run(tile, into, gradient, chosen):
            y, back = jax.vjp(lambda into: hidden(into, keep), into)
            (into_gradients,) = back(gradient @ chosen.w_out.T)
            inputs = [jnp.matmul(tile.T, g, preferred_element_type=_wide(g)) for g in into_gradients]
            out = jnp.matmul(y.T, gradient, preferred_element_type=_wide(gradient))
            gate = None if chosen.w_gate is None else inputs[0]
            back_to = zip(into_gradients, _input_weights(chosen), strict=True)
            return sum(g @ w.T for g, w in back_to), Weights(inputs[-1], out, gate)

        shapes = jax.eval_shape(run, tile, into, gradient, chosen)

        def skip(*_):
            return jax.tree.map(lambda x: vary_with(jnp.zeros(x.shape, x.dtype), used), shapes)

        out, parts = jax.lax.cond(expert < E, run, skip, tile, into, gradient, chosen)

        def add(total, part):
            old = jax.lax.dynamic_index_in_dim(total, at, keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(total, old + part, at, 0)

        return jax.tree.map(add, total, parts), out

    zeros = jax.tree.map(lambda w: jnp.zeros_like(w, _wide(w)), weights)
    zeros = vary_with_all(zeros, (kept, gradient))
    total, out = jax.lax.scan(step, zeros, (tiles, into, keep, tile_experts, gradient))
    return out, jax.tree.map(lambda total, w: total.astype(w.dtype), total, weights), None, None


_apply_tiles.defvjp(_tiles_forward, _tiles_backward)
