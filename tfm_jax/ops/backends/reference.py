"""Attention in plain einsums: the implementation that honours everything, and the oracle of all others.

Logits, softmax and both sums are in float32 (float64 for float64 inputs). How many bits of float32 inputs
the two einsums multiply, jax.default_matmul_precision decides: its default on GPUs and TPUs may be TF32 or
passes in bfloat16; "highest" is float32 throughout. K key/value heads serve N = K * G query heads through a
group axis G; keys are never repeated.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops import masks
from tfm_jax.ops.backends.common import (
    Bias,
    adjust,
    exponentials,
    heads_first,
    hide_nonfinite,
    keys_last,
    shut,
    softmax,
    whole_bias,
)
from tfm_jax.ops.dropout import drop_at
from tfm_jax.types import Array, Key

__all__ = ["attention", "attention_weights", "compare", "mix"]


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | None,
    bias: Bias | None,  # [..., 1|N, 1|T, 1|S]
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
      bias: [..., 1|N, 1|T, 1|S], where a size of [...] may also be 1; or a function of int32 indices of
        queries [T] and of keys [S] that gives one; or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.
      dropout_rate: in [0, 1).
      key: a PRNG key, or None for no dropout.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    logits, v = _logits_and_values(q, k, v, mask, bias, scale, soft_cap)
    if key is None or not dropout_rate:
        return _average(logits, v).astype(q.dtype)
    *batch, N, T, S = logits.shape
    rows = jnp.arange(math.prod((*batch, N, T)), dtype=np.uint32).reshape(*batch, N, T)
    weights = drop_at(softmax(logits), rows, jnp.arange(S), dropout_rate, key)
    return mix(weights.astype(v.dtype), v, weights.dtype).astype(q.dtype)


def attention_weights(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    mask: masks.Mask | None,
    bias: Bias | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: float | None,
) -> Array:  # [..., N, T, S]
    """The weights as ``tfm_jax.ops.attention_weights`` defines them, of arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      mask: a Mask, or None for everything.
      bias: [..., 1|N, 1|T, 1|S], where a size of [...] may also be 1; or a function of int32 indices of
        queries [T] and of keys [S] that gives one; or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.

    Returns:
      [..., N, T, S] of q's dtype; a row of 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    return softmax(_logits_and_values(q, k, k, mask, bias, scale, soft_cap)[0]).astype(q.dtype)


def _logits_and_values(
    q: Array,
    k: Array,
    v: Array,
    mask: masks.Mask | None,
    bias: Bias | None,
    scale: float | Array,
    soft_cap: float | None,
) -> tuple[Array, Array]:  # [..., N, T, S]; v, finite where there is a mask
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    allowed = bad = None
    if mask is not None:
        allowed = masks.to_heads(mask, tuple(batch), N, T, S)
        q, k, v, bad_q, bad_k = hide_nonfinite(q, k, v)
        bad = heads_first(bad_q) | keys_last(bad_k, N)
    dtype = np.promote_types(q.dtype, np.float32)
    bias = whole_bias(bias, len(batch), T, S)
    logits = adjust(compare(q, k, dtype), scale=scale, soft_cap=soft_cap, bias=bias)
    return shut(logits, allowed, bad), v


def compare(q: Array, k: Array, dtype: np.dtype) -> Array:
    """The inner products [..., N, T, S] of queries [..., T, N, H] with keys [..., S, K, H]."""
    # Turned round here, and not by XLA's CPU, which takes a pass of its own for it.
    q, k = heads_first(q), heads_first(k)
    *batch, N, T, H = q.shape
    K, S = k.shape[-3:-1]
    if N == K:  # with G as an axis of length 1, the CPU's gradient takes twice the memory
        return jnp.einsum("...NTH,...NSH->...NTS", q, k, preferred_element_type=dtype)
    q = q.reshape(*batch, K, N // K, T, H)
    logits = jnp.einsum("...KGTH,...KSH->...KGTS", q, k, preferred_element_type=dtype)
    return logits.reshape(*batch, N, T, S)


def mix(weights: Array, v: Array, dtype: np.dtype) -> Array:
    """The sums [..., T, N, Hv] of values [..., S, K, Hv] with weights [..., N, T, S]."""
    v = heads_first(v)
    *batch, N, T, S = weights.shape
    K, _, H = v.shape[-3:]
    if N == K:
        return heads_first(jnp.einsum("...NTS,...NSH->...NTH", weights, v, preferred_element_type=dtype))
    weights = weights.reshape(*batch, K, N // K, T, S)
    out = jnp.einsum("...KGTS,...KSH->...KGTH", weights, v, preferred_element_type=dtype)
    return heads_first(out.reshape(*batch, N, T, H))


@jax.custom_jvp
def _average(logits: Array, v: Array) -> Array:
    """``_weighted``, its T x Hv sums divided in place of its T x S weights."""
    # So S values must not add up to inf, as in every attention that takes a block of keys at a time.
    exp, total = exponentials(logits)
    return mix(exp.astype(v.dtype), v, logits.dtype) / heads_first(total)


def _weighted(logits: Array, v: Array) -> Array:
    """The mean [..., T, N, Hv] of the values, weighted by the softmax of the logits [..., N, T, S]."""
    return mix(softmax(logits).astype(v.dtype), v, logits.dtype)


@_average.defjvp
def _average_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # The backward pass keeps the weights, and not the logits.
    return jax.jvp(_weighted, primals, tangents)
