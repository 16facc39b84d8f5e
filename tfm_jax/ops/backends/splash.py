"""The TPU's kernel of JAX, "splash" attention: what is known of the mask before tracing skips its blocks.

Causal masks and windows are told to the kernel as such. Segments, padding and prefixes are all one thing to
it, ids that must be equal: a key that may not be read gets an id that no query has. Rows are mended to our
contracts afterwards. The compiler cannot spread it over devices: on several, call it inside ``shard_map``.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops import masks
from tfm_jax.ops.backends.capabilities import Capabilities, Request, conjuncts
from tfm_jax.ops.backends.common import hide_nonfinite, mend_rows
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Segments, Window
from tfm_jax.ops.tracing import definitely
from tfm_jax.types import Array, Key

__all__ = ["CAPABILITIES", "attention"]

LANES = 128
"""Side of the TPU's registers: lengths are filled up to multiples of it."""


def _also(request: Request) -> Iterator[str]:
    T, S, H = request.q.shape[-3], request.k.shape[-3], request.q.shape[-1]
    parts = conjuncts(request.mask)
    if not definitely(lambda: request.q.size > 0 and request.k.size > 0):
        yield "wants a query and a key at least"
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.are_all_axes_manual:
        devices = jax.device_count() if mesh.empty else mesh.size
        if devices > 1 and request.platform == "tpu":
            yield f"cannot be spread over {devices} devices by jit: call it inside shard_map"
    elif jax.typeof(request.q).manual_axis_type.varying:
        yield "wants shard_map(check_vma=False)"
    if H % LANES and request.platform == "tpu":
        yield f"wants heads of a size that {LANES} divides, not H = {H}"
    if sum(isinstance(part, Segments) for part in parts) > 1:
        yield "takes one segments(...) in a mask"
    if all(isinstance(getattr(part, "offset", None), int | None) for part in parts):
        first, last = _reach(parts)
        queries = np.arange(T)
        if (np.maximum(0, queries + first) > np.minimum(S - 1, queries + last)).any():
            yield "cannot do a query that its position closes to every key"


CAPABILITIES = Capabilities(
    masks=frozenset({"causal", "window", "segments", "padding", "prefix"}),
    offsets="static",
    bias=frozenset(),
    dropout=False,
    traced_numbers=False,
    symbolic_lengths=False,
    dtypes=frozenset({"bfloat16", "float32"}),
    platforms=frozenset({"tpu"}),
    forward_mode=False,
    also=_also,
)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | None,
    bias: None,
    *,
    scale: float,
    soft_cap: float | None,
    dropout_rate: float,
    key: Key | None,
    interpret: bool = False,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, where ``CAPABILITIES`` says so.

    Args:
      q, k, v: as ``reference.attention``.
      mask: ``causal``, ``window``, ``segments``, ``padding`` and ``prefix``, joined by ``&``; or None.
      scale: a number.
      soft_cap: a number, or None.
      bias: None.
      dropout_rate, key: no dropout.
      interpret: run the kernel as plain JAX, on any platform; slow, for tests.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 where a query may attend to nothing.

    Raises:
      ValueError: the mask does not fit q and k.
    """
    del bias, dropout_rate, key
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    bad_q = bad_k = allowed = None
    inputs = q, k, v
    if mask is not None:
        allowed = masks.to_heads(mask, tuple(batch), N, T, S)
        *inputs, bad_q, bad_k = hide_nonfinite(q, k, v)
    reach = _reach(conjuncts(mask))
    # Its softmax has no empty rows: those that fill the last block up find keys as well.
    sizes = _whole(T), _whole(max(S, _whole(T) + max(0, reach[0])))
    scaled = (inputs[0].astype(jnp.float32) * scale).astype(q.dtype)  # the kernel has no scale
    tiles = [
        jnp.swapaxes(_fill(x.reshape(-1, *x.shape[-3:]), n), 1, 2)
        for x, n in zip((scaled, *inputs[1:]), (sizes[0], sizes[1], sizes[1]), strict=True)
    ]  # [rows of the batch, heads, length, size]
    query_ids, key_ids, valid = _ids(mask, tuple(batch), T, S)
    query_ids, key_ids, valid = (
        _fill(x, n) for x, n in ((query_ids, sizes[0]), (key_ids, sizes[1]), (valid, sizes[1]))
    )
    # Keys that may not be read get an id that no query has.
    least, most = query_ids.min(-1, keepdims=True), query_ids.max(-1, keepdims=True)
    key_ids = jnp.where(valid, key_ids, jnp.where(least > np.iinfo(np.int32).min, least - 1, most + 1))
    kernel = _kernel(N, *sizes, reach, soft_cap, interpret)
    out = jax.vmap(kernel)(*tiles, query_ids, key_ids)
    out = jnp.swapaxes(out, 1, 2)[:, :T].reshape(*batch, T, N, v.shape[-1]).astype(q.dtype)
    return out if mask is None else mend_rows(out, allowed, bad_q, bad_k)


def _kernel(N: int, T: int, S: int, reach: tuple, soft_cap: float | None, interpret: bool) -> Any:
    # Imported when it is used: nobody else pays for it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as kernel_masks

    first, last = reach
    if last < np.inf:
        left = None if first == -np.inf else int(last - first)
        mask = kernel_masks.LocalMask((T, S), (left, 0), int(last))
    elif first > -np.inf:
        mask = kernel_masks.LocalMask((T, S), (0, None), int(first))
    else:
        mask = kernel_masks.FullMask((T, S))
    side = lambda n: next(size for size in (512, 256, LANES) if n % size == 0)
    t, s = side(T), side(S)
    kernel = kernels.make_splash_mha(
        kernel_masks.MultiHeadMask([mask] * N),
        block_sizes=kernels.BlockSizes(
            block_q=t,
            block_kv=s,
            block_q_dkv=t,
            block_kv_dkv=s,
            block_q_dq=t,
            block_kv_dq=s,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )
    return lambda q, k, v, query_ids, key_ids: kernel(q, k, v, kernels.SegmentIds(query_ids, key_ids))


def _reach(parts: list[masks.Mask]) -> tuple[float, float]:
    """How far keys may stand after a query, at least and at most, by all causal masks and windows."""
    first, last = -np.inf, np.inf
    for part in parts:
        match part:
            case Causal(offset):
                last = min(last, offset or 0)
            case Window(left, right, offset):
                first = first if left is None else max(first, (offset or 0) - left)
                last = last if right is None else min(last, (offset or 0) + right)
    return first, last


def _ids(mask: masks.Mask | None, batch: tuple[int, ...], T: int, S: int) -> tuple[Array, Array, Array]:
    """Ids that a query and its keys have in common, int32 [rows, T], [rows, S]; and keys to read, bool."""
    whole = lambda x, n: jnp.broadcast_to(x, (*batch, n)).reshape(-1, n)
    query_ids, key_ids = (whole(jnp.zeros(n, np.int32), n) for n in (T, S))
    valid = jnp.ones(key_ids.shape, bool)
    for part in conjuncts(mask):
        match part:
            case Segments(queries, keys):
                query_ids = whole(queries.astype(np.int32), T)
                key_ids = query_ids if keys is None else whole(keys.astype(np.int32), S)
            case Padding(some):
                valid = valid & whole(some, S)
            case Prefix(n):
                n = jnp.asarray(n, np.int32)[..., None]
                valid = valid & whole(jnp.arange(S).reshape(*(1,) * (n.ndim - 1), S) < n, S)
    return query_ids, key_ids, valid


def _whole(n: float) -> int:
    """The next multiple of the registers' side."""
    return -(-int(n) // LANES) * LANES


def _fill(x: Array, n: int) -> Array:
    """Axis 1 made n long by zeros."""
    return jnp.pad(x, [(0, n - size if i == 1 else 0) for i, size in enumerate(x.shape)])
