"""``jax.nn.dot_product_attention`` on XLA, with our contract for fully masked rows, NaN and Inf."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tfm_jax.ops.backends.capabilities import Capabilities, Request
from tfm_jax.ops.backends.common import evaluate_mask, fix_rows, zero_nonfinite_qkv
from tfm_jax.ops.masks.algebra import Mask
from tfm_jax.ops.tracing import definitely
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]


def _limits(request: Request) -> Iterator[str]:
    # JAX declares its options when it is imported, which its types do not show.
    promotion = jax.config.jax_numpy_dtype_promotion  # pyright: ignore[reportAttributeAccessIssue]
    if request.q.dtype != jnp.float32 and promotion == "strict":
        yield f"promotes {request.q.dtype} in its gradient, which jax_numpy_dtype_promotion=strict forbids"


CAPABILITIES = Capabilities(
    bias=frozenset({"array"}),
    soft_cap=False,
    dropout=False,
    value_size=False,
    dtypes=frozenset({"float16", "bfloat16", "float32"}),
    limits=_limits,
)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, H]
    mask: Mask | None,
    bias: Array | None,  # [..., 1|N, 1|T, 1|S]
    *,
    scale: float | Array,
    soft_cap: None,
    dropout_rate: float,
    key: Key | None,
) -> Array:  # [..., T, N, H]
    """Attention as ``tfm_jax.ops.attention`` defines it, within ``CAPABILITIES``.

    Args:
      q, k, v, mask, bias, scale: as ``reference.attention``.
      soft_cap: None.
      dropout_rate, key: no dropout.

    Returns:
      [..., T, N, H] of q's dtype; 0 in fully masked rows.
    """
    del soft_cap, dropout_rate, key
    *batch, T, _, _ = q.shape
    S = k.shape[-3]
    if definitely(lambda: q.size == 0 or k.size == 0):
        return jnp.zeros(q.shape, q.dtype)
    nonfinite_q = nonfinite_k = None
    allowed = evaluate_mask(mask, q, k)
    if bias is not None:
        # JAX masks with a large negative number, and a bias may be lower. So the mask becomes a bias of -inf.
        masked = jnp.isneginf(bias) if allowed is None else jnp.isneginf(bias) | ~allowed
        allowed = jnp.broadcast_to(~masked, (*masked.shape[:-2], T, S))
        fully_masked = ~allowed.any(-1, keepdims=True)  # a row of -inf would be NaN
        bias = jnp.where(fully_masked, 0, jnp.where(allowed, bias, -jnp.inf))
    if allowed is not None:
        q, k, v, nonfinite_q, nonfinite_k = zero_nonfinite_qkv(q, k, v)

    def flat(x: Array) -> Array:
        return jnp.broadcast_to(x, (*batch, *x.shape[-3:])).reshape(-1, *x.shape[-3:])

    # The scale may be an array, which its types do not show.
    out = jax.nn.dot_product_attention(  # pyright: ignore[reportCallIssue]
        flat(q),
        flat(k),
        flat(v),
        bias=None if bias is None else flat(bias),
        mask=None if allowed is None or bias is not None else flat(allowed),
        scale=scale,  # pyright: ignore[reportArgumentType]
        implementation="xla",
    ).reshape(q.shape)
    return out if allowed is None else fix_rows(out, allowed, nonfinite_q, nonfinite_k)
