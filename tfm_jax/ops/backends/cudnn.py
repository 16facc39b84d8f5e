"""NVIDIA's fused attention, through ``jax.nn.dot_product_attention``, with our contract for masked rows.

cuDNN implements causal masks, windows that end at the query, and key lengths (``prefix``). ``padding``
becomes a boolean array [..., 1, T, S]. JAX's function does not expose cuDNN's layout of packed sequences, so
``segments`` are unsupported.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from tfm_jax.ops.backends._rows import fix_rows_by_structure
from tfm_jax.ops.backends.capabilities import Capabilities, Request
from tfm_jax.ops.backends.common import zero_nonfinite_qkv
from tfm_jax.ops.masks.algebra import Mask, conjuncts
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Window
from tfm_jax.ops.masks.tiles import AnyArray
from tfm_jax.ops.tracing import definitely
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]

_KERNEL = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")


def _limits(request: Request) -> Iterator[str]:
    T, S, H = request.q.shape[-3], request.k.shape[-3], request.q.shape[-1]
    leaves = conjuncts(request.mask)
    causal = any(isinstance(leaf, Causal) for leaf in leaves)
    if not definitely(lambda: request.q.size > 0 and request.k.size > 0):
        yield "needs at least one query and one key"
    # "9.0" on an H100; another format on ROCm.
    capability = getattr(jax.devices()[0], "compute_capability", "8.0")
    if not capability.replace(".", "").isdigit() or float(capability) < 8:
        yield f"needs an NVIDIA GPU of compute capability 8.0 or higher, not {capability}"
    if H % 8 or H > 128:
        yield f"needs H to be a multiple of 8 up to 128, not H = {H}"
    if any(isinstance(leaf, Padding) for leaf in leaves) and (T % 2 or S % 2):
        yield f"supports padding for even lengths only, not T = {T}, S = {S} (masks.prefix(lengths) for any)"
    for leaf in leaves:
        if isinstance(leaf, Window) and _has_side(leaf) and not (causal or leaf.right == 0):
            yield f"does not support a window that reaches beyond the query: {leaf.expression()}"
    if T != S and any(isinstance(leaf, Causal | Window) for leaf in leaves):
        yield f"compares positions only where T == S, not T = {T}, S = {S}"


def _is_installed() -> bool:
    x = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(_KERNEL, x, x, x)
    except RuntimeError:  # JAX does not find cuDNN, or a GPU that it supports
        return False
    return True


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
    is_installed=_is_installed,
    limits=_limits,
)


def _has_side(window: Window) -> bool:
    return (window.left, window.right) != (None, None)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, H]
    mask: Mask | None,
    bias: None,
    *,
    scale: float,
    soft_cap: None,
    dropout_rate: float,
    key: Key | None,
    kernel: Callable[..., Array] = _KERNEL,
) -> Array:  # [..., T, N, H]
    """Attention as ``tfm_jax.ops.attention`` defines it, within ``CAPABILITIES``.

    Args:
      q, k, v: as ``reference.attention``, in float16 or bfloat16.
      mask: ``causal``, ``window``, ``prefix`` and ``padding``, joined by ``&``, without offsets; or None.
      scale: a number.
      bias, soft_cap: None.
      dropout_rate, key: no dropout.
      kernel: a function with the arguments of ``jax.nn.dot_product_attention``.

    Returns:
      [..., T, N, H] of q's dtype; 0 in fully masked rows.
    """
    del bias, soft_cap, dropout_rate, key
    if mask is None:
        return kernel(*map(_one_batch, (q, k, v)), scale=scale).reshape(q.shape)
    q, k, v, nonfinite_q, nonfinite_k = zero_nonfinite_qkv(q, k, v)
    options = _mask_options(mask, q.shape[:-3], q.shape[-3], k.shape[-3])
    out = kernel(*map(_one_batch, (q, k, v)), scale=scale, **options)
    return fix_rows_by_structure(out.reshape(q.shape), mask, q, k, nonfinite_q, nonfinite_k)


def _one_batch(x: Array) -> Array:
    return x.reshape(-1, *x.shape[-3:])


def _mask_options(mask: Mask, batch: tuple[int, ...], T: int, S: int) -> dict:
    """The mask as arguments of ``jax.nn.dot_product_attention``."""
    options, leaves = {}, conjuncts(mask)
    windows = [leaf for leaf in leaves if isinstance(leaf, Window) and _has_side(leaf)]
    if windows or any(isinstance(leaf, Causal) for leaf in leaves):
        # In cuDNN every window is causal.
        options["is_causal"] = True
    if lefts := [leaf.left for leaf in windows if leaf.left is not None]:
        options["local_window_size"] = (min(lefts), 0)

    def per_sequence(x: AnyArray, *last: int) -> Array:
        return jnp.broadcast_to(x, (*batch, *last)).reshape(-1, *last)

    if lengths := [
        per_sequence(jnp.asarray(leaf.n, jnp.int32)) for leaf in leaves if isinstance(leaf, Prefix)
    ]:
        # Length 0 is not valid; fix_rows gives 0 there.
        options["key_value_seq_lengths"] = jnp.clip(functools.reduce(jnp.minimum, lengths), 1, S)
    if valid := [per_sequence(leaf.valid, S) for leaf in leaves if isinstance(leaf, Padding)]:
        table = functools.reduce(jnp.logical_and, valid)[:, None, None, :]
        options["mask"] = jnp.broadcast_to(table, (table.shape[0], 1, T, S))
    return options
