"""Cases of attention with a dense mask, its subject, and attention in NumPy float64."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import show
from tfm_jax.laws.strategies import AttentionShape
from tfm_jax.laws.subject import AnyArray, Function, check_shape
from tfm_jax.laws.suites.cases.head_sizes import SizedSubject
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = [
    "AttentionCase",
    "AttentionSubject",
    "attention_weights",
    "cases",
    "causal",
    "diagonal_unmasked",
    "first_query_masked",
    "gradients_of",
    "has_unmasked_key",
    "identity_values",
    "no_fully_masked_row",
    "some_key_masked",
    "square",
    "weighted_sum",
]


def square(shape: AttentionShape) -> bool:
    """Whether there are as many queries as keys."""
    return shape.T == shape.S


@dataclasses.dataclass(frozen=True)
class AttentionCase(Seeded):
    """The arguments of one call of attention."""

    q: np.ndarray  # float32 [B, T, N, H]
    k: np.ndarray  # float32 [B, S, K, H]
    v: np.ndarray  # float32 [B, S, K, H]
    mask: np.ndarray  # bool [B, 1, T, S]
    seed: int

    @property
    def unmasked(self) -> np.ndarray:
        """The mask, broadcast to the heads, bool [B, N, T, S]."""
        B, T, N, _ = self.q.shape
        return np.broadcast_to(self.mask, (B, N, T, self.k.shape[1]))

    @property
    def some_key(self) -> int:
        """The index of one key, the same for the same case."""
        return self.seed % self.k.shape[1]

    @property
    def some_query(self) -> int:
        """The index of one query, the same for the same case."""
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
    """Random arrays of the shapes that fit, with a random mask, or with an all-True one unless ``masked``."""
    shape = draw(strategies.attention_shapes(fits))
    seed = draw(strategies.seeds())
    q, k, v = draw(strategies.qkv(shape, seed=seed))
    if masked:
        mask = draw(strategies.dense_masks(shape.B, shape.T, shape.S))
    else:
        mask = np.ones((shape.B, 1, shape.T, shape.S), bool)
    return AttentionCase(q, k, v, mask, seed)


def no_fully_masked_row(x: AttentionCase) -> AttentionCase:
    """The case with fully masked rows unmasked: their output is the subject of another law."""
    return dataclasses.replace(x, mask=x.mask | ~x.mask.any(-1, keepdims=True))


def first_query_masked(x: AttentionCase) -> AttentionCase:
    """The case with query 0 fully masked."""
    return dataclasses.replace(x, mask=x.mask & (np.arange(x.q.shape[1]) > 0)[:, None])


def some_key_masked(x: AttentionCase) -> AttentionCase:
    """The case with ``some_key`` masked for every query, and no fully masked row: for two keys or more."""
    other = np.arange(x.k.shape[1]) != x.some_key
    mask = x.mask & other
    return dataclasses.replace(x, mask=mask | (other & ~mask.any(-1, keepdims=True)))


def causal(x: AttentionCase) -> AttentionCase:
    """The case with a causal mask."""
    return dataclasses.replace(x, mask=np.broadcast_to(np.tri(x.q.shape[1], dtype=bool), x.mask.shape))


def diagonal_unmasked(x: AttentionCase) -> AttentionCase:
    """The case in which each query may attend to the key at its position."""
    return dataclasses.replace(x, mask=x.mask | np.eye(x.q.shape[1], dtype=bool))


def has_unmasked_key(x: AttentionCase) -> np.ndarray:
    """Which queries may attend to at least one key, bool [B, T, N, 1]."""
    return np.moveaxis(np.asarray(x.unmasked.any(-1)), 1, 2)[..., None]


class AttentionSubject(SizedSubject):
    """Attention, ``function(q, k, v, mask)``.

    Args:
      function: takes JAX arrays q [B, T, N, H], k and v [B, S, K, H], and the mask; returns [B, T, N, H].
      mask: converts a bool array [B, 1, T, S], True = may attend, to the mask that the function takes.
      kv_heads: "any", or "equal" for a function that supports K = N only.
      heads: the one N that the function supports, such as a module; None for any.
      head_dim: the one H that the function supports, at least 4; None for any.
    """

    def __init__(
        self,
        function: Function,
        *,
        mask: Callable[[Any], Any] = lambda table: table,
        kv_heads: str = "any",
        heads: int | None = None,
        head_dim: int | None = None,
    ):
        super().__init__(function, kv_heads=kv_heads, heads=heads, head_dim=head_dim)
        self.mask = mask

    def __call__(self, q: AnyArray, k: AnyArray, v: AnyArray, mask: AnyArray | None = None) -> np.ndarray:
        """The output, its shape checked."""
        return check_shape(super().__call__(q, k, v, mask), (*q.shape[:3], v.shape[-1]), "[B, T, N, H]")

    def raw(self, q: AnyArray, k: AnyArray, v: AnyArray, mask: AnyArray | None = None) -> Any:
        """The function, called with a converted mask."""
        return self.function(q, k, v, None if mask is None else self.mask(jnp.asarray(mask)))

    @functools.cached_property
    def gradient(self) -> Function:
        """(q, k, v, mask, cotangent) -> the gradients of sum(output * cotangent) by q, k and v."""

        def loss(q: AnyArray, k: AnyArray, v: AnyArray, mask: AnyArray, cotangent: AnyArray) -> Any:
            return jnp.sum(self.raw(q, k, v, mask) * cotangent)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

    def weights(self, q: AnyArray, k: AnyArray, mask: AnyArray | None = None) -> np.ndarray:
        """The attention weights [B, N, T, S]: the output for identity values."""
        return np.moveaxis(self(q, k, identity_values(k), mask)[..., : k.shape[1]], 1, 2)


def attention_weights(q: AnyArray, k: AnyArray, mask: AnyArray) -> np.ndarray:
    """softmax(q k^T / sqrt(H)) in float64, [B, N, T, S]; 0 in a fully masked row."""
    H = q.shape[-1]
    k = np.repeat(np.asarray(k, np.float64), q.shape[2] // k.shape[2], axis=2)
    logits = np.einsum("btnh,bsnh->bnts", np.asarray(q, np.float64), k) / np.sqrt(H)
    logits = np.where(mask, logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    e = np.exp(logits - np.where(np.isfinite(top), top, 0))
    return e / np.maximum(e.sum(-1, keepdims=True), np.finfo(float).tiny)


def weighted_sum(weights: AnyArray, v: AnyArray) -> np.ndarray:
    """The values [B, S, K, H], summed with weights [B, N, T, S], in float64."""
    v = np.repeat(np.asarray(v, np.float64), weights.shape[1] // v.shape[2], axis=2)
    return np.einsum("bnts,bsnh->btnh", weights, v)


def gradients_of(
    x: AttentionCase, cotangent: AnyArray, scale: Any = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of sum(output * cotangent) by q, k and v, in float64.

    ``scale`` is what dropout multiplies the attention weights by, [B, N, T, S].
    """
    (B, S, K, H), N = x.k.shape, x.q.shape[2]
    weights = attention_weights(x.q, x.k, x.mask)
    k, v = (np.repeat(y.astype(np.float64), N // K, axis=2) for y in (x.k, x.v))
    by_weights = scale * np.einsum("btnh,bsnh->bnts", cotangent, v)
    by_logits = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True)) / np.sqrt(H)

    def sum_of_group(y: np.ndarray) -> np.ndarray:  # several query heads share a key/value head
        return y.reshape(B, S, K, N // K, H).sum(3)

    return (
        np.einsum("bnts,bsnh->btnh", by_logits, k),
        sum_of_group(np.einsum("bnts,btnh->bsnh", by_logits, x.q)),
        sum_of_group(np.einsum("bnts,btnh->bsnh", scale * weights, cotangent)),
    )


def identity_values(k: AnyArray) -> np.ndarray:
    """Values [B, S, K, H] for which the first S elements of an output are its weights."""
    B, S, K, H = k.shape
    return np.broadcast_to(np.eye(S, H, dtype=k.dtype)[None, :, None], (B, S, K, H))
