"""Ring attention over a sharded sequence: keys and values rotate around the devices, queries stay.

For use inside ``shard_map`` or ``pmap``: each device holds T consecutive queries and S consecutive keys, in
the order of the axis. Masks compare positions in the full sequence. No device ever holds the keys of two
devices, forward or backward.
"""

from collections.abc import Callable

import jax

from tfm_jax.ops import masks
from tfm_jax.ops.backends import chunked
from tfm_jax.ops.backends.capabilities import Capabilities, Shard
from tfm_jax.types import Array, Key

__all__ = ["AXIS", "attention", "capabilities"]

AXIS = "sequence"
"""The default name of the mesh axis."""


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | None,
    bias: Callable[[Array, Array], Array] | None,
    *,
    scale: float | Array,
    soft_cap: float | Array | None,
    dropout_rate: float,
    key: Key | None,
    tile: int = 256,
    axis: chunked.Axis = AXIS,
    shard: Shard | None = None,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, over the full sequence.

    Equivalent to::

        q, k, v = (jax.lax.all_gather(x, axis, axis=-3, tiled=True) for x in (q, k, v))
        out = ops.attention(q, k, v, full_mask, bias, ...)
        out[..., i : i + T, :, :]                                               # i = T * axis_index(axis)

    Args:
      q, k, v: as ``chunked.attention``, the shards of this device.
      mask: a Mask. ``padding`` and ``segments`` hold the arrays of this device, ``dense`` its T queries and
        all keys; positions, ``prefix`` and offsets count from the start of the full sequence.
      bias: a function of indices in the full sequence, or None.
      scale, soft_cap, dropout_rate, tile: as ``chunked.attention``.
      key: a PRNG key, the same on every device, or None for no dropout.
      axis: the name of the mesh axis.
      shard: the part of the full arrays that these are, or None. With it, ``mask`` is already that of this
        device's queries and all keys.

    Returns:
      [..., T, N, Hv] of q's dtype, the queries of this device.

    Raises:
      ValueError: the mask does not fit.
      NameError: from JAX, outside of ``shard_map`` and ``pmap``.

    Liu et al. 2023, "Ring Attention with Blockwise Transformers for Near-Infinite Context", section 3.
    """
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    if mask is not None and shard is None:
        mask = mask.on_axis(axis, T, S)
        masks.check_fits(mask, tuple(batch), N, T, S * jax.lax.axis_size(axis))
    options = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": dropout_rate, "key": key}
    return chunked.attention(q, k, v, mask, bias, **options, tile=tile, axis=axis, shard=shard)


def capabilities(axis: chunked.Axis) -> Capabilities:
    """The capabilities of the ring around an axis of that name."""
    return Capabilities(
        bias=frozenset({"function"}),
        symbolic_lengths=False,
        sharded=axis,
        sharded_dropout=True,
        forward_mode=False,
    )
