"""What the laws of masks are tried on: attention whose mask is said in words, not drawn as a table."""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.attention import AttentionCase, AttentionShape, cases, identity, square
from tfm_jax.ops import masks

__all__ = ["MaskedCase", "MaskedSubject", "ahead", "described", "drawn", "mask_by_words"]


@dataclasses.dataclass(frozen=True)
class MaskedCase(AttentionCase):
    """Arguments of one call: ``mask`` is the table that the words in ``given`` stand for."""

    given: Mapping[str, Any]

    def __str__(self) -> str:
        words = ", ".join(f"{name}={_shown(value)}" for name, value in self.given.items())
        return f"attend(q, k, v, {words})\n{super().__str__()}"

    def but(self, **words: Any) -> "MaskedCase":
        """With other words, None for one to leave out; the table is theirs."""
        given = {name: x for name, x in {**self.given, **words}.items() if x is not None}
        (B, T), S = self.q.shape[:2], self.k.shape[1]
        return dataclasses.replace(self, given=given, mask=drawn(B, T, S, **given))


def _shown(value: Any) -> str:
    return str(value.tolist() if isinstance(value, np.ndarray) else value)


def drawn(
    B: int,
    T: int,
    S: int,
    *,
    causal: bool = False,
    prefix: Any = None,
    window: int | None = None,
    segments: Any = None,
    lengths: Any = None,
    offset: int = 0,
) -> np.ndarray:
    """The table that the words stand for, bool [B, 1, T, S]."""
    at, keys = offset + np.arange(T)[:, None], np.arange(S)
    table = np.broadcast_to(keys <= at if causal else True, (B, 1, T, S))
    column = lambda x: np.asarray(x)[:, None, None, None]
    if prefix is not None:
        table = table | (keys < column(prefix))
    if window is not None:
        table = table & (keys > at - window)
    if segments is not None:
        table = table & (segments[:, None, offset : offset + T, None] == segments[:, None, None])
    if lengths is not None:
        table = table & (keys < column(lengths))
    return table


def mask_by_words(
    T: int,
    *,
    causal: bool = False,
    prefix: Any = None,
    window: int | None = None,
    segments: Any = None,
    lengths: Any = None,
    offset: Any = None,
) -> masks.Mask | None:
    """The words as our own function takes them, for T queries: a mask that keeps its structure.

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


def ahead(shape: AttentionShape) -> bool:
    """Queries fit in between the keys."""
    return shape.T <= shape.S


@st.composite
def described(draw, *words: str, perhaps: tuple[str, ...] = (), shortest: int = 1) -> MaskedCase:
    """A case with these words, and perhaps some of others; ``lengths`` are at least ``shortest``."""
    words = [*words, *(word for word in perhaps if draw(st.booleans()))]
    x = draw(cases(masked=False, fits=ahead if "offset" in words else square))
    (B, T), S = x.q.shape[:2], x.k.shape[1]
    # Of a long row few lengths and windows: each is compiled by itself.
    some = lambda low: st.integers(low, S) if S < 9 else st.sampled_from((low, 5, 20, S))
    each = lambda low: np.array([draw(some(low)) for _ in range(B)], np.int32)
    draws = {
        "causal": lambda: True,
        "prefix": lambda: each(0),
        "window": lambda: draw(some(1)),
        "segments": lambda: sum((np.arange(S) >= each(0)[:, None]).astype(np.int32) for _ in range(2)),
        "lengths": lambda: each(shortest),
        "offset": lambda: draw(st.integers(0, S - T)),
    }
    parts = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
    return MaskedCase(**parts, given={}).but(**{word: draws[word]() for word in words})


class MaskedSubject(Subject):
    """A function of q, k, v and words for the mask, asked as the laws of masks ask it.

    It is given the words that a case has, and those alone: what it has no parameter for, it refuses.

    Args:
      function: takes JAX arrays q [B, T, N, H], k and v [B, S, K, H]; gives [B, T, N, H]. Its words, each by
        name: ``causal=True``, the keys at and before a query's position; ``prefix`` int [B], beside them the
        first so many keys; ``window`` int >= 1, of these the last so many up to the query's position (it
        comes with ``causal``); ``segments`` int [B, S], only keys of the id that stands at the query's
        position; ``lengths`` int [B], only the first so many keys; ``offset`` int, the position of query 0
        among the keys, 0 where it is not given.
    """

    def __call__(self, q: Any, k: Any, v: Any, **given: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        out = self.given(lambda: np.asarray(self.raw(*map(jnp.asarray, (q, k, v)), **given)))
        return of_shape(out, (*q.shape[:3], v.shape[-1]), "[B, T, N, H]")

    def raw(self, q: Any, k: Any, v: Any, **given: Any) -> Any:
        """The function itself: arrays become JAX's, what is True or an int stays."""
        words = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
        return self.function(q, k, v, **words)

    def gradient(self, q: Any, k: Any, v: Any, slope: Any, **given: Any) -> Any:
        """By q, k and v the gradient of the output's sum with these weights."""
        loss = lambda *x: jnp.sum(self.raw(*x, **given) * slope)
        return self.given(lambda: jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, (q, k, v))))

    def weights(self, q: Any, k: Any, **given: Any) -> np.ndarray:
        """[B, N, T, S], read from the output: of values that are the identity it is the weights."""
        return np.moveaxis(self(q, k, identity(k), **given)[..., : k.shape[1]], 1, 2)
