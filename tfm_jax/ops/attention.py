"""Attention: the public functions, their checks at the door, and the choice of an implementation."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from tfm_jax.checks import as_array, as_key
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend, by_speed, reference
from tfm_jax.ops.backends.capabilities import FLOATS, Request
from tfm_jax.ops.backends.common import Bias
from tfm_jax.ops.dropout import check_rate
from tfm_jax.ops.tracing import current_platform
from tfm_jax.types import Array, Key

__all__ = ["Explanation", "attention", "attention_weights", "checked", "explain_attention"]


def attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | Array | None = None,
    bias: Bias | None = None,  # [N|1, T|1, S|1] or [..., N|1, T|1, S|1]
    *,
    scale: float | Array | None = None,
    soft_cap: float | None = None,
    dropout_rate: float = 0.0,
    key: Key | None = None,
    implementation: str | Backend = "auto",
) -> Array:  # [..., T, N, Hv]
    """Scaled dot-product attention with N query heads and K key/value heads (MHA, GQA, MQA).

    Equivalent to::

        k, v = (jnp.repeat(x, N // K, axis=-2) for x in (k, v))
        logits = jnp.einsum("...TNH,...SNH->...NTS", q, k) / jnp.sqrt(H)  # in float32
        logits = soft_cap * jnp.tanh(logits / soft_cap) + bias
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))  # but 0 in an empty row
        jnp.einsum("...NTS,...SNH->...TNH", dropout(weights, dropout_rate, key), v)

    Args:
      q: [..., T, N, H] queries, floating; [...] are any leading dims, none included.
      k: [..., S, K, H] keys, of q's dtype and leading dims; K divides N: head n reads k's head n // (N / K).
      v: [..., S, K, Hv] values, of q's dtype and leading dims.
      mask: who may attend to whom: a mask of ``tfm_jax.ops.masks``, or a bool array [T, S], [..., T, S] or
        [..., N, T, S]; True = may attend. None: everyone to everything.
      bias: [N|1, T|1, S|1] or [..., N|1, T|1, S|1] floating, added to the logits after the soft cap; where
        it is -inf, the query may not attend. Or a function that gives such a table of int32 indices of
        queries and of keys, ``bias(jnp.arange(T), jnp.arange(S))``: it is asked tile by tile, and what it
        closes over has gradients. (Inside ``shard_map``, a ``jax.tree_util.Partial`` that names its arrays.)
      scale: what the logits are multiplied by, finite; None is 1 / sqrt(H).
      soft_cap: logits are squashed into (-soft_cap, soft_cap), finite and > 0; None is no cap.
      dropout_rate: the probability, in [0, 1), that a weight is dropped (the others are scaled up).
      key: a PRNG key, which is consumed, or None for no dropout.
      implementation: a name in ``tfm_jax.ops.backends.BACKENDS``, a ``Backend``, or "auto": the fastest of
        them that honours all that was passed (``explain_attention`` says which, and why).

    Returns:
      [..., T, N, Hv] of q's dtype. A query that may attend to nothing gives 0, with gradient 0. Queries,
      keys and values that are nan or inf reach no output and no gradient of those that ``mask`` closes to
      them; under a mask, a query that reads one gives nan. (What only a bias of -inf hides must be finite.)
      Values are summed before they are divided: S of them near the largest float may give inf.

    Raises:
      TypeError: under ``jax.jvp``, from an implementation that has a backward pass alone.
      ValueError: a shape, rank, dtype, mask, bias, rate, scale or soft_cap that does not fit, or an
        implementation that does not honour what was passed, at trace time (a scale or soft_cap that is
        traced is not looked at).

    Vaswani et al. 2017, "Attention Is All You Need", equation 1; grouped heads: Ainslie et al. 2023, "GQA",
    section 2.2; soft cap: Gemma Team 2024, "Gemma 2", section 2.
    """
    r = checked(q, k, v, mask, bias, scale, soft_cap, dropout_rate, key)
    backend = _choose(implementation, r)
    if reasons := backend.unsupported(r):
        able = [repr(name) for name, other in BACKENDS.items() if not other.unsupported(r)]
        raise ValueError(
            f"attention: implementation={backend.name!r} cannot do this: it {'; it '.join(reasons)}. "
            f"Those that can: {', '.join(['auto', *able])}."
        )
    _check_mask(backend, r)
    options = {"scale": r.scale, "soft_cap": r.soft_cap, "dropout_rate": r.dropout_rate, "key": r.key}
    try:
        return backend.attention(r.q, r.k, r.v, r.mask, r.bias, **options)
    except TypeError as error:
        if backend.capabilities.forward_mode or "forward-mode" not in str(error):
            raise
        raise TypeError(
            f"attention: implementation={backend.name!r} has a backward pass alone, for jax.grad and "
            "jax.vjp; under jax.jvp and jax.jacfwd name 'reference'."
        ) from error


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which implementation runs, and why each other one does not; as text, a line each.

    Args:
      implementation: the name of the one that runs; None if what was asked for is refused.
      platform: "cpu", "gpu" or "tpu".
      refused: why each of the others cannot, by name: no reason for those that could.
      auto: whether it was chosen, or named.
    """

    implementation: str | None
    platform: str
    refused: dict[str, tuple[str, ...]]
    auto: bool

    def __str__(self) -> str:
        lines = [f"attention on {self.platform}: {self.implementation or 'refused'}"]
        for name, reasons in self.refused.items():
            if name != self.implementation:
                could = "could, and is slower" if self.auto else "could"
                if not reasons and BACKENDS[name].capabilities.spread:
                    could = "could, if the sequence is spread over devices"
                lines.append(f"  {name}: {'; '.join(reasons) or could}")
        return "\n".join(lines)


def explain_attention(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
    mask: masks.Mask | Array | None = None,
    bias: Bias | None = None,  # [N|1, T|1, S|1] or [..., N|1, T|1, S|1]
    *,
    scale: float | Array | None = None,
    soft_cap: float | None = None,
    dropout_rate: float = 0.0,
    key: Key | None = None,
    implementation: str | Backend = "auto",
) -> Explanation:
    """Says which implementation ``attention`` runs of these arguments, and why not the others.

    Equivalent to::

        {name: backend.unsupported(arguments) for name, backend in ops.backends.BACKENDS.items()}

    Args:
      q, k, v, mask, bias: as in ``attention``; ``jax.ShapeDtypeStruct`` will do for the arrays.
      scale, soft_cap, dropout_rate, key, implementation: as in ``attention``.

    Returns:
      An ``Explanation``, to be read or printed. Where the implementation that was named cannot, its
      ``implementation`` is None.

    Raises:
      ValueError: as ``attention``, but for an implementation that refuses.
    """
    request = checked(q, k, v, mask, bias, scale, soft_cap, dropout_rate, key)
    backend = _choose(implementation, request)
    _check_mask(backend, request)
    # Its own last: a backend of one's own may have the name of another.
    every = BACKENDS | {backend.name: backend}
    refused = {name: other.unsupported(request) for name, other in every.items()}
    chosen = None if refused[backend.name] else backend.name
    return Explanation(chosen, request.platform, refused, implementation == "auto")


def attention_weights(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    mask: masks.Mask | Array | None = None,
    bias: Bias | None = None,  # [N|1, T|1, S|1] or [..., N|1, T|1, S|1]
    *,
    scale: float | Array | None = None,
    soft_cap: float | None = None,
) -> Array:  # [..., N, T, S]
    """How much each query of each head attends to each key.

    Equivalent to::

        k = jnp.repeat(k, N // K, axis=-2)
        logits = jnp.einsum("...TNH,...SNH->...NTS", q, k) / jnp.sqrt(H)  # in float32
        logits = soft_cap * jnp.tanh(logits / soft_cap) + bias
        jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))  # but 0 in an empty row

    Args:
      q: [..., T, N, H] queries, floating.
      k: [..., S, K, H] keys, of q's dtype and leading dims; K divides N.
      mask: as in ``attention``.
      bias: as in ``attention``.
      scale: as in ``attention``.
      soft_cap: as in ``attention``.

    Returns:
      [..., N, T, S] of q's dtype, in [0, 1], before any dropout. A row sums to 1, or is 0 throughout where
      the query may attend to nothing; what it may not attend to is exactly 0.

    Raises:
      ValueError: a shape, rank, dtype, mask, bias, scale or soft_cap that does not fit, at trace time.

    Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    r = checked(q, k, k, mask, bias, scale, soft_cap, 0.0, None)
    return reference.attention_weights(r.q, r.k, r.mask, r.bias, scale=r.scale, soft_cap=r.soft_cap)


def _choose(implementation: str | Backend, request: Request) -> Backend:
    """The backend that is asked for, whether it can or not; for "auto" the first that can."""
    if isinstance(implementation, Backend):
        return implementation
    if implementation == "auto":
        return next(backend for backend in by_speed(request) if not backend.unsupported(request))
    if not isinstance(implementation, str) or implementation not in BACKENDS:
        known = ", ".join(map(repr, ["auto", *BACKENDS]))
        raise ValueError(
            f"attention: got implementation={implementation!r}; wanted one of {known}, or a Backend."
        )
    return BACKENDS[implementation]


def _check_mask(backend: Backend, request: Request) -> None:
    """Raises where the mask does not fit. Where the sequence is spread, the backend knows the whole."""
    if request.mask is not None and not backend.capabilities.spread:
        *batch, T, N, _ = request.q.shape
        masks.check_fits(request.mask, tuple(batch), N, T, request.k.shape[-3])


def _check_heads(q: Array, k: Array, v: Array) -> None:
    got = f"q {_shape(q)}, k {_shape(k)}, v {_shape(v)}"
    wanted = "wanted q [..., T, N, H], k [..., S, K, H], v [..., S, K, Hv]"
    if not q.ndim == k.ndim == v.ndim >= 3:
        raise ValueError(f"attention: got {got}; {wanted}, all of one rank >= 3. Give one head as N = 1.")
    if not q.shape[:-3] == k.shape[:-3] == v.shape[:-3]:
        raise ValueError(
            f"attention: got {got}; {wanted} with equal leading dims [...]. Broadcast them first."
        )
    if q.shape[-1] == 0:
        raise ValueError(f"attention: got {got}; {wanted} where H is 1 or more.")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"attention: got {got}; {wanted} with equal H, but q has {q.shape[-1]}, k {k.shape[-1]}."
        )
    if k.shape[-3:-1] != v.shape[-3:-1]:
        raise ValueError(f"attention: got {got}; {wanted} with equal S and K of k and v.")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise ValueError(
            f"attention: got {got}; {wanted} where K divides N, but N = {q.shape[-2]} and K = {k.shape[-2]}."
        )
    if not (q.dtype == k.dtype == v.dtype and jnp.issubdtype(q.dtype, jnp.floating)):
        raise ValueError(
            f"attention: got dtypes q {q.dtype}, k {k.dtype}, v {v.dtype}; wanted one floating dtype. "
            "Cast with .astype(q.dtype)."
        )


def checked(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    bias: Any,
    scale: Any,
    soft_cap: Any,
    dropout_rate: float,
    key: Key | None,
) -> Request:
    """The arguments of ``ops.attention``: the mask a Mask, the bias with all of its axes, numbers numbers."""
    q, k, v = (as_array("attention", name, x) for name, x in (("q", q), ("k", k), ("v", v)))
    _check_heads(q, k, v)
    *batch, T, N, H = q.shape
    mask = masks.as_mask(mask, len(batch))
    if bias is not None:
        bias = _check_bias(bias, tuple(batch), (N, T, k.shape[-3]))
    if q.dtype.name not in FLOATS:
        raise ValueError(f"attention: got dtype {q.dtype}; wanted one of {', '.join(sorted(FLOATS))}.")
    if any(x is not None and jnp.ndim(x) for x in (scale, soft_cap)):
        raise ValueError(
            f"attention: got scale={scale!r}, soft_cap={soft_cap!r}; wanted a scalar each, or None. "
            "For a scale a head, multiply q by it."
        )
    scale, soft_cap = _number(scale), _number(soft_cap)
    if _is_known(soft_cap) and not 0 < soft_cap < math.inf:
        raise ValueError(
            f"attention: got soft_cap={soft_cap}; wanted a finite number > 0, or None for no cap."
        )
    if _is_known(scale) and not -math.inf < scale < math.inf:
        raise ValueError(f"attention: got scale={scale}; wanted a finite number, or None for 1 / sqrt(H).")
    check_rate("attention", dropout_rate, "dropout_rate")
    key = None if key is None else as_key("attention", key)
    scale = H**-0.5 if scale is None else scale
    return Request(q, k, v, mask, bias, scale, soft_cap, dropout_rate, key, current_platform())


def _number(x: Any) -> float | Array | None:
    """A Python number where it is known, floating where it is traced."""
    if x is None or isinstance(x, jax.core.Tracer):
        return x if x is None or jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    return float(x)


def _is_known(x: float | Array | None) -> bool:
    return x is not None and not isinstance(x, jax.core.Tracer)


def _check_bias(bias: Any, batch: tuple[int, ...], last: tuple[int, int, int]) -> Bias:
    _, T, S = last
    if isinstance(bias, masks.Mask):
        raise ValueError("attention: got a mask as the bias; pass it as mask=...")
    if callable(bias):
        index = lambda n: jax.ShapeDtypeStruct((n,), jnp.int32)
        table = jax.eval_shape(bias, index(T), index(S))
        if not isinstance(table, jax.ShapeDtypeStruct):
            raise ValueError(f"attention: got a bias that is a function and gives {table}; wanted one array.")
        _check_table(table, batch, last)
        return bias
    bias = as_array("attention", "bias", bias)
    _check_table(bias, batch, last)
    shape = (*(1,) * (len(batch) + 3 - bias.ndim), *bias.shape)
    return (
        jax.ShapeDtypeStruct(shape, bias.dtype)
        if isinstance(bias, jax.ShapeDtypeStruct)
        else bias.reshape(shape)
    )


def _check_table(bias: Any, batch: tuple[int, ...], last: tuple[int, int, int]) -> None:
    N, T, S = last
    if not jnp.issubdtype(bias.dtype, jnp.floating):
        raise ValueError(
            f"attention: got a bias of dtype {bias.dtype}; wanted a floating one, which is added to the "
            "logits. A boolean table is a mask: pass it as mask=..."
        )
    shape = (*(batch if bias.ndim == len(batch) + 3 else ()), N, T, S)
    if bias.ndim != len(shape) or any(n not in (1, size) for n, size in zip(bias.shape, shape, strict=True)):
        raise ValueError(
            f"attention: got a bias {_shape(bias)}; wanted [N|1, T|1, S|1] or [..., N|1, T|1, S|1], where "
            f"[...] = {list(batch)}, N = {N}, T = {T}, S = {S} (a size of [...] may also be 1)."
        )


def _shape(x: Array) -> str:
    return f"[{', '.join(map(str, x.shape))}]"
