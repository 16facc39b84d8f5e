"""Attention as if all numbers were finite, for a few queries: keys and values are read where they stand.

So that nothing which a mask closes reaches the output, not even a nan, the reference first copies keys and
values with 0 for what is not finite: of one query that would be most of the work. Here both products run
first, and only if they are not finite is it done again with the copies; ``jax.vmap`` always runs both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops import masks
from tfm_jax.ops.backends import reference
from tfm_jax.ops.backends.capabilities import Capabilities
from tfm_jax.ops.backends.common import (
    Bias,
    adjust,
    heads_first,
    hide_nonfinite,
    keys_last,
    shut,
    softmax,
    whole_bias,
)
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]

CAPABILITIES = Capabilities(dropout=False)


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
    """Attention as ``tfm_jax.ops.attention`` defines it, where ``CAPABILITIES`` says so.

    Args:
      q, k, v, mask, bias, scale, soft_cap: as ``reference.attention``.
      dropout_rate, key: no dropout.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 where a query may attend to nothing. Its derivatives are those of the
      reference.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    del dropout_rate, key
    bias = whole_bias(bias, q.ndim - 3, q.shape[-3], k.shape[-3])
    return _attend(q, k, v, mask, bias, scale, soft_cap)


# Compiled: a nan that is then replaced would stop every run under jax_debug_nans.
@jax.custom_jvp
@functools.partial(jax.jit, inline=True)
def _attend(q, k, v, mask, bias, scale, soft_cap) -> Array:
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    allowed = None if mask is None else masks.to_heads(mask, tuple(batch), N, T, S)
    attend = functools.partial(_two_products, allowed=allowed, bias=bias, scale=scale, soft_cap=soft_cap)

    def otherwise() -> Array:
        if mask is None:
            return _by_reference(q, k, v, mask, bias, scale, soft_cap)
        # By the same products: queries that read nothing bad keep every bit.
        *finite, bad_q, bad_k = hide_nonfinite(q, k, v)
        return attend(*finite, bad=heads_first(bad_q) | keys_last(bad_k, N))[0]

    # 0 * nan is nan: in the sum over values no mask stops it.
    out, finite = attend(q, k, v, bad=None)
    return jax.lax.cond(finite, lambda: out, otherwise)


def _two_products(q, k, v, bad, *, allowed, bias, scale, soft_cap) -> tuple[Array, Array]:
    """[..., T, N, Hv]; and whether both products are finite, as they are only if q, k and v are."""
    (T, N), K = q.shape[-3:-1], k.shape[-2]
    dtype = np.promote_types(q.dtype, np.float32)
    # One query a head is a vector: XLA has no product to turn round.
    compare, mix = (reference.compare, reference.mix) if T == 1 and N == K else (_compare, _mix)
    logits = compare(q, k, dtype)
    finite = jnp.isfinite(logits).all()
    weights = softmax(shut(adjust(logits, scale=scale, soft_cap=soft_cap, bias=bias), allowed, bad))
    out = mix(weights.astype(v.dtype), v, dtype)
    return out.astype(q.dtype), finite & jnp.isfinite(out).all()


def _compare(q: Array, k: Array, dtype: np.dtype) -> Array:
    """``reference.compare``, each head's keys on the left of a product: left alone, XLA turns it round, and
    copies the keys for it."""
    *batch, T, N, H = q.shape
    S, K = k.shape[-3:-1]
    q = jnp.einsum("...TKGH->...KGTH", q.reshape(*batch, T, K, N // K, H)).reshape(*batch, K, N // K * T, H)
    heads, last = (*range(len(batch)), len(batch)), len(batch) + 2
    pairs = ((last,), (last,)), ((*heads[:-1], last - 1), heads)
    logits = jax.lax.dot_general(k, q, pairs, preferred_element_type=dtype)  # [..., K, S, G * T]
    return jnp.swapaxes(jax.lax.optimization_barrier(logits), -1, -2).reshape(*batch, N, T, S)


def _mix(weights: Array, v: Array, dtype: np.dtype) -> Array:
    """``reference.mix``, each head's values on the right of a product."""
    *batch, N, T, S = weights.shape
    K, H = v.shape[-2:]
    heads, last = (*range(len(batch)), len(batch)), len(batch) + 2
    pairs = ((last,), (last - 2,)), (heads, (*heads[:-1], last - 1))
    weights = weights.reshape(*batch, K, N // K * T, S)
    out = jax.lax.dot_general(weights, v, pairs, preferred_element_type=dtype)
    out = jax.lax.optimization_barrier(out).reshape(*batch, K, N // K, T, H)
    return jnp.einsum("...KGTH->...TKGH", out).reshape(*batch, T, N, H)


@_attend.defjvp
def _attend_jvp(primals, tangents) -> tuple[Array, Array]:
    return jax.jvp(_by_reference, primals, tangents)


def _by_reference(q, k, v, mask, bias, scale, soft_cap) -> Array:
    options = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": 0.0, "key": None}
    return reference.attention(q, k, v, mask, bias, **options)
