"""What every implementation of attention that writes its own softmax shares: one meaning of the arguments."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tfm_jax.types import Array

__all__ = [
    "Bias",
    "adjust",
    "exponentials",
    "heads_first",
    "hide",
    "hide_nonfinite",
    "keys_last",
    "mend_rows",
    "shut",
    "softmax",
    "split_heads",
    "whole_bias",
]

Bias = Array | Callable[[Array, Array], Array]
"""A table [..., 1|N, 1|T, 1|S], or what gives one of int32 indices of queries and of keys."""


def hide_nonfinite(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
) -> tuple[Array, Array, Array, Array, Array]:  # the same three, bool [..., T, N, 1], bool [..., S, K, 1]
    """nan and inf replaced by 0, and which queries and keys held one.

    A closed key has a weight of 0, and 0 * nan is nan: so what is multiplied must be finite, and ``shut``
    brings nan back where the mask opens it.
    """
    (q, bad_q), (k, bad_k), (v, bad_v) = map(hide, (q, k, v))
    return q, k, v, bad_q, bad_k | bad_v


def hide(x: Array) -> tuple[Array, Array]:  # [..., H] -> [..., H], bool [..., 1]
    """One array with nan and inf replaced by 0, and whether there was one."""
    finite = jnp.isfinite(x)
    return jnp.where(finite, x, 0), ~finite.all(-1, keepdims=True)


def adjust(
    logits: Array, *, scale: float | Array, soft_cap: float | Array | None, bias: Array | None
) -> Array:
    """Products of queries and keys as logits: scaled, capped, biased, in their own dtype."""
    logits = logits * jnp.asarray(scale, logits.dtype)
    if soft_cap is not None:
        cap = jnp.asarray(soft_cap, logits.dtype)
        logits = cap * jnp.tanh(logits / cap)
    return logits if bias is None else logits + bias.astype(logits.dtype)


def whole_bias(bias: Bias | None, batch_rank: int, T: int, S: int) -> Array | None:
    """A bias that is a function as its table [..., 1|N, 1|T, 1|S]."""
    if not callable(bias):
        return bias
    table = bias(jnp.arange(T, dtype=jnp.int32), jnp.arange(S, dtype=jnp.int32))
    return table.reshape((1,) * (batch_rank + 3 - table.ndim) + table.shape)


# Compiled: as an array by itself, the nan would stop every run under jax_debug_nans.
@functools.partial(jax.jit, inline=True)
def shut(logits: Array, allowed: Array | None, bad: Array | None) -> Array:
    """-inf where the mask closes, nan where it opens what is not finite; the logits elsewhere."""
    if bad is not None:
        logits = jnp.where(bad, jnp.nan, logits)
    return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)


def exponentials(x: Array) -> tuple[Array, Array]:  # [..., T, S] -> [..., T, S], [..., T, 1]
    """e to the logits less their largest, and their sums over the last axis: 1 of a row of -inf alone."""
    # The largest is finite even if the row is not: -inf - (-inf) would be nan.
    exp = jnp.exp(x - jnp.max(x, -1, keepdims=True, initial=jnp.finfo(x.dtype).min))
    # The sum of any other row is 1 at least. By `where` it would be used twice: XLA's CPU sums twice then.
    return exp, jnp.maximum(exp.sum(-1, keepdims=True), 1)


@jax.custom_jvp
def softmax(x: Array) -> Array:
    """Softmax over the last axis, where -inf is masked: 0, also in a row of nan or of -inf alone."""
    exp, total = exponentials(x)
    return jnp.where(jnp.isneginf(x), 0, exp / total)


@softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # From the weights alone, so that the backward pass keeps one [T, S] table a head and meets no infinity.
    weights, (tangent,) = softmax(*primals), tangents
    change = weights * tangent
    # A sum that is nan reaches none of the closed.
    return weights, jnp.where(weights == 0, 0, change - weights * change.sum(-1, keepdims=True))


def heads_first(x: Array) -> Array:
    """[..., T, N, H] as [..., N, T, H], or back."""
    return jnp.swapaxes(x, -3, -2)


def split_heads(table: Array, K: int) -> Array:
    """[..., 1|N, t, s] as [..., 1|K, 1|G, t, s]."""
    *batch, N, t, s = table.shape
    return table.reshape(*batch, *((1, 1) if N == 1 else (K, N // K)), t, s)


@functools.partial(jax.jit, inline=True)
def mend_rows(
    out: Array,  # [..., T, N, Hv]
    allowed: Array,  # bool [..., 1|N, T, S]
    bad_q: Array,  # bool [..., T, N, 1]
    bad_k: Array,  # bool [..., S, K, 1]
) -> Array:
    """What another library's attention gives, as ours: 0 in an empty row, nan where a row reads nan or inf.

    XLA makes one pass of booleans of it: no table of T x S is kept.
    """
    read = lambda which: jnp.swapaxes(jnp.any(which, -1), -1, -2)[..., None]  # [..., T, 1|N, 1]
    some = read(allowed)
    nonfinite = (bad_q & some) | read(allowed & keys_last(bad_k, out.shape[-2]))
    return jnp.where(nonfinite, jnp.nan, jnp.where(some, out, 0))


def keys_last(x: Array, N: int) -> Array:
    """[..., S, K, 1] as [..., N, 1, S]: each key/value head once for every query head that it serves."""
    *batch, S, K, _ = x.shape
    x = jnp.broadcast_to(heads_first(x), (*batch, K, S, N // K))
    return jnp.swapaxes(x, -2, -1).reshape(*batch, N, S)[..., None, :]
