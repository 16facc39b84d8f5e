"""Attention backends by name, one file each, with their capabilities.

A backend is a pure function ``(q, k, v, mask, bias, *, scale, soft_cap, dropout_rate, key)`` that returns
[..., T, N, Hv] for arguments that ``ops.attention`` has checked: the mask is a ``Mask`` that fits, or None;
``scale`` is never None. ``ops.attention`` raises for anything that the backend's ``Capabilities`` do not
declare, so no backend ever ignores an argument.

``reference``, ``cpu_decode`` and ``chunked``, which ``ring`` runs, apply the mask by ``common.mask_logits``;
the others pass it to a kernel.
"""

import functools

from tfm_jax.ops.backends import chunked, cpu_decode, cudnn, reference, ring, splash, xla
from tfm_jax.ops.backends.capabilities import Backend, Capabilities, Request
from tfm_jax.ops.tracing import definitely, is_partitioned

__all__ = ["BACKENDS", "Backend", "Capabilities", "Request", "by_speed", "ring_over"]


def ring_over(axis: str | tuple[str, ...]) -> Backend:
    """Ring attention over a mapped axis of any name, to be passed as ``implementation``.

    Equivalent to::

        BACKENDS["ring"]                                                # for the axis "sequence"

    Args:
      axis: the name of a mapped axis, inside ``shard_map`` or ``pmap``; or several, outermost first.

    Returns:
      A ``Backend``. Outside of such an axis the sequence is on one device.
    """
    return Backend("ring", functools.partial(ring.attention, axis=axis), ring.capabilities(axis))


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("cudnn", cudnn.attention, cudnn.CAPABILITIES),
        Backend("splash", splash.attention, splash.CAPABILITIES),
        Backend("cpu_decode", cpu_decode.attention, cpu_decode.CAPABILITIES),
        Backend("chunked", chunked.attention, chunked.CAPABILITIES),
        Backend("xla", xla.attention, xla.CAPABILITIES),
        Backend("reference", reference.attention, reference.CAPABILITIES),
        ring_over(ring.AXIS),
    )
}
_MAX_KEPT_LOGITS = 256 * 256
"""The largest T * S whose logits are kept for the backward pass."""
_MAX_DECODE_QUERIES = 8
"""The largest T, such as the beams of a search, for ``cpu_decode``."""


def by_speed(request: Request) -> list[Backend]:
    """The backends that "auto" tries, fastest first. Not the ring: the mesh and its rules decide that.

    Equivalent to::

        [BACKENDS[name] for name in ("cudnn", "splash", "chunked", "xla", "reference")]        # large T * S

    Args:
      request: the arguments of the call.

    Returns:
      Backends, whether they support the request or not.
    """
    T, S = request.q.shape[-3], request.k.shape[-3]
    # Few logits are kept for the backward pass: that is faster than to recompute them.
    large = definitely(lambda: T * S > _MAX_KEPT_LOGITS)
    general = ("chunked", "xla", "reference") if large else ("reference", "chunked")
    # Not on a mesh: the check for finite results would need a collective.
    partitioned = request.shard is None and is_partitioned(request.q)
    one_device = request.platform == "cpu" and not partitioned
    decode = ("cpu_decode",) if one_device and definitely(lambda: T <= _MAX_DECODE_QUERIES) else ()
    # The kernel pads lengths to whole blocks.
    kernel = ("splash",) if definitely(lambda: min(T, S) >= splash.BLOCK) else ()
    return [BACKENDS[name] for name in ("cudnn", *kernel, *decode, *general)]
