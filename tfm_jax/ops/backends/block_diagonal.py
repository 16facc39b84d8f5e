"""Attention with the heads side by side, in two matrix products a row of the batch: for a few queries.

The K heads of a key stand in memory as one row of K * H numbers. Against queries on the diagonal of a block
matrix [N * T, K * H] keys and values are read where they stand, while a product for each head first copies
both with the heads in front. It multiplies K times as often, most of it by 0: little, where queries are few.
What is not finite is computed again by another branch, which ``jax.vmap`` always runs beside the first.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops import masks
from tfm_jax.ops.backends import reference
from tfm_jax.ops.backends.contract import (
    Bias,
    adjust,
    hide_nonfinite,
    keys_last,
    shut,
    softmax,
    whole_bias,
)
from tfm_jax.ops.backends.declare import Honours
from tfm_jax.types import Array, Key

__all__ = ["HONOURS", "attention"]

HONOURS = Honours(dropout=False)


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
    """Attention as ``tfm_jax.ops.attention`` defines it, where ``HONOURS`` says so.

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
        *finite, bad_q, bad_k = hide_nonfinite(q, k, v)
        return attend(*finite, bad=jnp.swapaxes(bad_q, -3, -2) | keys_last(bad_k, N))[0]

    # 0 * nan is nan: in the products one that is not finite reaches every head, and no mask stops it.
    out, finite = attend(q, k, v, bad=None)
    return jax.lax.cond(finite, lambda: out, otherwise)


def _two_products(q, k, v, bad, *, allowed, bias, scale, soft_cap) -> tuple[Array, Array]:
    """[..., T, N, Hv]; and whether both products are finite, as they are only if q, k and v are."""
    *batch, T, N, _ = q.shape
    S, K, H = v.shape[-3:]
    options = {"preferred_element_type": np.promote_types(q.dtype, np.float32)}
    logits = jnp.einsum("...CD,...SD->...CS", _on_diagonal(q, K), _side_by_side(k), **options)
    finite = jnp.isfinite(logits).all()
    logits = adjust(logits.reshape(*batch, N, T, S), scale=scale, soft_cap=soft_cap, bias=bias)
    weights = softmax(shut(logits, allowed, bad))
    if allowed is not None:  # where a nan makes a row nan, what the mask closes is still 0
        weights = jnp.where(allowed, weights, 0)
    weights = weights.astype(v.dtype).reshape(*batch, N * T, S)
    out = jnp.einsum("...CS,...SD->...CD", weights, _side_by_side(v), **options)
    finite &= jnp.isfinite(out).all()
    own = jnp.einsum("...KGTKH->...TKGH", out.reshape(*batch, K, N // K, T, K, H))
    return own.reshape(*batch, T, N, H).astype(q.dtype), finite


@_attend.defjvp
def _attend_jvp(primals, tangents) -> tuple[Array, Array]:
    return jax.jvp(_by_reference, primals, tangents)


def _by_reference(q, k, v, mask, bias, scale, soft_cap) -> Array:
    options = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": 0.0, "key": None}
    return reference.attention(q, k, v, mask, bias, **options)


def _on_diagonal(q: Array, K: int) -> Array:
    """[..., T, N, H] as [..., N * T, K * H]: each query where its key/value head stands, 0 elsewhere."""
    *batch, T, N, H = q.shape
    q = q.reshape(*batch, T, K, N // K, H)
    return jnp.einsum("...TKGH,Kk->...KGTkH", q, jnp.eye(K, dtype=q.dtype)).reshape(*batch, N * T, K * H)


def _side_by_side(x: Array) -> Array:
    """[..., S, K, H] as [..., S, K * H]."""
    return x.reshape(*x.shape[:-2], -1)
