"""The arguments of attention, checked at the door: what was got, what was wanted, how to mend it."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from tfm_jax.checks import as_array, as_key
from tfm_jax.ops import masks
from tfm_jax.ops.backends.contract import Bias
from tfm_jax.ops.backends.declare import FLOATS, Request
from tfm_jax.ops.dropout import check_rate
from tfm_jax.ops.platform import current_platform
from tfm_jax.types import Array, Key

__all__ = ["checked"]


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
