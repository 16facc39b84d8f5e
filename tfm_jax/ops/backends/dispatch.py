"""The choice of a backend: by name or the fastest, per device of the mesh, per platform of the program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend, by_speed, reference, ring_over
from tfm_jax.ops.backends.capabilities import Request
from tfm_jax.ops.backends.sharded import Layout, find_layout, local_request, run_sharded
from tfm_jax.ops.tracing import is_mapped, platform_of
from tfm_jax.types import Array

__all__ = ["attend", "attend_weights", "check_mask", "choose"]

_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}
"""By JAX's name of the platform that a program is lowered for, that of ``Request``."""
_LOWERED = {platform: lowered for lowered, platform in _PLATFORMS.items()}


def attend(request: Request, implementation: str | Backend) -> Array:
    """Attention for a checked request: on each device of the mesh, by the backend of its platform.

    Args:
      request: of the full arrays.
      implementation: as in ``ops.attention``.

    Returns:
      [..., T, N, Hv].

    Raises:
      ValueError: as ``ops.attention``.
    """
    backend, layout, local = choose(implementation, request)
    if layout is not None:
        _check_supported(backend, local, implementation)
        # The kernels do not declare the mesh axes that their results vary over.
        check_vma = backend.capabilities.platforms is None
        run = functools.partial(_run, backend)
        return run_sharded(request, layout, run, "TNH", check_vma=check_vma)
    if platform_of(request.q) is not None:
        _check_supported(backend, request, implementation)
        return _run(backend, request)
    return _run_by_platform(request, implementation)


def attend_weights(request: Request) -> Array:
    """The weights of attention for a checked request, on each device of the mesh: [..., N, T, S]."""
    check_mask(request)

    def run(r: Request) -> Array:
        return reference.attention_weights(r.q, r.k, r.mask, r.bias, scale=r.scale, soft_cap=r.soft_cap)

    layout = find_layout(request.q, request.k)
    if layout is None:
        return run(request)
    # Each device has all keys of its queries.
    return run_sharded(request, layout._replace(ring=False), run, "NTS", check_vma=True)


def choose(implementation: str | Backend, request: Request) -> tuple[Backend, Layout | None, Request]:
    """The backend for a request, supported or not, and what each device gets.

    Args:
      implementation: as in ``ops.attention``.
      request: of the full arrays.

    Returns:
      ``(backend, layout, local)``: the layout on a mesh, or None; the request of one device, with shapes in
      place of arrays, or the request itself.

    Raises:
      ValueError: an unknown name, a mask that does not fit, sizes that the mesh does not divide.
    """
    named = _named(implementation)
    axis = None if named is None else named.capabilities.sharded
    if axis is None or not is_mapped(axis):
        # Inside shard_map, the mask of a ring is that of one device: the ring checks it.
        check_mask(request)
    layout = find_layout(request.q, request.k)
    if layout is None:
        if named is not None and axis is not None and not is_mapped(axis):
            named = _ONE_DEVICE_RING
        return named or _fastest(request), None, request
    if layout.ring and (named is None or axis is not None):
        return ring_over(layout.queries), layout, local_request(request, layout)
    layout = layout._replace(ring=False)
    local = local_request(request, layout)
    if axis is not None:
        named = _ONE_DEVICE_RING
    return named or _fastest(local), layout, local


_ONE_DEVICE_RING = Backend("ring", BACKENDS["chunked"].attention, BACKENDS["chunked"].capabilities)


def check_mask(request: Request) -> None:
    """Raises where the mask does not fit q and k."""
    if request.mask is not None:
        *batch, T, N, _ = request.q.shape
        masks.check_fits(request.mask, tuple(batch), N, T, request.k.shape[-3])


def _named(implementation: str | Backend) -> Backend | None:
    """The backend of that name, supported or not; None for "auto"."""
    if isinstance(implementation, Backend):
        return implementation
    if implementation == "auto":
        return None
    if not isinstance(implementation, str) or implementation not in BACKENDS:
        names = ", ".join(map(repr, ["auto", *BACKENDS]))
        raise ValueError(
            f"attention: got implementation={implementation!r}; wanted one of {names}, or a Backend."
        )
    return BACKENDS[implementation]


def _fastest(request: Request, *, installed: bool = False) -> Backend:
    """The fastest that supports a request; with ``installed``, that this host can trace."""
    supported = (backend for backend in by_speed(request) if not backend.unsupported(request))
    return next(backend for backend in supported if not installed or backend.capabilities.is_installed())


def _check_supported(backend: Backend, request: Request, implementation: str | Backend) -> None:
    reasons = backend.unsupported(request)
    # The ring is chosen for a sharded sequence, whether it supports the call or not.
    if reasons and (implementation != "auto" or backend.capabilities.sharded):
        raise ValueError(_unsupported(backend, request, reasons))


def _unsupported(backend: Backend, request: Request, reasons: tuple[str, ...]) -> str:
    able = [name for name, other in BACKENDS.items() if not other.unsupported(request)]
    return (
        f"attention: got implementation={backend.name!r}, which does not support this call: it "
        f"{'; it '.join(reasons)}; wanted one of {', '.join(map(repr, ['auto', *able]))}."
    )


def _run(backend: Backend, request: Request) -> Array:
    options = {name: getattr(request, name) for name in ("scale", "soft_cap", "dropout_rate", "key")}
    if request.shard is not None and backend.capabilities.sharded_dropout:
        options["shard"] = request.shard
    try:
        with jax.named_scope(f"attention_{backend.name}"):
            return backend.attention(request.q, request.k, request.v, request.mask, request.bias, **options)
    except TypeError as error:
        if backend.capabilities.forward_mode or "forward-mode" not in str(error):
            raise
        raise TypeError(
            f"attention: got implementation={backend.name!r} under jax.jvp or jax.jacfwd; wanted jax.grad "
            "or jax.vjp: it supports reverse mode only. For forward mode, pass 'reference'."
        ) from error


def _run_by_platform(request: Request, implementation: str | Backend) -> Array:
    """The backend of each platform that the program may be lowered for; JAX keeps that of the one it is."""
    named = _named(implementation)
    if named is not None and named.capabilities.sharded and not is_mapped(named.capabilities.sharded):
        named = _ONE_DEVICE_RING

    def choice(platform: str) -> tuple[Backend, tuple[str, ...]]:
        r, foreign = dataclasses.replace(request, platform=platform), platform != request.platform
        backend = named or _fastest(r, installed=foreign)
        reasons = backend.unsupported(r)
        if not reasons and foreign and not backend.capabilities.is_installed():
            reasons = (f"is not installed on this host, which is no {platform}",)
        return backend, reasons

    choices = {lowered: choice(platform) for lowered, platform in (_PLATFORMS | {"default": "other"}).items()}
    backend, reasons = choices[_LOWERED.get(request.platform, "default")]
    if all(reasons for _, reasons in choices.values()):
        raise ValueError(_unsupported(backend, request, reasons))
    if all(other == (backend, ()) for other in choices.values()):
        return _run(backend, request)
    branches: dict[tuple[Backend, tuple[str, ...]], Callable[..., Array]] = {}
    for other in choices.values():
        branches.setdefault(other, functools.partial(_run_branch, request, *other))
    return jax.lax.platform_dependent(
        request.q, request.k, request.v, **{name: branches[other] for name, other in choices.items()}
    )


def _run_branch(
    request: Request, backend: Backend, reasons: tuple[str, ...], q: Array, k: Array, v: Array
) -> Array:
    if not reasons:
        return _run(backend, dataclasses.replace(request, q=q, k=k, v=v))
    # It depends on q, k and v, so that the derivatives are refused too.
    total = q.sum() + k.sum() + v.sum()
    zero = _refuse.bind(total, message=_unsupported(backend, request, reasons))
    return jnp.broadcast_to(zero, (*q.shape[:-1], v.shape[-1]))


def _raise(*_: Any, message: str) -> Any:
    raise ValueError(message)


_refuse = jax.extend.core.Primitive("refuse")
"""The identity, which raises when it is lowered: in the program of a platform that does not support it."""
_refuse.def_abstract_eval(lambda x, message: x)
_refuse.def_impl(_raise)
ad.deflinear2(_refuse, lambda ct, x, message: [_refuse.bind(ct, message=message)])
batching.defvectorized(_refuse)
mlir.register_lowering(_refuse, lambda ctx, x, message: _raise(message=message))
