"""Scaled dot-product attention: the public functions, the choice of a backend, and the argument checks."""

import dataclasses
import math
from typing import TypeGuard

import jax
import jax.core
import jax.numpy as jnp

from tfm_jax.checks import as_array, as_key, check_shapes
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend
from tfm_jax.ops.backends.capabilities import FLOATS, Request
from tfm_jax.ops.backends.common import Bias
from tfm_jax.ops.backends.dispatch import attend, attend_weights, choose
from tfm_jax.ops.dropout import check_rate
from tfm_jax.ops.tracing import current_platform, platform_of
from tfm_jax.types import Array, Key

__all__ = ["Explanation", "attention", "attention_weights", "explain_attention"]


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
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))  # 0 in fully masked rows
        jnp.einsum("...NTS,...SNH->...TNH", dropout(weights, dropout_rate, key), v)

    Args:
      q: [..., T, N, H] queries, floating; [...] are any leading dims, or none.
      k: [..., S, K, H] keys, of q's dtype and leading dims; K divides N: head n reads k's head n // (N / K).
      v: [..., S, K, Hv] values, of q's dtype and leading dims.
      mask: a mask of ``tfm_jax.ops.masks``, or a bool array [T, S], [..., T, S] or [..., N, T, S]; True = may
        attend. None: all queries attend to all keys.
      bias: [N|1, T|1, S|1] or [..., N|1, T|1, S|1] floating, added to the logits after the soft cap; -inf
        masks the position. Or a function of int32 (query, key) indices that returns such an array,
        ``bias(jnp.arange(T), jnp.arange(S))``: it is evaluated one tile at a time, and is differentiable in
        the arrays it closes over. (Inside ``shard_map``, pass a ``jax.tree_util.Partial`` of those arrays.)
      scale: the factor of the logits, finite; None is 1 / sqrt(H).
      soft_cap: bounds the logits to (-soft_cap, soft_cap), finite and > 0; None is no cap.
      dropout_rate: the probability, in [0, 1), that a weight is dropped (the others are scaled up).
      key: a PRNG key, which is consumed, or None for no dropout.
      implementation: a name in ``tfm_jax.ops.backends.BACKENDS``, a ``Backend``, or "auto": the fastest one
        that supports all arguments (``explain_attention`` shows which one, and why).

    Returns:
      [..., T, N, Hv] of q's dtype. A fully masked row, a query that may attend to no key, has output 0 and
      gradient 0. NaN or Inf at a masked position never reaches the output or any gradient; under a mask, a
      query that reads one gives NaN. (A position that only a bias of -inf masks must be finite.) Values are
      summed before the division: S values near the largest float may overflow to Inf.

    Raises:
      TypeError: under ``jax.jvp``, from a backend that supports reverse mode only.
      ValueError: at trace time, for a shape, rank, dtype, mask, bias, rate, scale or soft_cap that does not
        fit, or an implementation that does not support an argument (a traced scale or soft_cap is not
        checked).

    Vaswani et al. 2017, "Attention Is All You Need", equation 1; grouped heads: Ainslie et al. 2023, "GQA",
    section 2.2; soft cap: Gemma Team 2024, "Gemma 2", section 2.
    """
    numbers = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": dropout_rate}
    return attend(_check_arguments(q, k, v, mask, bias, **numbers, key=key), implementation)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which implementation of attention runs, and why each other one does not; as text, one line each.

    Args:
      implementation: the name of the one that runs; None if the one that was named does not support the call.
      platform: "cpu", "gpu" or "tpu".
      reasons: by name, why each implementation does not support the call; empty where it does.
      auto: whether it was chosen by "auto".
      devices: the number of devices of the mesh that shards the call.
    """

    implementation: str | None
    platform: str
    reasons: dict[str, tuple[str, ...]]
    auto: bool
    devices: int = 1

    def __str__(self) -> str:
        where = self.platform if self.devices == 1 else f"{self.platform}, {self.devices} devices"
        lines = [f"attention on {where}: {self.implementation or 'unsupported'}"]
        for name, reasons in self.reasons.items():
            if name != self.implementation:
                lines.append(f"  {name}: {'; '.join(reasons) or self._supported(name)}")
        return "\n".join(lines)

    def _supported(self, name: str) -> str:
        if BACKENDS[name].capabilities.sharded:
            return "supported, for a sequence that is sharded over devices"
        return "supported, but slower" if self.auto else "supported"


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
    """Explains which implementation ``attention`` runs for these arguments, and why not the others.

    Equivalent to::

        {name: backend.unsupported(arguments) for name, backend in ops.backends.BACKENDS.items()}

    Args:
      q, k, v, mask, bias: as in ``attention``; the arrays may be ``jax.ShapeDtypeStruct``.
      scale, soft_cap, dropout_rate, key, implementation: as in ``attention``.

    Returns:
      An ``Explanation``, to read or print. Its ``implementation`` is None where the named one does not
      support the arguments.

    Raises:
      ValueError: as ``attention``, except for an implementation that does not support the arguments.
    """
    numbers = {"scale": scale, "soft_cap": soft_cap, "dropout_rate": dropout_rate}
    request = _check_arguments(q, k, v, mask, bias, **numbers, key=key)
    backend, layout, local = choose(implementation, request)
    # The chosen one last: a user's backend may have the name of another.
    candidates = BACKENDS | {backend.name: backend}
    reasons = {name: candidate.unsupported(local) for name, candidate in candidates.items()}
    chosen = None if reasons[backend.name] else backend.name
    devices = 1 if layout is None else layout.mesh.size
    return Explanation(chosen, request.platform, reasons, implementation == "auto", devices)


def attention_weights(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    mask: masks.Mask | Array | None = None,
    bias: Bias | None = None,  # [N|1, T|1, S|1] or [..., N|1, T|1, S|1]
    *,
    scale: float | Array | None = None,
    soft_cap: float | None = None,
) -> Array:  # [..., N, T, S]
    """Attention weights: how much each query of each head attends to each key.

    Equivalent to::

        k = jnp.repeat(k, N // K, axis=-2)
        logits = jnp.einsum("...TNH,...SNH->...NTS", q, k) / jnp.sqrt(H)  # in float32
        logits = soft_cap * jnp.tanh(logits / soft_cap) + bias
        jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))  # 0 in fully masked rows

    Args:
      q: [..., T, N, H] queries, floating.
      k: [..., S, K, H] keys, of q's dtype and leading dims; K divides N.
      mask: as in ``attention``.
      bias: as in ``attention``.
      scale: as in ``attention``.
      soft_cap: as in ``attention``.

    Returns:
      [..., N, T, S] of q's dtype, in [0, 1], before any dropout. A row sums to 1, or is 0 throughout if it is
      fully masked; masked positions are exactly 0.

    Raises:
      ValueError: a shape, rank, dtype, mask, bias, scale or soft_cap that does not fit, at trace time.

    Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    return attend_weights(_check_arguments(q, k, k, mask, bias, scale=scale, soft_cap=soft_cap))


def _check_arguments(
    q: Array,
    k: Array,
    v: Array,
    mask: masks.Mask | Array | None,
    bias: Bias | None,
    *,
    scale: float | Array | None,
    soft_cap: float | Array | None,
    dropout_rate: float = 0.0,
    key: Key | None = None,
) -> Request:
    """Checks all arguments but the sizes of the mask, and converts each to one form.

    The mask becomes a Mask, the bias gets all of its axes, scale and soft cap become numbers.
    """
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
            f"attention: got scale={scale!r}, soft_cap={soft_cap!r}; wanted a scalar for each, or None. "
            "For one scale per head, multiply q by it."
        )
    scale, soft_cap = _as_number(scale), _as_number(soft_cap)
    if _is_static(soft_cap) and not 0 < soft_cap < math.inf:
        raise ValueError(
            f"attention: got soft_cap={soft_cap}; wanted a finite number > 0, or None for no cap."
        )
    if _is_static(scale) and not -math.inf < scale < math.inf:
        raise ValueError(f"attention: got scale={scale}; wanted a finite number, or None for 1 / sqrt(H).")
    check_rate("attention", dropout_rate, "dropout_rate")
    key = None if key is None else as_key("attention", key)
    platform = platform_of(q) or current_platform()
    factor = H**-0.5 if scale is None else scale
    return Request(q, k, v, mask, bias, factor, soft_cap, dropout_rate, key, platform)


def _check_heads(q: Array, k: Array, v: Array) -> None:
    check_shapes(
        "attention",
        q=(q, "... T N H", "float"),
        k=(k, "... S K H", q.dtype),
        v=(v, "... S K Hv", q.dtype),
        fix={
            "rank": "Pass one head as N = 1.",
            "...": "Broadcast them first.",
            "dtype": "Cast with .astype(q.dtype).",
        },
    )
    N, H, K = q.shape[-2], q.shape[-1], k.shape[-2]
    if H == 0 or K == 0 or N % K:
        raise ValueError(
            f"attention: got q {_format_shape(q)}, k {_format_shape(k)}; wanted q [..., T, N, H], k [..., S, "
            f"K, H] where H is at least 1 and K divides N, but H = {H}, N = {N}, K = {K}."
        )


def _check_bias(bias: Bias, batch: tuple[int, ...], sizes: tuple[int, int, int]) -> Bias:
    _, T, S = sizes
    if isinstance(bias, masks.Mask):
        raise ValueError("attention: got a mask as bias; wanted an array or a function. Pass it as mask=...")
    if callable(bias):
        queries, keys = (jax.ShapeDtypeStruct((n,), jnp.int32) for n in (T, S))
        array = jax.eval_shape(bias, queries, keys)
        if not isinstance(array, jax.ShapeDtypeStruct):
            raise ValueError(f"attention: got a bias function that returns {array}; wanted one array.")
        _check_bias_array(array, batch, sizes)
        return bias
    bias = as_array("attention", "bias", bias)
    _check_bias_array(bias, batch, sizes)
    shape = (*(1,) * (len(batch) + 3 - bias.ndim), *bias.shape)
    if isinstance(bias, jax.ShapeDtypeStruct):
        # ``explain_attention`` takes structs for arrays.
        return jax.ShapeDtypeStruct(shape, bias.dtype)  # pyright: ignore[reportReturnType]
    return bias.reshape(shape)


def _check_bias_array(
    bias: Array | jax.ShapeDtypeStruct, batch: tuple[int, ...], sizes: tuple[int, int, int]
) -> None:
    N, T, S = sizes
    check_shapes(
        "attention",
        bias=(bias, "...|1 N|1 T|1 S|1", "float"),
        sizes={"...": batch, "N": N, "T": T, "S": S},
        fix={"dtype": "It is added to the logits: pass a boolean array as mask=..."},
    )


def _as_number(x: float | Array | None) -> float | Array | None:
    """A Python float where the value is concrete, a floating array where it is traced."""
    if x is None or isinstance(x, jax.core.Tracer):
        return x if x is None or jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    return float(x)


def _is_static(x: float | Array | None) -> TypeGuard[float]:
    return x is not None and not isinstance(x, jax.core.Tracer)


def _format_shape(x: Array) -> str:
    return f"[{', '.join(map(str, x.shape))}]"
