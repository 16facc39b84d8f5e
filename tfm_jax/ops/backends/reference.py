"""Attention in plain einsums: the implementation that honours everything, and the oracle of all others.

Logits, softmax and both sums are in float32 (float64 for float64 inputs). How many bits of float32 inputs
the two einsums multiply, jax.default_matmul_precision decides: its default on GPUs and TPUs may be TF32 or
passes in bfloat16; "highest" is float32 throughout. K key/value heads serve N = K * G query heads through a
group axis G; keys are never repeated.

What a query may not attend to has weights of exactly 0. Since 0 * nan is nan, rows that the mask closes to
all are also set to 0 before the einsums: keys and values at positions that no query of their heads may attend
to, queries that may attend to nothing. So nan and inf there reach neither the output nor a gradient. A nan at
a key that the mask opens to some query reaches the other queries of that head too, and so does one that only
a bias of -inf hides: the bias is not searched for closed rows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops import masks
from tfm_jax.ops.dropout import dropout
from tfm_jax.types import Array, Key

__all__ = ["attention", "attention_weights"]


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | None,
    bias: Array | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: float | None,
    dropout_rate: float,
    key: Key | None,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, of arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      v: [..., S, K, Hv].
      mask: a Mask, or None for everything.
      bias: [..., 1|N, 1|T, 1|S], where a size of [...] may also be 1, or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.
      dropout_rate: in [0, 1).
      key: a PRNG key, or None for no dropout.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    allowed = _to_heads(mask, q, k)
    weights = dropout(_weights(q, k, allowed, bias, scale, soft_cap), dropout_rate, key)
    if allowed is not None:
        v = jnp.where(_read_keys(allowed, v.shape[-2]), v, 0)
    return _mix(weights.astype(v.dtype), v, weights.dtype).astype(q.dtype)


def attention_weights(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    mask: masks.Mask | None,
    bias: Array | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: float | None,
) -> Array:  # [..., N, T, S]
    """The weights as ``tfm_jax.ops.attention_weights`` defines them, of arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      mask: a Mask, or None for everything.
      bias: [..., 1|N, 1|T, 1|S], where a size of [...] may also be 1, or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.

    Returns:
      [..., N, T, S] of q's dtype; a row of 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    return _weights(q, k, _to_heads(mask, q, k), bias, scale, soft_cap).astype(q.dtype)


def _to_heads(mask: masks.Mask | None, q: Array, k: Array) -> Array | None:  # [..., 1|N, T, S]
    *batch, T, N, _ = q.shape
    return None if mask is None else masks.to_heads(mask, tuple(batch), N, T, k.shape[-3])


def _weights(
    q: Array,
    k: Array,
    allowed: Array | None,
    bias: Array | None,
    scale: float | Array,
    soft_cap: float | None,
) -> Array:  # -> [..., N, T, S]
    dtype = np.promote_types(q.dtype, np.float32)
    if allowed is not None:
        q = jnp.where(jnp.swapaxes(allowed.any(-1), -1, -2)[..., None], q, 0)
        k = jnp.where(_read_keys(allowed, k.shape[-2]), k, 0)
    logits = _compare(q, k, dtype) * jnp.asarray(scale, dtype)
    if soft_cap is not None:
        cap = jnp.asarray(soft_cap, dtype)
        logits = cap * jnp.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias.astype(dtype)
    if allowed is not None:
        logits = jnp.where(allowed, logits, -jnp.inf)
    return _softmax(logits)


def _read_keys(allowed: Array, K: int) -> Array:  # [..., 1|N, T, S] -> [..., S, 1|K, 1]
    """Whether any query of any head that a key/value head serves may attend to the key."""
    read = allowed.any(-2)
    *batch, N, S = read.shape
    if N > 1:
        read = read.reshape(*batch, K, N // K, S).any(-2)
    return jnp.swapaxes(read, -1, -2)[..., None]


def _compare(q: Array, k: Array, dtype: np.dtype) -> Array:  # -> [..., N, T, S]
    *batch, T, N, H = q.shape
    S, K = k.shape[-3:-1]
    if N == K:  # with G as an axis of length 1, the CPU's gradient takes twice the memory
        return jnp.einsum("...TNH,...SNH->...NTS", q, k, preferred_element_type=dtype)
    q = q.reshape(*batch, T, K, N // K, H)
    logits = jnp.einsum("...TKGH,...SKH->...KGTS", q, k, preferred_element_type=dtype)
    return logits.reshape(*batch, N, T, S)


def _mix(weights: Array, v: Array, dtype: np.dtype) -> Array:  # -> [..., T, N, Hv]
    *batch, N, T, S = weights.shape
    K, H = v.shape[-2:]
    if N == K:
        return jnp.einsum("...NTS,...SNH->...TNH", weights, v, preferred_element_type=dtype)
    weights = weights.reshape(*batch, K, N // K, T, S)
    out = jnp.einsum("...KGTS,...SKH->...TKGH", weights, v, preferred_element_type=dtype)
    return out.reshape(*batch, T, N, H)


@jax.custom_jvp
def _softmax(x: Array) -> Array:
    """Softmax over the last axis, where -inf is masked and a row of -inf alone gives zeros."""
    # The largest is finite even if the row is not: -inf - (-inf) would be nan.
    largest = jnp.max(x, -1, keepdims=True, initial=jnp.finfo(x.dtype).min)
    exp = jnp.exp(x - largest)
    total = exp.sum(-1, keepdims=True)
    return exp / jnp.where(total == 0, 1, total)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # From the weights alone, so that the backward pass keeps one [T, S] table a head and meets no infinity.
    weights, (tangent,) = _softmax(*primals), tangents
    change = weights * tangent
    return weights, change - weights * change.sum(-1, keepdims=True)
