"""Attention in plain einsums: supports everything, and is the test oracle of the other backends.

Logits, softmax and both sums are in float32 (float64 for float64 inputs). ``jax.default_matmul_precision``
sets the precision of the two einsums for float32 inputs: on GPUs and TPUs the default may be TF32 or bfloat16
passes; "highest" is float32 throughout. K key/value heads serve N = K * G query heads through a group axis G;
keys are never repeated.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends.capabilities import Capabilities, Shard
from tfm_jax.ops.backends.common import (
    Bias,
    adjust_logits,
    bias_array,
    evaluate_mask,
    heads_first,
    keys_last,
    mask_logits,
    row_heads,
    shifted_exp,
    softmax,
    zero_nonfinite_qkv,
)
from tfm_jax.ops.dropout import drop_at
from tfm_jax.ops.masks.algebra import Mask
from tfm_jax.ops.tracing import at_precision, current_precision
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention", "attention_weights", "key_products", "value_sums"]

CAPABILITIES = Capabilities(sharded_dropout=True)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: Mask | None,
    bias: Bias | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: float | Array | None,
    dropout_rate: float,
    key: Key | None,
    shard: Shard | None = None,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, for arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      v: [..., S, K, Hv].
      mask: a Mask that fits q and k, or None.
      bias: [..., 1|N, 1|T, 1|S], where a size of [...] may also be 1; or a function of int32 query
        indices [T] and key indices [S] that returns one; or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.
      dropout_rate: in [0, 1).
      key: a PRNG key, or None for no dropout.
      shard: the part of the full arrays that these are, for the dropout; None is all of them.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 in fully masked rows.
    """
    logits, v = _logits_and_values(q, k, v, mask, bias, scale=scale, soft_cap=soft_cap)
    if key is None or not dropout_rate:
        return _softmax_average(current_precision(), logits, v).astype(q.dtype)
    *batch, N, T, S = logits.shape
    if shard is None:
        rows = jnp.arange(math.prod((*batch, N, T)), dtype=np.uint32).reshape(*batch, N, T)
    else:
        heads = row_heads(shard.examples, shard.heads, shard.n_heads, (N, 1))
        queries = shard.first_query + jnp.arange(T, dtype=jnp.int32)
        queries = queries.reshape((1,) * (heads.ndim - 1) + (T,))
        rows = (heads * shard.lengths[0] + queries).astype(np.uint32)
    weights = drop_at(softmax(logits), rows, jnp.arange(S), dropout_rate, key)
    return value_sums(weights.astype(v.dtype), v, weights.dtype).astype(q.dtype)


def attention_weights(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    mask: Mask | None,
    bias: Bias | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: float | Array | None,
) -> Array:  # [..., N, T, S]
    """The weights as ``tfm_jax.ops.attention_weights`` defines them, for arguments that it has checked.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].
      mask: a Mask that fits q and k, or None.
      bias: [..., 1|N, 1|T, 1|S], where a size of [...] may also be 1; or a function of int32 query
        indices [T] and key indices [S] that returns one; or None.
      scale: a scalar, never None.
      soft_cap: a scalar, or None.

    Returns:
      [..., N, T, S] of q's dtype; 0 in fully masked rows.
    """
    logits, _ = _logits_and_values(q, k, k, mask, bias, scale=scale, soft_cap=soft_cap)
    return softmax(logits).astype(q.dtype)


def _logits_and_values(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask | None,
    bias: Bias | None,
    *,
    scale: float | Array,
    soft_cap: float | Array | None,
) -> tuple[Array, Array]:  # [..., N, T, S]; v, made finite where there is a mask
    allowed, nonfinite = evaluate_mask(mask, q, k), None
    if mask is not None:
        q, k, v, nonfinite_q, nonfinite_k = zero_nonfinite_qkv(q, k, v)
        nonfinite = heads_first(nonfinite_q) | keys_last(nonfinite_k, q.shape[-2])
    bias = bias_array(bias, q, k)
    products = key_products(q, k, np.promote_types(q.dtype, np.float32))
    logits = adjust_logits(products, scale=scale, soft_cap=soft_cap, bias=bias)
    return mask_logits(logits, allowed, nonfinite), v


def key_products(q: Array, k: Array, dtype: np.dtype) -> Array:
    """The inner products [..., N, T, S] of queries [..., T, N, H] with keys [..., S, K, H]."""
    # Transposed here: XLA's CPU compiler would use an extra pass for it.
    q, k = heads_first(q), heads_first(k)
    *batch, N, T, H = q.shape
    K, S = k.shape[-3:-1]
    if N == K:  # with an axis G of length 1, the gradient takes twice the memory on CPU
        return jnp.einsum("...NTH,...NSH->...NTS", q, k, preferred_element_type=dtype)
    q = q.reshape(*batch, K, N // K, T, H)
    logits = jnp.einsum("...KGTH,...KSH->...KGTS", q, k, preferred_element_type=dtype)
    return logits.reshape(*batch, N, T, S)


def value_sums(weights: Array, v: Array, dtype: np.dtype) -> Array:
    """The weighted sums [..., T, N, Hv] of values [..., S, K, Hv], by weights [..., N, T, S]."""
    v = heads_first(v)
    *batch, N, T, S = weights.shape
    K, _, H = v.shape[-3:]
    if N == K:
        return heads_first(jnp.einsum("...NTS,...NSH->...NTH", weights, v, preferred_element_type=dtype))
    weights = weights.reshape(*batch, K, N // K, T, S)
    out = jnp.einsum("...KGTS,...KSH->...KGTH", weights, v, preferred_element_type=dtype)
    return heads_first(out.reshape(*batch, N, T, H))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@at_precision
def _softmax_average(logits: Array, v: Array) -> Array:
    """``_weighted_average``, dividing the T x Hv sums instead of the T x S weights."""
    # The undivided sums of S values may overflow, as in every attention over blocks of keys.
    exp, total = shifted_exp(logits)
    return value_sums(exp.astype(v.dtype), v, logits.dtype) / heads_first(total)


def _weighted_average(logits: Array, v: Array) -> Array:
    """The average [..., T, N, Hv] of the values, weighted by the softmax of logits [..., N, T, S]."""
    return value_sums(softmax(logits).astype(v.dtype), v, logits.dtype)


@_softmax_average.defjvp
@at_precision
def _softmax_average_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # The backward pass keeps the weights, not the logits.
    return jax.jvp(_weighted_average, primals, tangents)
