"""``jax.nn.dot_product_attention`` as XLA compiles it, its rows mended to our contracts."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tfm_jax.ops import masks
from tfm_jax.ops.backends.capabilities import Capabilities, Request
from tfm_jax.ops.backends.common import hide_nonfinite, mend_rows
from tfm_jax.ops.tracing import definitely
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]


def _also(request: Request) -> Iterator[str]:
    if request.q.dtype != jnp.float32 and jax.config.jax_numpy_dtype_promotion == "strict":
        yield f"differentiates {request.q.dtype} by a promotion that jax_numpy_dtype_promotion=strict forbids"


CAPABILITIES = Capabilities(
    bias=frozenset({"array"}),
    soft_cap=False,
    dropout=False,
    value_size=False,
    dtypes=frozenset({"float16", "bfloat16", "float32"}),
    also=_also,
)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, H]
    mask: masks.Mask | None,
    bias: Array | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: None,
    dropout_rate: float,
    key: Key | None,
) -> Array:  # [..., T, N, H]
    """Attention as ``tfm_jax.ops.attention`` defines it, where ``CAPABILITIES`` says so.

    Args:
      q, k, v, mask, bias, scale: as ``reference.attention``.
      soft_cap: None.
      dropout_rate, key: no dropout.

    Returns:
      [..., T, N, H] of q's dtype; 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    del soft_cap, dropout_rate, key
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    if definitely(lambda: q.size == 0 or k.size == 0):
        return jnp.zeros(q.shape, q.dtype)
    bad_q = bad_k = None
    allowed = None if mask is None else masks.to_heads(mask, tuple(batch), N, T, S)
    if bias is not None:
        # It closes what is masked by a finite number, which a bias may go below: -inf has nothing below it.
        closed = jnp.isneginf(bias) if allowed is None else jnp.isneginf(bias) | ~allowed
        allowed = jnp.broadcast_to(~closed, (*closed.shape[:-2], T, S))
        empty = ~allowed.any(-1, keepdims=True)  # of -inf alone a row would be nan
        bias = jnp.where(empty, 0, jnp.where(allowed, bias, -jnp.inf))
    if allowed is not None:
        q, k, v, bad_q, bad_k = hide_nonfinite(q, k, v)
    rows = lambda x: jnp.broadcast_to(x, (*batch, *x.shape[-3:])).reshape(-1, *x.shape[-3:])
    inputs = (x if x is None else rows(x) for x in (q, k, v, bias, allowed if bias is None else None))
    out = jax.nn.dot_product_attention(*inputs, scale=scale, implementation="xla").reshape(q.shape)
    return out if allowed is None else mend_rows(out, allowed, bad_q, bad_k)
