"""The laws of dropout on attention weights, ``attend(q, k, v, mask, rate, key) -> out``.

The laws read the dropped weights from the output for identity values. A statistical law fails for one key in
a million; the keys are the same in every run.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, assert_close, law
from tfm_jax.laws.strategies import AttentionShape
from tfm_jax.laws.subject import AnyArray, check_shape
from tfm_jax.laws.suites.cases.attention import (
    AttentionCase,
    attention_weights,
    cases,
    gradients_of,
    has_unmasked_key,
    identity_values,
    no_fully_masked_row,
    weighted_sum,
)
from tfm_jax.laws.suites.cases.head_sizes import SizedSubject
from tfm_jax.types import Array

__all__ = ["AttentionDropoutSubject", "attention_dropout"]

RATE = 0.4  # not 0.5, to tell the rate from 1 - rate
SIGMAS = 5


class AttentionDropoutSubject(SizedSubject):
    """Attention with dropout, ``function(q, k, v, mask, rate, key)``.

    Args:
      function: takes JAX arrays q [B, T, N, H], k and v [B, S, K, H], mask bool [B, 1, T, S], True = may
        attend, the probability that a weight is dropped, and a typed key; returns [B, T, N, H].
      kv_heads: "any", or "equal" for a function that supports K = N only.
      heads: the one N that the function supports, such as a module; None for any.
      head_dim: the one H that the function supports, at least 4; None for any.
    """

    def __call__(
        self, x: AttentionCase, *, v: AnyArray | None = None, rate: float = RATE, seed: int = 0
    ) -> np.ndarray:
        """The output for the case, with other values if ``v``; ``seed`` is added to the case's seed."""
        q, k, v = (jnp.asarray(y) for y in (x.q, x.k, x.v if v is None else v))
        out = self.run(lambda: np.asarray(self.raw(x, q, k, v, rate, seed)))
        return check_shape(out, x.q.shape, "[B, T, N, H]")

    def raw(
        self, x: AttentionCase, q: AnyArray, k: AnyArray, v: AnyArray, rate: float = RATE, seed: int = 0
    ) -> Any:
        """The function, called with these arrays and the case's mask and key."""
        return self.function(q, k, v, jnp.asarray(x.mask), rate, jax.random.key(seed + x.seed))

    def gradient(self, x: AttentionCase, cotangent: AnyArray) -> Any:
        """The gradients of sum(output * cotangent) by q, k and v."""

        def loss(q: Array, k: Array, v: Array) -> Any:
            return jnp.sum(self.raw(x, q, k, v) * cotangent)

        return self.run(lambda: jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, (x.q, x.k, x.v))))

    def weights(self, x: AttentionCase, seed: int = 0) -> np.ndarray:
        """The attention weights after dropout, [B, N, T, S]."""
        return np.moveaxis(self(x, v=identity_values(x.k), seed=seed)[..., : x.k.shape[1]], 1, 2)


def many_weights(shape: AttentionShape) -> bool:
    """Whether there are so many weights that two independent draws always differ."""
    return shape.B * shape.N * shape.T * shape.S >= 90


def several_per_axis(shape: AttentionShape) -> bool:
    """Whether there are several examples, heads and queries."""
    return min(shape.B, shape.N, shape.T) > 1 and many_weights(shape)


@law(cases())
def rate_0_drops_nothing(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """At rate 0 the output is that without dropout."""
    some = has_unmasked_key(x)
    got, wanted = attend(x, rate=0.0), weighted_sum(attention_weights(x.q, x.k, x.mask), x.v)
    assert_close(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


@law(cases().map(no_fully_masked_row))
def dropped_or_scaled(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """Each weight is 0, or the weight without dropout divided by 1 - rate."""
    got, plain = attend.weights(x), attention_weights(x.q, x.k, x.mask)
    wanted = np.where(got == 0, 0, plain / (1 - RATE))
    assert_close(got, wanted, atol=2 * TOLERANCE, what="weights after dropout")


@law(cases().map(no_fully_masked_row))
def mask_applies_under_dropout(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """With dropout, too, masked keys and values do not change the output by one bit."""
    at = x.some_key
    k, v = x.k.copy(), x.v.copy()
    k[:, at] *= -2
    v[:, at] += 7
    masked = np.moveaxis(~x.unmasked[..., at], 1, 2)[..., None]
    got, wanted = attend(dataclasses.replace(x, k=k, v=v)), attend(x)
    assert_close(
        np.where(masked, got, 0),
        np.where(masked, wanted, 0),
        what=f"output of queries for which key {at} is masked, with another key and value there",
    )


@law(cases().map(no_fully_masked_row))
def same_key_same_output(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The same key drops the same weights."""
    assert_close(attend(x), attend(x))


@law(cases(masked=False, fits=many_weights))
def different_keys_differ(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """Different keys drop different weights."""
    if np.array_equal(attend.weights(x, seed=1) == 0, attend.weights(x, seed=2) == 0):
        raise Violation("dropped weights: got the same ones for two keys; wanted others")


@law(cases(masked=False, fits=many_weights))
def dropped_fraction_is_the_rate(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The fraction of dropped weights is the rate."""
    dropped = attend.weights(x) == 0
    got, error = dropped.mean(), SIGMAS * np.sqrt(RATE * (1 - RATE) / dropped.size)
    if abs(got - RATE) > error:
        raise Violation(f"dropped: got {got:.3f} of {dropped.size} weights; wanted {RATE} +- {error:.3f}")


@law(cases(masked=False, fits=many_weights))
def expectation_is_preserved(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The expected weights are those without dropout."""
    got, plain = attend.weights(x), attention_weights(x.q, x.k, x.mask)
    error = SIGMAS * np.sqrt((plain**2).sum() * RATE / (1 - RATE))
    if abs(got.sum() - plain.sum()) > error:
        raise Violation(f"sum of weights: got {got.sum():.2f}; wanted {plain.sum():.2f} +- {error:.2f}")


@law(cases(masked=False, fits=several_per_axis))
def draws_are_independent(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """No two examples, heads or queries share a dropout mask."""
    dropped = attend.weights(x) == 0
    for axis, what in enumerate(("examples", "heads", "queries")):
        parts = np.moveaxis(dropped, axis, 0).reshape(dropped.shape[axis], -1)
        if len(parts) > 1 and (parts == parts[:1]).all():
            raise Violation(f"dropped weights: got the same for all {len(parts)} {what}; wanted others")
        # Two independent draws of 128 weights are equal with a probability of 1e-36.
        if parts.shape[1] >= 128 and len(np.unique(parts, axis=0)) < len(parts):
            raise Violation(f"dropped weights: got the same for two of {len(parts)} {what}; wanted others")


@law(cases().map(no_fully_masked_row))
def backward_uses_the_same_mask(attend: AttentionDropoutSubject, x: AttentionCase) -> None:
    """The backward pass drops the weights that the forward pass drops."""
    cotangent = x.rng.standard_normal(x.q.shape).astype(np.float32)
    scale = np.where(attend.weights(x) == 0, 0, 1 / (1 - RATE))
    wanted = gradients_of(x, cotangent, scale)
    for name, ours, right in zip("qkv", attend.gradient(x, cotangent), wanted, strict=True):
        assert_close(ours, right, atol=5 * TOLERANCE, what=f"gradient by {name}")


attention_dropout = Suite(
    "attention_dropout",
    "attend(q [B, T, N, H], k [B, S, K, H], v [B, S, K, H], mask bool [B, 1, T, S], rate float, key) "
    "-> [B, T, N, H]",
    AttentionDropoutSubject,
    tuple(found for found in list(globals().values()) if isinstance(found, Law)),
)
