"""NVIDIA's fused attention, through ``jax.nn.dot_product_attention``, its rows mended to our contracts.

What cuDNN has itself is told to it: causal, a window that ends at the query, and lengths of the keys, which
are a ``prefix``. Validity of single keys (``padding``) goes in as a table of booleans [..., 1, T, S].
Its layout of packed segments has no door in JAX's function: ``segments`` are refused.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from tfm_jax.ops import masks
from tfm_jax.ops.backends.capabilities import Capabilities, Request, conjuncts
from tfm_jax.ops.backends.common import hide_nonfinite, mend_rows
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Window
from tfm_jax.ops.tracing import definitely
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]


def _also(request: Request) -> Iterator[str]:
    T, S, H = request.q.shape[-3], request.k.shape[-3], request.q.shape[-1]
    parts = conjuncts(request.mask)
    causal = any(isinstance(part, Causal) for part in parts)
    if not definitely(lambda: request.q.size > 0 and request.k.size > 0):
        yield "wants a query and a key at least"
    capability = getattr(jax.devices()[0], "compute_capability", "8.0")  # "9.0" on an H100; another on ROCm
    if not capability.replace(".", "").isdigit() or float(capability) < 8:
        yield f"runs on NVIDIA GPUs from compute capability 8.0 on, not on {capability}"
    if H % 8 or H > 128:
        yield f"wants heads of a size that 8 divides, up to 128, not H = {H}"
    if any(isinstance(part, Padding) for part in parts) and (T % 2 or S % 2):
        yield f"does padding of even lengths alone, not T = {T}, S = {S} (masks.prefix(lengths) of any)"
    for part in parts:
        sides = (part.left, part.right) if isinstance(part, Window) else (None, None)
        if sides != (None, None) and not (causal or part.right == 0):
            yield f"has no window that goes ahead of the query: {part.expression()}"
    if T != S and any(isinstance(part, Causal | Window) for part in parts):
        yield f"compares positions where T == S alone, not T = {T}, S = {S}"


CAPABILITIES = Capabilities(
    masks=frozenset({"causal", "window", "prefix", "padding"}),
    offsets="none",
    bias=frozenset(),
    soft_cap=False,
    dropout=False,
    traced_numbers=False,
    symbolic_lengths=False,
    value_size=False,
    dtypes=frozenset({"float16", "bfloat16"}),
    platforms=frozenset({"gpu"}),
    forward_mode=False,
    also=_also,
)


_KERNEL = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, H]
    mask: masks.Mask | None,
    bias: None,
    *,
    scale: float,
    soft_cap: None,
    dropout_rate: float,
    key: Key | None,
    kernel: Callable[..., Array] = _KERNEL,
) -> Array:  # [..., T, N, H]
    """Attention as ``tfm_jax.ops.attention`` defines it, where ``CAPABILITIES`` says so.

    Args:
      q, k, v: as ``reference.attention``, in float16 or bfloat16.
      mask: ``causal``, ``window``, ``prefix`` and ``padding``, joined by ``&``, without offsets; or None.
      scale: a number.
      bias, soft_cap: None.
      dropout_rate, key: no dropout.
      kernel: what computes it, of the arguments of ``jax.nn.dot_product_attention``.

    Returns:
      [..., T, N, H] of q's dtype; 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    del bias, soft_cap, dropout_rate, key
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    if mask is None:
        return kernel(*(x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)), scale=scale).reshape(q.shape)
    allowed = masks.to_heads(mask, tuple(batch), N, T, S)
    q, k, v, bad_q, bad_k = hide_nonfinite(q, k, v)
    options = _options(mask, batch, T, S)
    out = kernel(*(x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)), scale=scale, **options)
    return mend_rows(out.reshape(q.shape), allowed, bad_q, bad_k)


def _options(mask: masks.Mask, batch: list[int], T: int, S: int) -> dict:
    """The mask in the words of ``jax.nn.dot_product_attention``."""
    options, parts = {}, conjuncts(mask)
    windows = [part for part in parts if isinstance(part, Window) and (part.left, part.right) != (None, None)]
    if windows or any(isinstance(part, Causal) for part in parts):
        # cuDNN has no window by itself, only one that is causal as well.
        options["is_causal"] = True
    if lefts := [part.left for part in windows if part.left is not None]:
        options["local_window_size"] = (min(lefts), 0)
    rows = lambda x, *last: jnp.broadcast_to(x, (*batch, *last)).reshape(-1, *last)
    if lengths := [rows(jnp.asarray(part.n, jnp.int32)) for part in parts if isinstance(part, Prefix)]:
        # A row of no keys is mended afterwards.
        options["key_value_seq_lengths"] = jnp.clip(functools.reduce(jnp.minimum, lengths), 1, S)
    if valid := [rows(part.valid, S) for part in parts if isinstance(part, Padding)]:
        table = functools.reduce(jnp.logical_and, valid)[:, None, None, :]
        options["mask"] = jnp.broadcast_to(table, (table.shape[0], 1, T, S))
    return options
