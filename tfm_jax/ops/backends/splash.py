"""JAX's splash attention kernel for TPUs, which skips the blocks that a causal mask or window masks.

The kernel implements causal masks and windows. Segments, padding and prefixes become its segment ids: a
masked key gets an id that no query has. Fully masked rows, NaN and Inf are brought to our contract
afterwards. The compiler cannot partition the kernel: on several devices it runs inside ``shard_map``.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends._kernels import call_kernel
from tfm_jax.ops.backends._rows import distance_range, fix_rows_by_structure, key_ids_and_validity
from tfm_jax.ops.backends.capabilities import Capabilities, Request
from tfm_jax.ops.backends.common import zero_nonfinite_qkv
from tfm_jax.ops.masks.algebra import Mask, conjuncts
from tfm_jax.ops.masks.leaves import Segments
from tfm_jax.ops.tracing import definitely, is_partitioned, mesh_of
from tfm_jax.types import Array, Key

__all__ = ["BLOCK", "CAPABILITIES", "attention"]

BLOCK = 128
"""The width of the TPU's registers, and the shortest block: lengths are padded to multiples of it."""


def _limits(request: Request) -> Iterator[str]:
    T, S = request.q.shape[-3], request.k.shape[-3]
    leaves = conjuncts(request.mask)
    if not definitely(lambda: request.q.size > 0 and request.k.size > 0):
        yield "needs at least one query and one key"
    if request.shard is None and is_partitioned(request.q):
        devices = mesh_of(request.q).size
        yield f"cannot be partitioned over {devices} devices by jit: trace the call inside jax.set_mesh(mesh)"
    elif isinstance(request.q, jax.Array) and jax.typeof(request.q).manual_axis_type.varying:
        yield "needs shard_map(check_vma=False)"
    if sum(isinstance(leaf, Segments) for leaf in leaves) > 1:
        yield "supports one segments(...) in a mask"
    if all(isinstance(getattr(leaf, "offset", None), int | None) for leaf in leaves):
        least, greatest = distance_range(leaves)
        queries = np.arange(T)
        if (np.maximum(0, queries + least) > np.minimum(S - 1, queries + greatest)).any():
            yield "does not support a query whose position masks every key"


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
    limits=_limits,
)


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: Mask | None,
    bias: None,
    *,
    scale: float,
    soft_cap: float | None,
    dropout_rate: float,
    key: Key | None,
    interpret: bool = False,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, within ``CAPABILITIES``.

    Args:
      q, k, v: as ``reference.attention``.
      mask: ``causal``, ``window``, ``segments``, ``padding`` and ``prefix``, joined by ``&``; or None.
      scale: a number.
      soft_cap: a number, or None.
      bias: None.
      dropout_rate, key: no dropout.
      interpret: run the kernel as plain JAX, on any platform; slow, for tests.

    Returns:
      [..., T, N, Hv] of q's dtype; 0 in fully masked rows.
    """
    del bias, dropout_rate, key
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    inputs = (q, k, v)
    if mask is not None:
        *inputs, nonfinite_q, nonfinite_k = zero_nonfinite_qkv(q, k, v)
    distances = distance_range(conjuncts(mask))
    # The kernel has no fully masked rows: the queries that pad the last block find keys too.
    T_padded = _round_up(T)
    S_padded = _round_up(max(S, T_padded + max(0, distances[0])))
    scaled = (inputs[0].astype(jnp.float32) * scale).astype(q.dtype)  # the kernel has no scale
    padded = [
        jnp.swapaxes(_pad(x.reshape(-1, *x.shape[-3:]), n), 1, 2)
        for x, n in zip((scaled, *inputs[1:]), (T_padded, S_padded, S_padded), strict=True)
    ]  # [examples, heads, length, size]
    query_ids, key_ids, valid = key_ids_and_validity(mask, tuple(batch), T, S)
    query_ids, key_ids, valid = _pad(query_ids, T_padded), _pad(key_ids, S_padded), _pad(valid, S_padded)
    # Masked keys get an id that no query has.
    least, greatest = query_ids.min(-1, keepdims=True), query_ids.max(-1, keepdims=True)
    unused_id = jnp.where(least > np.iinfo(np.int32).min, least - 1, greatest + 1)
    key_ids = jnp.where(valid, key_ids, unused_id)

    def kernel(*arrays: Array) -> Array:
        return jax.vmap(_kernel(N, T_padded, S_padded, distances, soft_cap, interpret))(*arrays)

    arrays = (*padded, query_ids, key_ids)
    if interpret:
        out = kernel(*arrays)
    else:
        result = jax.ShapeDtypeStruct((*padded[0].shape[:-1], v.shape[-1]), q.dtype)
        out = call_kernel("splash", kernel, result, *arrays)
    out = jnp.swapaxes(out, 1, 2)[:, :T].reshape(*batch, T, N, v.shape[-1]).astype(q.dtype)
    return out if mask is None else fix_rows_by_structure(out, mask, q, k, nonfinite_q, nonfinite_k)


def _kernel(N: int, T: int, S: int, distances: tuple, soft_cap: float | None, interpret: bool) -> Callable:
    # Imported on use: other backends do not pay for it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as kernel_masks

    least, greatest = distances
    if greatest < np.inf:
        left = None if least == -np.inf else int(greatest - least)
        mask = kernel_masks.LocalMask((T, S), (left, 0), int(greatest))
    elif least > -np.inf:
        mask = kernel_masks.LocalMask((T, S), (0, None), int(least))
    else:
        mask = kernel_masks.FullMask((T, S))
    t, s = _block_size(T), _block_size(S)
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


def _block_size(n: int) -> int:
    return next(size for size in (512, 256, BLOCK) if n % size == 0)


def _round_up(n: float) -> int:
    """The next multiple of the register width."""
    return -(-int(n) // BLOCK) * BLOCK


def _pad(x: Array, n: int) -> Array:
    """Axis 1 padded with zeros to length n."""
    return jnp.pad(x, [(0, n - size if i == 1 else 0) for i, size in enumerate(x.shape)])
