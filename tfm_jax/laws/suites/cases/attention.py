"""What the laws of attention are tried on: small cases, and the function asked with care."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import show
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = [
    "AttentionCase",
    "AttentionShape",
    "AttentionSubject",
    "cases",
    "causal",
    "first_query_closed",
    "identity",
    "mix",
    "never_empty",
    "self_seeing",
    "slopes_of",
    "square",
    "weights_of",
]


class AttentionShape(NamedTuple):
    """The sizes of a case, in the letters of ``tfm_jax.types``."""

    B: int
    T: int
    S: int
    N: int
    K: int
    H: int


# B, T, S, N, K, H, the simplest first: few, for each is compiled by itself. S <= H, to read weights. The last
# is for what works tile by tile.
SHAPES = tuple(
    AttentionShape(*sizes)
    for sizes in (
        (1, 1, 1, 1, 1, 4),
        (1, 1, 2, 1, 1, 4),
        (1, 2, 2, 1, 1, 4),
        (1, 2, 3, 2, 2, 4),
        (1, 3, 2, 2, 2, 4),
        (2, 3, 3, 2, 1, 4),
        (2, 3, 4, 4, 2, 4),
        (1, 5, 5, 6, 3, 16),
        (2, 43, 43, 2, 2, 48),
    )
)


def square(shape: AttentionShape) -> bool:
    """Every query stands at the key of its number."""
    return shape.T == shape.S


@dataclasses.dataclass(frozen=True)
class AttentionCase(Seeded):
    """Arguments of one call, and what a law wants beside them."""

    q: np.ndarray  # float32 [B, T, N, H]
    k: np.ndarray  # float32 [B, S, K, H]
    v: np.ndarray  # float32 [B, S, K, H]
    mask: np.ndarray  # bool [B, 1, T, S]
    seed: int

    @property
    def open(self) -> np.ndarray:
        """The mask a head, bool [B, N, T, S]."""
        B, T, N, _ = self.q.shape
        return np.broadcast_to(self.mask, (B, N, T, self.k.shape[1]))

    @property
    def some_key(self) -> int:
        """One of the keys, the same for the same case."""
        return self.seed % self.k.shape[1]

    @property
    def some_query(self) -> int:
        """One of the queries, the same for the same case."""
        return self.seed % self.q.shape[1]

    def __str__(self) -> str:
        (B, T, N, H), (S, K) = self.q.shape, self.k.shape[1:3]
        lines = [f"B = {B}, T = {T}, S = {S}, N = {N}, K = {K}, H = {H}; mask (# = may attend):"]
        for table in self.mask[:, 0]:
            lines += ["  " + " ".join(".#"[int(x)] for x in row) for row in table] + [""] * (B > 1)
        lines += [f"{name} = {show(x)}" for name, x in zip("qkv", (self.q, self.k, self.v), strict=True)]
        return "\n".join(lines)


@st.composite
def cases(
    draw, masked: bool = True, fits: Callable[[AttentionShape], bool] = lambda shape: True
) -> AttentionCase:
    B, T, S, N, K, H = draw(st.sampled_from([shape for shape in SHAPES if fits(shape)]))
    seed = draw(SEEDS)
    rng = np.random.default_rng(seed)
    draws = (rng.standard_normal((B, *x)).round(1) for x in ((T, N, H), (S, K, H), (S, K, H)))
    n = -(-B * T * S // 8)
    bits = draw(st.binary(min_size=n, max_size=n)) if masked else bytes(n)
    closed = np.unpackbits(np.frombuffer(bits, np.uint8), count=B * T * S).astype(bool).reshape(B, 1, T, S)
    return AttentionCase(*(x.astype(np.float32) for x in draws), ~closed, seed)


def never_empty(x: AttentionCase) -> AttentionCase:
    """Open to everything where a row would be empty: what that gives is a law by itself."""
    return dataclasses.replace(x, mask=x.mask | ~x.mask.any(-1, keepdims=True))


def first_query_closed(x: AttentionCase) -> AttentionCase:
    """With nothing open to query 0."""
    return dataclasses.replace(x, mask=x.mask & (np.arange(x.q.shape[1]) > 0)[:, None])


def causal(x: AttentionCase) -> AttentionCase:
    """With the decoder's mask."""
    return dataclasses.replace(x, mask=np.broadcast_to(np.tri(x.q.shape[1], dtype=bool), x.mask.shape))


def self_seeing(x: AttentionCase) -> AttentionCase:
    """With every query open to itself."""
    return dataclasses.replace(x, mask=x.mask | np.eye(x.q.shape[1], dtype=bool))


class AttentionSubject(Subject):
    """A function of ``(q, k, v, mask)``, asked as the laws of attention ask it.

    Args:
      function: takes JAX arrays q [B, T, N, H], k and v [B, S, K, H], and the mask; gives [B, T, N, H].
      mask: makes of a bool array [B, 1, T, S], True = may attend, the mask that the function takes.
    """

    def __init__(self, function: Callable[..., Any], *, mask: Callable[[Any], Any] = lambda table: table):
        super().__init__(function)
        self.mask = mask

    def __call__(self, q: Any, k: Any, v: Any, mask: Any = None) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(q, k, v, mask), (*q.shape[:3], v.shape[-1]), "[B, T, N, H]")

    def raw(self, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        """The function itself, its mask made."""
        return self.function(q, k, v, None if mask is None else self.mask(jnp.asarray(mask)))

    @functools.cached_property
    def gradient(self) -> Callable[..., Any]:
        """(q, k, v, mask, weight) -> by q, k and v the gradient of the output's sum with these weights."""
        loss = lambda q, k, v, mask, weight: jnp.sum(self.raw(q, k, v, mask) * weight)
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

    def weights(self, q: Any, k: Any, mask: Any = None) -> np.ndarray:
        """[B, N, T, S], read from the output: of values that are the identity it is the weights."""
        return np.moveaxis(self(q, k, identity(k), mask)[..., : k.shape[1]], 1, 2)


def weights_of(q: Any, k: Any, mask: Any) -> np.ndarray:
    """Weights [B, N, T, S] in float64, as the paper defines them; 0 in an empty row."""
    H = q.shape[-1]
    k = np.repeat(np.asarray(k, np.float64), q.shape[2] // k.shape[2], axis=2)
    logits = np.einsum("btnh,bsnh->bnts", np.asarray(q, np.float64), k) / np.sqrt(H)
    logits = np.where(mask, logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    e = np.exp(logits - np.where(np.isfinite(top), top, 0))
    return e / np.maximum(e.sum(-1, keepdims=True), np.finfo(float).tiny)


def mix(weights: Any, v: Any) -> np.ndarray:
    v = np.repeat(np.asarray(v, np.float64), weights.shape[1] // v.shape[2], axis=2)
    return np.einsum("bnts,bsnh->btnh", weights, v)


def slopes_of(
    q: Any, k: Any, v: Any, mask: Any, slope: Any, kept: Any = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By q, k and v the gradient in float64 of the output's sum with the weights ``slope``.

    ``kept`` is what dropout has multiplied attention's weights by, [B, N, T, S].
    """
    (B, S, K, H), N = k.shape, q.shape[2]
    weights = weights_of(q, k, mask)
    k, v = (np.repeat(y.astype(np.float64), N // K, axis=2) for y in (k, v))
    by_weights = kept * np.einsum("btnh,bsnh->bnts", slope, v)
    by_logits = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True)) / np.sqrt(H)
    served = lambda y: y.reshape(B, S, K, N // K, H).sum(3)  # a key/value head has many query heads
    return (
        np.einsum("bnts,bsnh->btnh", by_logits, k),
        served(np.einsum("bnts,btnh->bsnh", by_logits, q)),
        served(np.einsum("bnts,btnh->bsnh", kept * weights, slope)),
    )


def identity(k: Any) -> np.ndarray:
    """Values of which the output is the weights, in its first S places."""
    B, S, K, H = k.shape
    return np.broadcast_to(np.eye(S, H, dtype=k.dtype)[None, :, None], (B, S, K, H))
