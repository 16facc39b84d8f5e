"""Memory-efficient attention in tiles: no T x S table exists, forward or backward, on any platform.

A running maximum and a running sum per query make the softmax exact for any number of tiles (Milakov &
Gimelshein 2018; Rabe & Staats 2021), and the backward pass recomputes each tile from the logarithm of that
sum (Dao et al. 2022, "FlashAttention", algorithms 1 and 4). Masked tiles are skipped: at trace time where the
mask's structure is static, by a condition at run time where it depends on data.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends._tiling import Plan, put_tile, split_bias, take_tile, unmasked_tiles
from tfm_jax.ops.backends.capabilities import Capabilities, Shard
from tfm_jax.ops.backends.common import all_examples, mask_logits, zero_nonfinite
from tfm_jax.ops.masks.algebra import Mask
from tfm_jax.ops.masks.tiles import Grid, Span
from tfm_jax.ops.tracing import at_precision, current_precision, definitely, vary_with
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "Axis", "attention"]

CAPABILITIES = Capabilities(symbolic_lengths=False, forward_mode=False, sharded_dropout=True)

Axis = str | tuple[str, ...]
"""A mapped axis, or several as one, outermost first."""


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: Mask | None,
    bias: Array | Callable[[Array, Array], Array] | None,
    *,
    scale: float | Array,
    soft_cap: float | Array | None,
    dropout_rate: float,
    key: Key | None,
    tile: int = 256,
    axis: Axis | None = None,
    shard: Shard | None = None,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, for arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      v: [..., S, K, Hv].
      mask: a Mask that fits q and k, or None.
      bias: [..., 1|N, 1|T, 1|S]; or a function of int32 query indices [t] and key indices [s] that returns
        [..., 1|N, 1|t, 1|s]; or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.
      dropout_rate: in [0, 1).
      key: a PRNG key, or None for no dropout.
      tile: the largest side of a tile.
      axis: the mesh axis that queries and keys are sharded over, or None; see ``ring``.
      shard: the part of the full arrays that these are, for the dropout; None is all of them.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 in fully masked rows.

    Raises:
      ValueError: the bias is a function whose result does not follow its indices, or one that closes over
        traced arrays inside ``shard_map``.
      TypeError: from JAX, under ``jvp``, which is unsupported. ``reference`` and ``xla`` support it.
    """
    *batch, T, N, _ = q.shape
    S, K = k.shape[-3:-1]
    if definitely(lambda: q.size == 0 or k.size == 0):
        return jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    devices, index = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    grid = Grid(T, S, _tile_side(T, tile), _tile_side(S, tile))
    data: dict[str, object] = {"mask": mask, "key": key if dropout_rate else None, "queries_from": index * T}
    if shard is None:
        heads = jnp.arange(N, dtype=jnp.int32)
        lengths = (T * devices, S * devices)
        shard = Shard(all_examples(tuple(batch)), heads, index * T, N, lengths)
    if data["key"] is not None:
        data |= {"first_query": shard.first_query, "heads": shard.heads, "examples": shard.examples}
    if mask is not None:
        v, nonfinite_v = zero_nonfinite(v)
        data["nonfinite_v"] = grid.key_tiles(nonfinite_v)
    pairs, data["unmasked"] = unmasked_tiles(mask if axis is None else None, grid)
    numbers = {"scale": scale, "soft_cap": soft_cap}
    static = {name: x for name, x in numbers.items() if not isinstance(x, jax.Array)}
    traced: dict[str, object] = {name: x for name, x in numbers.items() if name not in static}
    join_bias, bias_tiles, bias_grid = None, None, (1, 1)
    if callable(bias):
        varying = any(jax.typeof(x).manual_axis_type.varying for x in (q, k, v))
        join_bias, traced["bias"], data["bias"] = split_bias(bias, grid, varying=varying)
    elif bias is not None:
        bias_tiles = grid.table_tiles(bias)
        down, across = bias_tiles.shape[:2]
        bias_grid, bias_tiles = (down, across), bias_tiles.reshape(-1, *bias_tiles.shape[2:])
    plan = Plan(
        grid=grid,
        batch=tuple(batch),
        N=N,
        K=K,
        lengths=(T * devices, S * devices),
        table=(shard.n_heads, shard.lengths[0]),
        pairs=pairs,
        bias_grid=bias_grid,
        static=static,
        join_bias=join_bias,
        dropout_rate=dropout_rate,
        axis=axis,
    )
    inputs = (grid.query_tiles(q, K), grid.key_tiles(k), grid.key_tiles(v), bias_tiles, traced)
    # Inside shard_map all inputs of the loop must vary over the same axes; JAX then sums the gradients.
    inputs = jax.tree.map(lambda x: vary_with(x, (inputs, data)), inputs)
    return grid.join_query_tiles(_attend(current_precision(), plan, *inputs, data), N)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
@at_precision
def _attend(
    plan: Plan,
    q: Array,  # [down, ..., K, G * t, H]
    k: Array,  # [across, ..., K, s, H]
    v: Array,  # [across, ..., K, s, Hv]
    bias: Array | None,  # [1|down * 1|across, ..., 1|N, 1|t, 1|s]
    traced: dict,  # other inputs with gradients
    data: dict,  # inputs without gradients
) -> Array:  # [down, ..., K, G * t, Hv]
    return _forward(current_precision(), plan, q, k, v, bias, traced, data)[0]


@at_precision
def _forward(
    plan: Plan, q: Array, k: Array, v: Array, bias: Array | None, traced: dict, data: dict
) -> tuple[Array, tuple]:
    dtype = np.promote_types(q.dtype, np.float32)

    def visit(k: Array, v: Array, state: tuple, data: dict, i: Array, j: Array) -> tuple:
        largest, total, out = state
        products = plan.split_rows(_product("...th,...sh->...ts", take_tile(q, i), k, dtype))
        bias_tile = take_tile(bias, plan.bias_index(i, j))
        logits = plan.adjust_logits(products, bias_tile, traced, data, i, j)
        logits = plan.join_rows(mask_logits(logits, *plan.evaluate_mask(products, data, i, j)))
        new_largest = jnp.maximum(largest, logits.max(-1))
        weights, decay = jnp.exp(logits - new_largest[..., None]), jnp.exp(largest - new_largest)
        total = decay * total + weights.sum(-1)
        weights = plan.dropout(weights, data, i, j).astype(v.dtype)
        return new_largest, total, decay[..., None] * out + _product("...ts,...sh->...th", weights, v, dtype)

    # Made from the inputs, so that it is sharded as they are.
    zero = vary_with(jnp.zeros_like(q[..., 0], dtype), (q, k, v, bias, traced, data))
    # The running maximum starts finite: -inf - (-inf) is NaN.
    state = (
        zero + jnp.finfo(dtype).min,
        zero,
        jnp.broadcast_to(zero[..., None], (*zero.shape, v.shape[-1])),
    )
    largest, total, out = _visit_all(plan, data, visit, (k, v), state, lambda i, j: (i, i, i))
    fully_masked = total == 0
    total = jnp.where(fully_masked, 1, total)
    out = (out / total[..., None]).astype(q.dtype)
    log_total = jnp.where(fully_masked, 0, largest + jnp.log(total))
    return out, (q, k, v, bias, traced, data, out, log_total)


@at_precision
def _backward(plan: Plan, residuals: tuple, d_out: Array) -> tuple:
    q, k, v, bias, traced, data, out, log_total = residuals
    dtype = log_total.dtype
    out_d_out = jnp.sum(out.astype(dtype) * d_out.astype(dtype), -1)

    def visit(k: Array, v: Array, state: tuple, data: dict, i: Array, j: Array) -> tuple:
        dk, dv, dq, *d_rest = state
        q_i, d_out_i = take_tile(q, i), take_tile(d_out, i)
        products = plan.split_rows(_product("...th,...sh->...ts", q_i, k, dtype))

        def adjust(products: Array, bias_tile: Array | None, traced: dict) -> Array:
            return plan.adjust_logits(products, bias_tile, traced, data, i, j)

        logits, adjust_vjp = jax.vjp(adjust, products, take_tile(bias, plan.bias_index(i, j)), traced)
        allowed, nonfinite = plan.evaluate_mask(products, data, i, j)

        def zero_masked(x: Array) -> Array:
            # Where a NaN makes a row NaN, its masked positions stay 0.
            x = plan.split_rows(x)
            return x if allowed is None else jnp.where(allowed, x, 0)

        logits = plan.join_rows(mask_logits(logits, allowed, nonfinite))
        weights = jnp.exp(logits - take_tile(log_total, i)[..., None])
        d_weights = plan.dropout(_product("...th,...sh->...ts", d_out_i, v, dtype), data, i, j)
        d_logits = weights * (d_weights - take_tile(out_d_out, i)[..., None])
        d_products, *changes = adjust_vjp(zero_masked(d_logits))
        d_products = plan.join_rows(d_products).astype(q.dtype)
        if allowed is not None:  # 0 * NaN is NaN
            q_i, k = zero_nonfinite(q_i)[0], zero_nonfinite(k)[0]
        weights = plan.join_rows(zero_masked(plan.dropout(weights, data, i, j))).astype(v.dtype)
        dq += _product("...ts,...sh->...th", d_products, k, dtype)
        dk += _product("...ts,...th->...sh", d_products, q_i, dtype)
        dv += _product("...ts,...th->...sh", weights, d_out_i, dtype)
        d_rest = jax.tree.map(lambda x, dx: x + dx.astype(x.dtype), tuple(d_rest), tuple(changes))
        return dk, dv, dq, *d_rest

    inputs = (q, k, v, bias, traced)

    def zeros(x: Array) -> Array:
        return vary_with(jnp.zeros_like(x, np.promote_types(x.dtype, dtype)), (inputs, data, d_out))

    dq, dk, dv, *d_rest = jax.tree.map(zeros, inputs)
    dk, dv, dq, *d_rest = _visit_all(
        plan,
        data,
        visit,
        (k, v),
        (dk, dv, dq, *d_rest),
        lambda i, j: (j, j, i, plan.bias_index(i, j), None),
        n_rotating=2,
    )
    gradients = (dq, dk, dv, *d_rest)
    return *jax.tree.map(lambda gradient, x: gradient.astype(x.dtype), gradients, inputs), None


_attend.defvjp(_forward, _backward)


def _visit_all(
    plan: Plan,
    data: dict,
    visit: Callable,
    keys_values: tuple,
    state: tuple,
    indices: Callable,
    *,
    n_rotating: int = 0,
) -> tuple:
    """Folds ``visit`` over the unmasked tiles; ``indices(i, j)`` are the parts of the state that it updates.

    With an axis, the keys, the values and the first ``n_rotating`` arrays of the state rotate around its
    devices until they are back (Liu et al. 2023, "Ring Attention").
    """
    if plan.axis is None:
        return _visit_tiles(plan, data | {"keys_from": 0}, visit, keys_values, state, indices)
    devices, index = jax.lax.axis_size(plan.axis), jax.lax.axis_index(plan.axis)
    to_next = [(i, (i + 1) % devices) for i in range(devices)]

    def turn(carry: tuple, steps: Array) -> tuple[tuple, None]:
        keys_values, nonfinite_v, state = carry
        first = (index - steps) % devices * plan.grid.S
        shard = data | {"keys_from": first, "nonfinite_v": nonfinite_v}
        if data["mask"] is not None:
            mask = data["mask"].block(Span(0, plan.grid.T), Span(first, plan.grid.S))
            shard["unmasked"] = unmasked_tiles(mask, plan.grid)[1]
        state = _visit_tiles(plan, shard, visit, keys_values, state, indices)
        rotating = (keys_values, nonfinite_v, state[:n_rotating])
        keys_values, nonfinite_v, rotated = jax.tree.map(
            lambda x: jax.lax.ppermute(x, plan.axis, to_next), rotating
        )
        return (keys_values, nonfinite_v, (*rotated, *state[n_rotating:])), None

    carry = (keys_values, data.get("nonfinite_v"), state)
    return jax.lax.scan(turn, carry, jnp.arange(devices))[0][-1]


def _visit_tiles(
    plan: Plan, data: dict, visit: Callable, keys_values: tuple, state: tuple, indices: Callable
) -> tuple:
    def step(state: tuple, tile: tuple) -> tuple[tuple, None]:
        (i, j), unmasked = tile

        def run(tiles: tuple) -> tuple:
            (k, v), i_of_k, j_of_k = jax.lax.optimization_barrier((take_tile(keys_values, j), i, j))
            return visit(k, v, tiles, data, i_of_k, j_of_k)

        tiles = tuple(map(take_tile, state, indices(i, j)))
        tiles = run(tiles) if unmasked is None else jax.lax.cond(unmasked, run, lambda tiles: tiles, tiles)
        return tuple(map(put_tile, state, tiles, indices(i, j))), None

    return jax.lax.scan(step, state, (tuple(plan.pairs.T), data["unmasked"]))[0]


def _product(letters: str, a: Array, b: Array, dtype: np.dtype) -> Array:
    return jnp.einsum(letters, a, b, preferred_element_type=dtype)


def _tile_side(n: int, largest: int) -> int:
    """The side that needs the fewest tiles and, among those, the least padding; a multiple of 8."""
    if n <= largest:
        return n
    tiles = _ceil_divide(n, largest)
    return min(largest, 8 * _ceil_divide(_ceil_divide(n, tiles), 8))


def _ceil_divide(n: int, size: int) -> int:
    return -(-n // size)
