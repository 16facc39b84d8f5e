"""Attention tile by tile: no table of T x S is ever built, forward or backward, on any platform.

The table of logits is cut into tiles. A running maximum and a running sum per query make the softmax exact
however many tiles there are (Milakov & Gimelshein 2018; Rabe & Staats 2021), and the backward pass computes
each tile again from the log of that sum (Dao et al. 2022, "FlashAttention", algorithms 1 and 4). Tiles that
the mask closes are left out: without a trace of them where its structure is known to the compiler, by a
condition at run time where it depends on data.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops import masks
from tfm_jax.ops.backends.common import hide, shut
from tfm_jax.ops.backends.tiling import Plan, bias_parts, open_tiles, part_of, put_part
from tfm_jax.ops.masks.tiles import Grid, Span
from tfm_jax.ops.tracing import definitely, vary_with
from tfm_jax.types import Array, Key

__all__ = ["attention"]


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | None,
    bias: Array | Callable[[Array, Array], Array] | None,
    *,
    scale: float | Array,
    soft_cap: float | Array | None,
    dropout_rate: float,
    key: Key | None,
    tile: int = 256,
    axis: str | None = None,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, of arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      v: [..., S, K, Hv].
      mask: a Mask, or None for everything.
      bias: [..., 1|N, 1|T, 1|S]; or a function of int32 indices [t] of queries and [s] of keys that gives
        [..., 1|N, 1|t, 1|s]; or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.
      dropout_rate: in [0, 1).
      key: a PRNG key, or None for no dropout.
      tile: side of a tile, at most.
      axis: of devices, which queries and keys are spread over: see ``ring``.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 where a query may attend to nothing.

    Raises:
      ValueError: the bias is a function that does not look at its indices, or one that closes over traced
        arrays inside ``shard_map``.
      TypeError: from JAX, under ``jvp``: there is a backward pass alone. ``reference`` and ``xla`` have both.
    """
    *batch, T, N, _ = q.shape
    S, K = k.shape[-3:-1]
    devices, here = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    if definitely(lambda: q.size == 0 or k.size == 0):
        return jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    grid = Grid(T, S, _side(T, tile), _side(S, tile))
    data: dict[str, Any] = {"mask": mask, "key": key if dropout_rate else None, "queries_from": here * T}
    if mask is not None:
        v, bad = hide(v)
        data["bad_values"] = grid.key_tiles(bad)
    pairs, data["some"] = open_tiles(mask if axis is None else None, grid)
    numbers = {"scale": scale, "soft_cap": soft_cap}
    known = {name: x for name, x in numbers.items() if not isinstance(x, jax.Array)}
    given: dict[str, Any] = {name: x for name, x in numbers.items() if name not in known}
    bias_of, table, table_shape = None, None, (1, 1)
    if callable(bias):
        varying = any(jax.typeof(x).manual_axis_type.varying for x in (q, k, v))
        bias_of, given["bias"], data["bias"] = bias_parts(bias, grid, varying=varying)
    elif bias is not None:
        table = grid.table_tiles(bias)
        table_shape, table = table.shape[:2], table.reshape(-1, *table.shape[2:])
    plan = Plan(
        grid=grid,
        batch=tuple(batch),
        N=N,
        K=K,
        whole=(T * devices, S * devices),
        pairs=pairs,
        table_shape=table_shape,
        known=known,
        bias_of=bias_of,
        dropout_rate=dropout_rate,
        axis=axis,
    )
    inputs = (grid.query_tiles(q, K), grid.key_tiles(k), grid.key_tiles(v), table, given)
    # Inside shard_map all that meets in the loop differs on the same devices, and JAX adds up the gradients.
    inputs = jax.tree.map(lambda x: vary_with(x, (inputs, data)), inputs)
    return grid.join_query_tiles(_attend(plan, *inputs, data), N)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: Plan,
    q: Array,  # [down, ..., K, G * t, H]
    k: Array,  # [across, ..., K, s, H]
    v: Array,  # [across, ..., K, s, Hv]
    table: Array | None,  # [1|down * 1|across, ..., 1|N, 1|t, 1|s], a bias
    given: dict[str, Any],  # what else has gradients
    data: dict[str, Any],  # what has none
) -> Array:  # [down, ..., K, G * t, Hv]
    return _forward(plan, q, k, v, table, given, data)[0]


def _forward(
    plan: Plan, q: Array, k: Array, v: Array, table: Array | None, given: dict, data: dict
) -> tuple[Array, tuple]:
    dtype = np.promote_types(q.dtype, np.float32)

    def visit(k: Array, v: Array, state: tuple, data: dict, i: Array, j: Array) -> tuple:
        largest, total, out = state
        raw = plan.split_rows(_product("...th,...sh->...ts", part_of(q, i), k, dtype))
        logits = plan.adjust(raw, part_of(table, plan.place(i, j)), given, data, i, j)
        logits = plan.join_rows(shut(logits, *plan.open(raw, data, i, j)))
        new = jnp.maximum(largest, logits.max(-1))
        weights, fade = jnp.exp(logits - new[..., None]), jnp.exp(largest - new)
        total = fade * total + weights.sum(-1)
        weights = plan.drop(weights, data, i, j).astype(v.dtype)
        return new, total, fade[..., None] * out + _product("...ts,...sh->...th", weights, v, dtype)

    # Made of the inputs, so that it is spread over devices as they are.
    zero = vary_with(jnp.zeros_like(q[..., 0], dtype), (q, k, v, table, given, data))
    # The largest logit so far is finite even if none is: -inf - (-inf) would be nan.
    state = (
        zero + jnp.finfo(dtype).min,
        zero,
        jnp.broadcast_to(zero[..., None], (*zero.shape, v.shape[-1])),
    )
    largest, total, out = _visit_all(plan, data, visit, (k, v), state, lambda i, j: (i, i, i))
    empty = total == 0
    total = jnp.where(empty, 1, total)
    out = (out / total[..., None]).astype(q.dtype)
    return out, (q, k, v, table, given, data, out, jnp.where(empty, 0, largest + jnp.log(total)))


def _backward(plan: Plan, saved: tuple, d_out: Array) -> tuple:
    q, k, v, table, given, data, out, log_total = saved
    dtype = log_total.dtype
    shared = jnp.sum(out.astype(dtype) * d_out.astype(dtype), -1)

    def visit(k: Array, v: Array, state: tuple, data: dict, i: Array, j: Array) -> tuple:
        dk, dv, dq, *d_rest = state
        q_i, d_out_i = part_of(q, i), part_of(d_out, i)
        raw = plan.split_rows(_product("...th,...sh->...ts", q_i, k, dtype))
        adjust = lambda raw, table, given: plan.adjust(raw, table, given, data, i, j)
        logits, back = jax.vjp(adjust, raw, part_of(table, plan.place(i, j)), given)
        allowed, bad = plan.open(raw, data, i, j)
        # Closed again: where a nan makes a row nan, what the mask closes is still 0.
        close = lambda x: x if allowed is None else jnp.where(allowed, x, 0)
        weights = jnp.exp(plan.join_rows(shut(logits, allowed, bad)) - part_of(log_total, i)[..., None])
        d_weights = plan.drop(_product("...th,...sh->...ts", d_out_i, v, dtype), data, i, j)
        d_logits = weights * (d_weights - part_of(shared, i)[..., None])
        d_raw, *changes = back(close(plan.split_rows(d_logits)))
        d_raw = plan.join_rows(d_raw).astype(q.dtype)
        if allowed is not None:  # 0 * nan is nan
            q_i, k = hide(q_i)[0], hide(k)[0]
        weights = plan.join_rows(close(plan.split_rows(plan.drop(weights, data, i, j)))).astype(v.dtype)
        dq += _product("...ts,...sh->...th", d_raw, k, dtype)
        dk += _product("...ts,...th->...sh", d_raw, q_i, dtype)
        dv += _product("...ts,...th->...sh", weights, d_out_i, dtype)
        add = lambda total, change: total + change.astype(total.dtype)
        return dk, dv, dq, *jax.tree.map(add, tuple(d_rest), tuple(changes))

    inputs = (q, k, v, table, given)
    zeros = lambda x: vary_with(jnp.zeros_like(x, np.promote_types(x.dtype, dtype)), (inputs, data, d_out))
    dq, dk, dv, *d_rest = jax.tree.map(zeros, inputs)
    places = lambda i, j: (j, j, i, plan.place(i, j), None)
    dk, dv, dq, *d_rest = _visit_all(plan, data, visit, (k, v), (dk, dv, dq, *d_rest), places, of_keys=2)
    gradients = (dq, dk, dv, *d_rest)
    return *jax.tree.map(lambda gradient, x: gradient.astype(x.dtype), gradients, inputs), None


_attend.defvjp(_forward, _backward)


def _visit_all(
    plan: Plan, data: dict, visit: Callable, keys: tuple, state: tuple, places: Callable, of_keys: int = 0
) -> tuple:
    """Visits the open tiles one after the other, each with its own parts of the state.

    With an axis, the keys and the first ``of_keys`` arrays of the state go around its devices, until they are
    home again (Liu et al. 2023, "Ring Attention").
    """
    if plan.axis is None:
        return _visit_tiles(plan, data | {"keys_from": 0}, visit, keys, state, places)
    devices, here = jax.lax.axis_size(plan.axis), jax.lax.axis_index(plan.axis)
    to_next = [(i, (i + 1) % devices) for i in range(devices)]

    def turn(carry: tuple, steps: Array) -> tuple[tuple, None]:
        keys, bad_values, state = carry
        first = (here - steps) % devices * plan.grid.S
        part = data | {"keys_from": first, "bad_values": bad_values}
        if data["mask"] is not None:
            mask = data["mask"].block(Span(0, plan.grid.T), Span(first, plan.grid.S))
            part["some"] = open_tiles(mask, plan.grid)[1]
        state = _visit_tiles(plan, part, visit, keys, state, places)
        moving = (keys, bad_values, state[:of_keys])
        keys, bad_values, moved = jax.tree.map(lambda x: jax.lax.ppermute(x, plan.axis, to_next), moving)
        return (keys, bad_values, (*moved, *state[of_keys:])), None

    return jax.lax.scan(turn, (keys, data.get("bad_values"), state), jnp.arange(devices))[0][-1]


def _visit_tiles(
    plan: Plan, data: dict, visit: Callable, keys: tuple, state: tuple, places: Callable
) -> tuple:
    def step(state: tuple, tile: tuple) -> tuple[tuple, None]:
        (i, j), some = tile
        run = lambda parts: visit(*part_of(keys, j), parts, data, i, j)
        parts = tuple(map(part_of, state, places(i, j)))
        parts = run(parts) if some is None else jax.lax.cond(some, run, lambda parts: parts, parts)
        return tuple(map(put_part, state, parts, places(i, j))), None

    return jax.lax.scan(step, state, (tuple(plan.pairs.T), data["some"]))[0]


def _product(letters: str, a: Array, b: Array, dtype: np.dtype) -> Array:
    return jnp.einsum(letters, a, b, preferred_element_type=dtype)


def _side(n: int, tile: int) -> int:
    """Of tiles of one size, as few as possible, those that reach least beyond the end; a multiple of 8."""
    ceil = lambda n, size: -(-n // size)
    return n if n <= tile else min(tile, 8 * ceil(ceil(n, ceil(n, tile)), 8))
