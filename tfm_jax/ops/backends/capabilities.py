"""What an implementation of attention says that it honours, and what it therefore refuses."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export

from tfm_jax.ops.masks.algebra import And, Dense, Mask, Not, Or
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Segments, Window
from tfm_jax.types import Array, Key

__all__ = ["Backend", "Capabilities", "Request", "conjuncts", "nodes"]

KINDS = {
    Causal: "causal",
    Window: "window",
    Padding: "padding",
    Segments: "segments",
    Prefix: "prefix",
    Dense: "dense",
    Or: "|",
    Not: "~",
}
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of one call, checked, and the platform that it will run on."""

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


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a backend can do. What it does not declare, it refuses."""

    masks: frozenset[str] = frozenset(KINDS.values())
    """Kinds that may stand in a mask, joined by ``&``; "|" and "~" are for the algebra."""
    offsets: str = "traced"
    """Of the queries: "traced", also one a row; "static", one int; "none", T == S alone."""
    bias: frozenset[str] = frozenset({"array", "function"})
    """As what a bias may come; its gradient is always honoured with it."""
    soft_cap: bool = True
    dropout: bool = True
    grouped_heads: bool = True
    traced_numbers: bool = True
    """Whether scale and soft cap may be known only when the program runs."""
    value_size: bool = True
    """Whether Hv may differ from H."""
    symbolic_lengths: bool = True
    """Whether T and S may be symbols of ``jax.export``, known when the program runs."""
    dtypes: frozenset[str] = FLOATS
    platforms: frozenset[str] | None = None
    """None: all."""
    spread: bool = False
    """Whether queries and keys are those of one device, of a sequence that is spread over several."""
    forward_mode: bool = True
    """Whether ``jax.jvp`` works, beside ``jax.grad``."""
    also: Callable[[Request], Iterator[str]] = lambda request: iter(())
    """Further things that it cannot do, each said in words."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """An implementation of attention: a pure function, and what it honours."""

    name: str
    attention: Callable[..., Array]
    """(q, k, v, mask, bias, *, scale, soft_cap, dropout_rate, key) -> [..., T, N, Hv]"""
    capabilities: Capabilities

    def unsupported(self, request: Request) -> tuple[str, ...]:
        """Why it cannot do what is asked; empty where it can."""
        return tuple(_reasons(self.capabilities, request))


def conjuncts(mask: Mask | None) -> list[Mask]:
    """The masks that ``&`` joins.

    Equivalent to::

        [*conjuncts(mask.left), *conjuncts(mask.right)] if isinstance(mask, And) else [mask]
    """
    if mask is None:
        return []
    return [*conjuncts(mask.left), *conjuncts(mask.right)] if isinstance(mask, And) else [mask]


def nodes(mask: Mask | None) -> Iterator[Mask]:
    """All that a mask is made of, but for the ``&`` between."""
    if mask is None:
        return
    if not isinstance(mask, And):
        yield mask
    for field in dataclasses.fields(mask):
        inner = getattr(mask, field.name)
        if isinstance(inner, Mask):
            yield from nodes(inner)


def _reasons(can: Capabilities, request: Request) -> Iterator[str]:
    q, k, v = request.q, request.k, request.v
    if can.platforms is not None and request.platform not in can.platforms:
        yield f"runs on {_names(can.platforms)}, not on {request.platform}"
    if q.dtype.name not in can.dtypes:
        yield f"computes {_names(can.dtypes)}, not {q.dtype}"
    kinds = {KINDS.get(type(part), type(part).__name__) for part in nodes(request.mask)}
    if not kinds <= can.masks:
        yield f"cannot do {_names(kinds - can.masks)} in a mask, only {_names(can.masks)}"
    yield from _offset_reasons(can, request)
    form = "function" if callable(request.bias) else "array"
    if request.bias is not None and form not in can.bias:
        other = f", only one that is {_names(can.bias)}" if can.bias else ""
        yield f"takes no bias that is {form}{other}"
    if request.soft_cap is not None and not can.soft_cap:
        yield "has no soft cap"
    if request.key is not None and request.dropout_rate and not can.dropout:
        yield "has no dropout"
    if q.shape[-2] != k.shape[-2] and not can.grouped_heads:
        yield f"wants as many key/value heads as query heads, not {k.shape[-2]} for {q.shape[-2]}"
    if not can.traced_numbers and any(
        isinstance(x, jax.core.Tracer) for x in (request.scale, request.soft_cap)
    ):
        yield "wants scale and soft_cap known before tracing"
    if v.shape[-1] != q.shape[-1] and not can.value_size:
        yield f"wants values of the size of queries, not Hv = {v.shape[-1]} beside H = {q.shape[-1]}"
    T, S = q.shape[-3], k.shape[-3]
    if not can.symbolic_lengths and any(map(jax.export.is_symbolic_dim, (T, S))):
        yield f"wants lengths known before tracing, not T = {T}, S = {S}"
        return  # the further things compare them
    yield from can.also(request)


def _offset_reasons(can: Capabilities, request: Request) -> Iterator[str]:
    if can.offsets == "traced":
        return
    for part in nodes(request.mask):
        offset = getattr(part, "offset", None)
        if offset is not None and not isinstance(offset, int):
            yield f"wants the offset of {part.expression()} as one Python int"
        elif offset and can.offsets == "none":
            yield f"cannot do the offset of {part.expression()}: queries start at key 0"


def _names(names: Any) -> str:
    return ", ".join(sorted(names))
