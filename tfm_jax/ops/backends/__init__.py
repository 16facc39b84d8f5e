"""The implementations of attention by name, one file each, and what each of them honours.

Every backend is a pure function ``(q, k, v, mask, bias, *, scale, soft_cap, dropout_rate, key)`` that gives
[..., T, N, Hv] of arguments which ``ops.attention`` has checked: the mask still as a ``Mask`` (or None),
``scale`` never None. Beside it stands its ``Capabilities``; what those do not declare is refused before it is
called, so that no backend ever ignores an argument.
"""

import functools

import jax

from tfm_jax.ops.backends import chunked, cpu_decode, cudnn, reference, ring, splash, xla
from tfm_jax.ops.backends.capabilities import Backend, Capabilities, Request
from tfm_jax.ops.tracing import definitely

__all__ = ["BACKENDS", "Backend", "Capabilities", "Request", "by_speed", "ring_over"]


def ring_over(axis: str) -> Backend:
    """The ring around the devices of an axis of any name, to be passed as ``implementation``.

    Equivalent to::

        BACKENDS["ring"]                                                # whose axis is named "sequence"

    Args:
      axis: the name of a mapped axis, inside ``shard_map`` or ``pmap``.

    Returns:
      A ``Backend``. Outside of such an axis it refuses.
    """
    return Backend("ring", functools.partial(ring.attention, axis=axis), ring.capabilities(axis))


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("cudnn", cudnn.attention, cudnn.CAPABILITIES),
        Backend("splash", splash.attention, splash.CAPABILITIES),
        Backend("cpu_decode", cpu_decode.attention, cpu_decode.CAPABILITIES),
        Backend("chunked", chunked.attention, Capabilities(symbolic_lengths=False, forward_mode=False)),
        Backend("xla", xla.attention, xla.CAPABILITIES),
        Backend("reference", reference.attention, Capabilities()),
        ring_over(ring.AXIS),
    )
}
SMALL = 256 * 256
"""Entries T * S of a table of logits up to which it is kept for the backward pass."""
FEW = 8
"""Queries T, such as the beams of a search, up to which a CPU reads their keys where they stand."""


def by_speed(request: Request) -> list[Backend]:
    """What "auto" tries, the fastest first. Not the ring: only the caller knows that a sequence is spread.

    Equivalent to::

        [BACKENDS[name] for name in ("cudnn", "splash", "chunked", "xla", "reference")]        # a large table

    Args:
      request: the arguments of the call.

    Returns:
      Backends, whether they can or not.
    """
    T, S = request.q.shape[-3], request.k.shape[-3]
    # To compute a small table again in the backward pass takes longer than to keep it.
    large = definitely(lambda: T * S > SMALL)
    plain = ("chunked", "xla", "reference") if large else ("reference", "chunked")
    # Of a few queries, to copy the keys first would be most of the work on a CPU. Not on a mesh: whether all
    # is finite is asked of all devices.
    alone = request.platform == "cpu" and jax.sharding.get_abstract_mesh().empty
    few = ("cpu_decode",) if alone and definitely(lambda: T <= FEW) else ()
    return [BACKENDS[name] for name in ("cudnn", "splash", *few, *plain)]
