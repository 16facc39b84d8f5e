"""Cases of attention with a structured mask: causal, window, segments, lengths, prefix, offset."""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.strategies import AttentionShape
from tfm_jax.laws.subject import AnyArray, check_shape
from tfm_jax.laws.suites.cases.attention import AttentionCase, cases, identity_values, square
from tfm_jax.laws.suites.cases.head_sizes import SizedSubject
from tfm_jax.ops import masks
from tfm_jax.types import Array

__all__ = [
    "MaskedCase",
    "MaskedSubject",
    "dense_mask",
    "masked_cases",
    "queries_fit_in_keys",
    "structured_mask",
]


@dataclasses.dataclass(frozen=True)
class MaskedCase(AttentionCase):
    """The arguments of one call; ``mask`` is the dense mask that ``mask_args`` describe."""

    mask_args: Mapping[str, Any]

    def __str__(self) -> str:
        args = ", ".join(f"{name}={_as_text(value)}" for name, value in self.mask_args.items())
        return f"attend(q, k, v, {args})\n{super().__str__()}"

    def replace_mask(self, **mask_args: Any) -> "MaskedCase":
        """The case with these mask arguments changed, or removed where None; the dense mask follows."""
        merged = {name: x for name, x in {**self.mask_args, **mask_args}.items() if x is not None}
        (B, T), S = self.q.shape[:2], self.k.shape[1]
        return dataclasses.replace(self, mask_args=merged, mask=dense_mask(B, T, S, **merged))


def _as_text(value: Any) -> str:
    return str(value.tolist() if isinstance(value, np.ndarray) else value)


def dense_mask(
    B: int,
    T: int,
    S: int,
    *,
    causal: bool = False,
    prefix: AnyArray | None = None,
    window: int | None = None,
    segments: AnyArray | None = None,
    lengths: AnyArray | None = None,
    offset: int = 0,
) -> np.ndarray:
    """The dense mask that these arguments of ``MaskedSubject`` describe, bool [B, 1, T, S]."""
    positions, keys = offset + np.arange(T)[:, None], np.arange(S)
    mask = np.broadcast_to(keys <= positions if causal else True, (B, 1, T, S))
    if prefix is not None:
        mask = mask | (keys < np.asarray(prefix)[:, None, None, None])
    if window is not None:
        mask = mask & (keys > positions - window)
    if segments is not None:
        mask = mask & (segments[:, None, offset : offset + T, None] == segments[:, None, None])
    if lengths is not None:
        mask = mask & (keys < np.asarray(lengths)[:, None, None, None])
    return mask


def structured_mask(
    T: int,
    *,
    causal: bool = False,
    prefix: Array | None = None,
    window: int | None = None,
    segments: Array | None = None,
    lengths: Array | None = None,
    offset: Any = None,
) -> masks.Mask | None:
    """The ``ops.masks`` mask that these arguments of ``MaskedSubject`` describe, for T queries.

    Equivalent to::

        masks.causal(offset) & masks.window(window - 1, offset=offset) & masks.prefix(lengths)
    """
    parts = []
    if causal:
        parts.append(masks.causal(offset) if prefix is None else masks.causal(offset) | masks.prefix(prefix))
    if window is not None:
        parts.append(masks.window(window - 1, offset=offset))
    if segments is not None:
        ids = jax.lax.dynamic_slice_in_dim(segments, 0 if offset is None else offset, T, axis=1)
        parts.append(masks.segments(ids, segments))
    if lengths is not None:
        parts.append(masks.prefix(lengths))
    return functools.reduce(operator.and_, parts) if parts else None


def queries_fit_in_keys(shape: AttentionShape) -> bool:
    """Whether there are at most as many queries as keys."""
    return shape.T <= shape.S


@st.composite
def masked_cases(draw, *names: str, optional: tuple[str, ...] = (), shortest: int = 1) -> MaskedCase:
    """Cases with these mask arguments and some optional ones; ``lengths`` are at least ``shortest``."""
    names = (*names, *(name for name in optional if draw(st.booleans())))
    x = draw(cases(masked=False, fits=queries_fit_in_keys if "offset" in names else square))
    (B, T), S = x.q.shape[:2], x.k.shape[1]
    draws = {
        "causal": st.just(True),
        "prefix": strategies.lengths(B, S, shortest=0),
        "window": strategies.lengths(1, S).map(lambda drawn: int(drawn[0])),
        "segments": strategies.segment_ids(B, S),
        "lengths": strategies.lengths(B, S, shortest=shortest),
        "offset": st.integers(0, S - T),
    }
    fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
    return MaskedCase(**fields, mask_args={}).replace_mask(**{name: draw(draws[name]) for name in names})


class MaskedSubject(SizedSubject):
    """Attention with a structured mask, ``function(q, k, v, causal=, window=, segments=, ...)``.

    The function gets the mask arguments of a case and no others. It does not support a case with an argument
    that it does not take.

    Args:
      function: takes JAX arrays q [B, T, N, H], k and v [B, S, K, H], and mask arguments by name; returns
        [B, T, N, H]. ``causal=True``: the keys up to the query's position. ``prefix`` int [B]: besides, the
        first keys. ``window`` int >= 1, with ``causal``: of these, the last ones up to the query's position.
        ``segments`` int [B, S]: only keys of the segment at the query's position. ``lengths`` int [B]: only
        the first keys. ``offset`` int: the position of query 0 among the keys, 0 where it is not passed.
      kv_heads: "any", or "equal" for a function that supports K = N only.
      heads: the one N that the function supports, such as a module; None for any.
      head_dim: the one H that the function supports, at least 4; None for any.
    """

    def __call__(self, q: AnyArray, k: AnyArray, v: AnyArray, **mask_args: Any) -> np.ndarray:
        """The output, its shape checked."""
        out = self.run(lambda: np.asarray(self.raw(*map(jnp.asarray, (q, k, v)), **mask_args)))
        return check_shape(out, (*q.shape[:3], v.shape[-1]), "[B, T, N, H]")

    def raw(self, q: AnyArray, k: AnyArray, v: AnyArray, **mask_args: Any) -> Any:
        """The function, called with JAX arrays; True and ints stay as they are."""
        args = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in mask_args.items()}
        return self.function(q, k, v, **args)

    def gradient(self, q: AnyArray, k: AnyArray, v: AnyArray, cotangent: AnyArray, **mask_args: Any) -> Any:
        """The gradients of sum(output * cotangent) by q, k and v."""

        def loss(*arrays: Array) -> Any:
            return jnp.sum(self.raw(*arrays, **mask_args) * cotangent)

        return self.run(lambda: jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, (q, k, v))))

    def weights(self, q: AnyArray, k: AnyArray, **mask_args: Any) -> np.ndarray:
        """The attention weights [B, N, T, S]: the output for identity values."""
        return np.moveaxis(self(q, k, identity_values(k), **mask_args)[..., : k.shape[1]], 1, 2)
