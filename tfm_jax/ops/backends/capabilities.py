"""Capabilities of attention backends, and the reasons why one does not support a call."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.core
import jax.export

from tfm_jax.ops.masks.algebra import Dense, Mask, Not, Or, nodes
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Segments, Window
from tfm_jax.types import Array, Key

__all__ = ["FLOATS", "Backend", "Capabilities", "Request", "Shard"]

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
"""The dtypes that attention accepts."""

_MASK_NAMES = {
    Causal: "causal",
    Window: "window",
    Padding: "padding",
    Segments: "segments",
    Prefix: "prefix",
    Dense: "dense",
    Or: "|",
    Not: "~",
}


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of the full arrays one device has, where a mesh shards attention.

    Dropout depends on the indices in the full arrays, so that it is the same on every mesh.
    """

    examples: Array  # int32 [...], the flat indices of the leading dims of q
    heads: Array  # int32 [N]
    first_query: Array | int
    n_heads: int
    """N of all devices."""
    lengths: tuple[int, int]
    """T and S of all devices."""


@dataclasses.dataclass(frozen=True)
class Request:
    """The checked arguments of one call of attention, and the platform that it will run on."""

    q: Array  # [..., T, N, H]
    k: Array  # [..., S, K, H]
    v: Array  # [..., S, K, Hv]
    mask: Mask | None
    bias: Array | Callable[[Array, Array], Array] | None  # [..., 1|N, 1|T, 1|S], or a function of indices
    scale: float | Array
    soft_cap: float | Array | None
    dropout_rate: float
    key: Key | None
    platform: str  # "cpu", "gpu" or "tpu"
    shard: Shard | None = None  # the part of this device, where a mesh shards the call


def _no_limits(request: Request) -> Iterator[str]:
    return iter(())


def _always() -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a backend supports. The defaults are everything but a sharded sequence."""

    masks: frozenset[str] = frozenset(_MASK_NAMES.values())
    """Masks that ``&`` may join: names of constructors, and "|" and "~" for the operators."""
    offsets: str = "traced"
    """Query offsets: "traced", also one per sequence; "static", one int; "none", T == S only."""
    bias: frozenset[str] = frozenset({"array", "function"})
    """Forms of the bias. Its gradient is always supported."""
    soft_cap: bool = True
    dropout: bool = True
    grouped_heads: bool = True
    traced_numbers: bool = True
    """Whether scale and soft cap may be traced."""
    value_size: bool = True
    """Whether Hv may differ from H."""
    symbolic_lengths: bool = True
    """Whether T and S may be symbols of ``jax.export``."""
    dtypes: frozenset[str] = FLOATS
    platforms: frozenset[str] | None = None
    """None: all."""
    sharded: str | tuple[str, ...] | None = None
    """The mapped axis, if q, k and v are one device's part of a sequence that is sharded over it."""
    sharded_dropout: bool = False
    """Whether the function also takes ``shard``, a ``Shard``, for dropout by indices in the full arrays."""
    forward_mode: bool = True
    """Whether forward mode, ``jax.jvp``, works; reverse mode always does."""
    is_installed: Callable[[], bool] = _always
    """Whether this host can trace it: asked on hosts of other platforms than its own."""
    limits: Callable[[Request], Iterator[str]] = _no_limits
    """Further reasons why the backend does not support a request."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """An implementation of attention: a pure function and its capabilities."""

    name: str
    attention: Callable[..., Array]
    """(q, k, v, mask, bias, *, scale, soft_cap, dropout_rate, key) -> [..., T, N, Hv]"""
    capabilities: Capabilities

    def unsupported(self, request: Request) -> tuple[str, ...]:
        """The reasons why it does not support a request; empty where it does."""
        return tuple(_reasons(self.capabilities, request))


def _reasons(capabilities: Capabilities, request: Request) -> Iterator[str]:
    platforms, dtypes = capabilities.platforms, capabilities.dtypes
    if platforms is not None and request.platform not in platforms:
        yield f"runs on {_names(platforms)}, not on {request.platform}"
    if request.q.dtype.name not in dtypes:
        yield f"supports {_names(dtypes)}, not {request.q.dtype}"
    yield from _mask_reasons(capabilities, request.mask)
    form = "function" if callable(request.bias) else "array"
    if request.bias is not None and form not in capabilities.bias:
        other = f", only as {_names(capabilities.bias)}" if capabilities.bias else ""
        yield f"does not support a bias as {form}{other}"
    if request.soft_cap is not None and not capabilities.soft_cap:
        yield "does not support soft_cap"
    dropped = request.key is not None and request.dropout_rate
    if dropped and not capabilities.dropout:
        yield "does not support dropout"
    elif dropped and request.shard is not None and not capabilities.sharded_dropout:
        yield "does not support dropout on a mesh, which would be another one on each mesh"
    numbers = (request.scale, request.soft_cap)
    if not capabilities.traced_numbers and any(isinstance(x, jax.core.Tracer) for x in numbers):
        yield "needs scale and soft_cap that are known before tracing"
    yield from _shape_reasons(capabilities, request)


def _mask_reasons(capabilities: Capabilities, mask: Mask | None) -> Iterator[str]:
    names = {_MASK_NAMES.get(type(node), type(node).__name__) for node in nodes(mask)}
    if not names <= capabilities.masks:
        unsupported = _names(names - capabilities.masks)
        yield f"does not support {unsupported} in a mask, only {_names(capabilities.masks)}"
    if capabilities.offsets == "traced":
        return
    for node in nodes(mask):
        offset = getattr(node, "offset", None)
        if offset is not None and not isinstance(offset, int):
            yield f"needs the offset of {node.expression()} as one Python int"
        elif offset and capabilities.offsets == "none":
            yield f"does not support the offset of {node.expression()}: query 0 is at key 0"


def _shape_reasons(capabilities: Capabilities, request: Request) -> Iterator[str]:
    T, N, H = request.q.shape[-3:]
    S, K, Hv = *request.k.shape[-3:-1], request.v.shape[-1]
    if N != K and not capabilities.grouped_heads:
        yield f"needs as many key/value heads as query heads, not K = {K} with N = {N}"
    if Hv != H and not capabilities.value_size:
        yield f"needs values of the queries' size, not Hv = {Hv} with H = {H}"
    if not capabilities.symbolic_lengths and any(map(jax.export.is_symbolic_dim, (T, S))):
        yield f"needs lengths that are known before tracing, not T = {T}, S = {S}"
        return  # the limits compare lengths
    yield from capabilities.limits(request)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
