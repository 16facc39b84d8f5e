"""Attention over a sequence that is spread over devices: the keys go around, the queries stay.

For use inside ``shard_map`` (or ``pmap``): each device has T queries and S keys that follow one another in
the order of the axis. Where the mask compares positions, it compares those in the whole sequence. No device
ever holds the keys of two, forward or backward.
"""

from collections.abc import Callable, Iterator

import jax

from tfm_jax.ops import masks
from tfm_jax.ops.backends import chunked
from tfm_jax.ops.backends.capabilities import Capabilities, Request
from tfm_jax.types import Array, Key

__all__ = ["attention", "capabilities"]

AXIS = "sequence"


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
    axis: str = AXIS,
) -> Array:  # [..., T, N, Hv]
    """Attention as ``tfm_jax.ops.attention`` defines it, of the whole sequence.

    Equivalent to::

        q, k, v = (jax.lax.all_gather(x, axis, axis=-3, tiled=True) for x in (q, k, v))
        out = ops.attention(q, k, v, mask_of_the_whole, bias, ...)
        out[..., i : i + T, :, :]                                               # i = T * axis_index(axis)

    Args:
      q, k, v: as ``chunked.attention``, those of this device.
      mask: a Mask. ``padding`` and ``segments`` hold the arrays of this device, ``dense`` its T queries and
        all keys; a position counts from the start of the whole sequence, and so do ``prefix`` and offsets.
      bias: a function of indices in the whole sequence, or None.
      scale, soft_cap, dropout_rate, tile: as ``chunked.attention``.
      key: a PRNG key, the same on every device, or None for no dropout.
      axis: the name of the axis of devices.

    Returns:
      [..., T, N, Hv] of q's dtype, the queries of this device.

    Raises:
      ValueError: the mask does not fit.
      NameError: from JAX, outside of ``shard_map`` and ``pmap``.

    Liu et al. 2023, "Ring Attention with Blockwise Transformers for Near-Infinite Context", section 3.
    """
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    if mask is not None:
        mask = mask.on_axis(axis, T, S)
        masks.check_fits(mask, tuple(batch), N, T, S * jax.lax.axis_size(axis))
    options = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": dropout_rate, "key": key}
    return chunked.attention(q, k, v, mask, bias, **options, tile=tile, axis=axis)


def capabilities(axis: str) -> Capabilities:
    """What it can do around that axis."""

    def also(request: Request) -> Iterator[str]:
        try:
            jax.lax.axis_size(axis)
        except NameError:
            yield f"runs inside shard_map or pmap over an axis named {axis!r}"

    return Capabilities(
        bias=frozenset({"function"}), symbolic_lengths=False, spread=True, forward_mode=False, also=also
    )
