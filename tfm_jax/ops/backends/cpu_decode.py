"""Attention for decoding on a CPU: a few queries read the KV cache without a copy of it.

The reference first copies keys and values with 0 in place of NaN and Inf, so that these cannot reach the
output from masked positions. With one query, the copy would be most of the work. This backend computes both
products from the originals, and repeats them from the copies only if a result is not finite; ``jax.vmap``
always runs both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends import reference
from tfm_jax.ops.backends.capabilities import Capabilities
from tfm_jax.ops.backends.common import (
    Bias,
    adjust_logits,
    bias_array,
    evaluate_mask,
    heads_first,
    keys_last,
    mask_logits,
    softmax,
    zero_nonfinite_qkv,
)
from tfm_jax.ops.masks.algebra import Mask
from tfm_jax.ops.tracing import at_precision, current_precision, vary_with
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]

CAPABILITIES = Capabilities(dropout=False)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: Mask | None,
    bias: Bias | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: float | None,
    dropout_rate: float,
    key: Key | None,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, within ``CAPABILITIES``.

    Args:
      q, k, v, mask, bias, scale, soft_cap: as ``reference.attention``.
      dropout_rate, key: no dropout.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 in fully masked rows. The derivatives are those of the reference.
    """
    del dropout_rate, key
    return _attend(current_precision(), q, k, v, mask, bias_array(bias, q, k), scale, soft_cap)


# Compiled: outside of jit, a NaN that is replaced later would stop every run under jax_debug_nans.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
@at_precision
def _attend(q, k, v, mask, bias, scale, soft_cap) -> Array:
    arrays = q, k, v, evaluate_mask(mask, q, k), bias, scale, soft_cap
    # JAX does not batch a branch in which an array begins to vary over a mesh axis.
    q, k, v, allowed, bias, scale, soft_cap = jax.tree.map(lambda x: vary_with(x, arrays), arrays)
    attend = functools.partial(_attend_once, allowed=allowed, bias=bias, scale=scale, soft_cap=soft_cap)

    def from_copies() -> Array:
        if mask is None:
            return _by_reference(q, k, v, mask, bias, scale, soft_cap)
        # By the same products, so that queries that attend only to finite inputs give the same bits.
        finite_q, finite_k, finite_v, nonfinite_q, nonfinite_k = zero_nonfinite_qkv(q, k, v)
        return attend(
            finite_q, finite_k, finite_v, heads_first(nonfinite_q) | keys_last(nonfinite_k, q.shape[-2])
        )[0]

    # The mask does not stop NaN in the sum over values: 0 * NaN is NaN.
    out, finite = attend(q, k, v, None)
    return jax.lax.cond(finite, lambda: out, from_copies)


def _attend_once(q, k, v, nonfinite, *, allowed, bias, scale, soft_cap) -> tuple[Array, Array]:
    """[..., T, N, Hv], and whether both products are finite (only if q, k and v are)."""
    (T, N), K = q.shape[-3:-1], k.shape[-2]
    dtype = np.promote_types(q.dtype, np.float32)
    # One query per head is a vector: XLA does not swap the operands of that product.
    is_vector = T == 1 and N == K
    products = (reference.key_products if is_vector else _key_products)(q, k, dtype)
    finite = jnp.isfinite(products).all()
    logits = adjust_logits(products, scale=scale, soft_cap=soft_cap, bias=bias)
    weights = softmax(mask_logits(logits, allowed, nonfinite))
    out = (reference.value_sums if is_vector else _value_sums)(weights.astype(v.dtype), v, dtype)
    return out.astype(q.dtype), finite & jnp.isfinite(out).all()


def _key_products(q: Array, k: Array, dtype: np.dtype) -> Array:
    """``reference.key_products`` with the keys as the left operand.

    Without the barrier, XLA swaps the operands and copies the keys.
    """
    *batch, T, N, H = q.shape
    S, K = k.shape[-3:-1]
    q = jnp.einsum("...TKGH->...KGTH", q.reshape(*batch, T, K, N // K, H)).reshape(*batch, K, N // K * T, H)
    heads, last = (*range(len(batch)), len(batch)), len(batch) + 2
    pairs = ((last,), (last,)), ((*heads[:-1], last - 1), heads)
    logits = jax.lax.dot_general(k, q, pairs, preferred_element_type=dtype)  # [..., K, S, G * T]
    return jnp.swapaxes(jax.lax.optimization_barrier(logits), -1, -2).reshape(*batch, N, T, S)


def _value_sums(weights: Array, v: Array, dtype: np.dtype) -> Array:
    """``reference.value_sums`` with the values as the right operand, behind a barrier."""
    *batch, N, T, S = weights.shape
    K, H = v.shape[-2:]
    heads, last = (*range(len(batch)), len(batch)), len(batch) + 2
    pairs = ((last,), (last - 2,)), (heads, (*heads[:-1], last - 1))
    weights = weights.reshape(*batch, K, N // K * T, S)
    out = jax.lax.dot_general(weights, v, pairs, preferred_element_type=dtype)
    out = jax.lax.optimization_barrier(out).reshape(*batch, K, N // K, T, H)
    return jnp.einsum("...KGTH->...TKGH", out).reshape(*batch, T, N, H)


@_attend.defjvp
@at_precision
def _attend_jvp(primals, tangents) -> tuple[Array, Array]:
    return jax.jvp(_by_reference, primals, tangents)


def _by_reference(q, k, v, mask, bias, scale, soft_cap) -> Array:
    options = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": 0.0, "key": None}
    return reference.attention(q, k, v, mask, bias, **options)
