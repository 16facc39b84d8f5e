"""The laws of dropout on attention's weights: of any ``attend(q, k, v, mask, rate, key) -> out``.

What is dropped is read from the output, of values that are the identity. What a law says of chance is wrong
once in a million keys, and the keys are the same every time.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, law, same
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.attention import (
    AttentionCase,
    AttentionShape,
    cases,
    identity,
    mix,
    never_empty,
    slopes_of,
    weights_of,
)

__all__ = ["AttentionDropoutSubject", "attention_dropout"]

RATE = 0.4  # not what is kept
SIGMAS = 5


class AttentionDropoutSubject(Subject):
    """A function of ``(q, k, v, mask, rate, key)``, asked as the laws of dropout ask it.

    Args:
      function: takes JAX arrays q [B, T, N, H], k and v [B, S, K, H], mask bool [B, 1, T, S], True = may
        attend, the probability that a weight is dropped, and a typed key; gives [B, T, N, H].
    """

    def __call__(self, x: AttentionCase, *, v: Any = None, rate: float = RATE, seed: int = 0) -> np.ndarray:
        """The output for the case, with these values instead of its own; ``seed`` is of the key."""
        arrays = [jnp.asarray(y) for y in (x.q, x.k, x.v if v is None else v)]
        call = lambda: np.asarray(self.raw(x, *arrays, rate, seed))
        return of_shape(self.given(call), x.q.shape, "[B, T, N, H]")

    def raw(self, x: AttentionCase, q: Any, k: Any, v: Any, rate: float = RATE, seed: int = 0) -> Any:
        """The function itself, of these arrays and of the case's mask and key."""
        return self.function(q, k, v, jnp.asarray(x.mask), rate, jax.random.key(seed + x.seed))

    def gradient(self, x: AttentionCase, slope: Any) -> Any:
        """By q, k and v the gradient of the output's sum with these weights."""
        loss = lambda *arrays: jnp.sum(self.raw(x, *arrays) * slope)
        return self.given(lambda: jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, (x.q, x.k, x.v))))

    def weights(self, x: AttentionCase, seed: int = 0) -> np.ndarray:
        """[B, N, T, S], after dropout."""
        return np.moveaxis(self(x, v=identity(x.k), seed=seed)[..., : x.k.shape[1]], 1, 2)


def many(shape: AttentionShape) -> bool:
    """So many weights that no two draws are the same by chance."""
    return shape.B * shape.N * shape.T * shape.S >= 90


def of_all_axes(shape: AttentionShape) -> bool:
    """Several rows, heads and queries."""
    return min(shape.B, shape.N, shape.T) > 1 and many(shape)


@law(cases())
def rate_0_drops_nothing(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """At a rate of 0 a key changes nothing."""
    some = np.moveaxis(x.open.any(-1), 1, 2)[..., None]
    got, wanted = attend(x, rate=0.0), mix(weights_of(x.q, x.k, x.mask), x.v)
    same(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


@law(cases().map(never_empty))
def dropped_or_scaled(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """A weight is dropped, or divided by 1 - rate: the mask and the softmax are as without dropout."""
    got, plain = attend.weights(x), weights_of(x.q, x.k, x.mask)
    same(got, np.where(got == 0, 0, plain / (1 - RATE)), atol=2 * TOLERANCE, what="weights after dropout")


@law(cases().map(never_empty))
def mask_holds_under_dropout(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """With dropout too, what the mask closes to a query does not change its output by one bit."""
    at = x.some_key
    k, v = x.k.copy(), x.v.copy()
    k[:, at] *= -2
    v[:, at] += 7
    unseen = np.moveaxis(~x.open[..., at], 1, 2)[..., None]
    got, wanted = attend(dataclasses.replace(x, k=k, v=v)), attend(x)
    same(
        np.where(unseen, got, 0),
        np.where(unseen, wanted, 0),
        what=f"output of those to whom key {at} is closed, with another key and value there",
    )


@law(cases().map(never_empty))
def same_key_same_output(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The same key drops the same weights."""
    same(attend(x), attend(x))


@law(cases(masked=False, fits=many))
def another_key_drops_others(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """Another key drops other weights."""
    if np.array_equal(attend.weights(x, seed=1) == 0, attend.weights(x, seed=2) == 0):
        raise Violation("weights dropped: got the same ones for two keys")


@law(cases(masked=False, fits=many))
def rate_is_the_share(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The share of the weights that are dropped is the rate."""
    dropped = attend.weights(x) == 0
    got, error = dropped.mean(), SIGMAS * np.sqrt(RATE * (1 - RATE) / dropped.size)
    if abs(got - RATE) > error:
        raise Violation(f"dropped: got {got:.3f} of {dropped.size} weights, wanted {RATE} +- {error:.3f}")


@law(cases(masked=False, fits=many))
def nothing_is_lost_on_average(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """On average over what is dropped, the output is that without dropout."""
    got, plain = attend.weights(x), weights_of(x.q, x.k, x.mask)
    error = SIGMAS * np.sqrt((plain**2).sum() * RATE / (1 - RATE))
    if abs(got.sum() - plain.sum()) > error:
        raise Violation(f"sum of weights: got {got.sum():.2f}, wanted {plain.sum():.2f} +- {error:.2f}")


@law(cases(masked=False, fits=of_all_axes))
def each_draws_its_own(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """No two rows of the batch, heads or queries share what they drop."""
    dropped = attend.weights(x) == 0
    for axis, what in enumerate(("rows of the batch", "heads", "queries")):
        parts = np.moveaxis(dropped, axis, 0).reshape(dropped.shape[axis], -1)
        if (parts == parts[:1]).all():
            raise Violation(f"weights dropped: got the same ones for all {len(parts)} {what}")
        # Of 128 weights two draws are the same with a probability of 1e-36.
        if parts.shape[1] >= 128 and len(np.unique(parts, axis=0)) < len(parts):
            raise Violation(f"weights dropped: got the same ones for two of {len(parts)} {what}")


@law(cases().map(never_empty))
def backward_drops_the_same(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The gradients are those of the weights that the forward pass has kept."""
    slope = x.rng.standard_normal(x.q.shape).astype(np.float32)
    kept = np.where(attend.weights(x) == 0, 0, 1 / (1 - RATE))
    wanted = slopes_of(x.q, x.k, x.v, x.mask, slope, kept)
    for name, ours, right in zip("qkv", attend.gradient(x, slope), wanted, strict=True):
        same(ours, right, atol=5 * TOLERANCE, what=f"gradient by {name}")


attention_dropout = Suite(
    "attention_dropout",
    "attend(q [B, T, N, H], k [B, S, K, H], v [B, S, K, H], mask bool [B, 1, T, S], rate float, key) "
    "-> [B, T, N, H]",
    AttentionDropoutSubject,
    tuple(found for found in list(globals().values()) if isinstance(found, Law)),
)
