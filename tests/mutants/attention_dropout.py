"""Mutants of dropout on attention weights."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants import attention
from tests.mutants._mutant import Mutant


def draw_kept(key, rate, shape):
    return jax.random.bernoulli(key, 1 - rate, shape)


def scale(weights, kept, rate):
    return jnp.where(kept, weights / (1 - rate), 0)


def same_mask(mask, rate):
    return mask


def attend(q, k, v, mask, rate, key, *, draw_kept=draw_kept, scale=scale, change_mask=same_mask):
    def softmax(logits):
        return scale(attention.softmax(logits), draw_kept(key, rate, logits.shape), rate)

    return attention.attend(q, k, v, change_mask(mask, rate), softmax=softmax)


def dropout_on_logits(q, k, v, mask, rate, key):
    def masked_logits(logits, mask):
        return attention.masked_logits(scale(logits, draw_kept(key, rate, logits.shape), rate), mask)

    return attention.attend(q, k, v, mask, masked_logits=masked_logits)


def other_backward(gradient_of):
    """Dropout whose backward pass is ``gradient_of(cotangent, kept, rate)``."""

    @jax.custom_vjp
    def wrong_scale(weights, kept, rate):
        return scale(weights, kept, rate)

    wrong_scale.defvjp(
        lambda weights, kept, rate: (scale(weights, kept, rate), (kept, rate)),
        lambda saved, cotangent: (gradient_of(cotangent, *saved), None, None),
    )
    return functools.partial(attend, scale=wrong_scale)


def shared_along(*axes):
    """One draw for all elements along these axes."""

    def draw(key, rate, shape):
        smaller = [1 if axis in axes else n for axis, n in enumerate(shape)]
        return jnp.broadcast_to(draw_kept(key, rate, smaller), shape)

    return draw


def shared_by_tiles_of_8(key, rate, shape):
    B, N, T, S = shape
    tiles = -(-T // 8)
    return jnp.tile(draw_kept(key, rate, (B, N, 8, S)), (1, 1, tiles, 1))[:, :, :T]


CALLS = itertools.count()


def draw_from_state(key, rate, shape):
    count = jax.pure_callback(lambda: np.int32(next(CALLS)), jax.ShapeDtypeStruct((), jnp.int32))
    return draw_kept(jax.random.fold_in(key, count), rate, shape)


def variant(**parts):
    return functools.partial(attend, **parts)


RIGHT = attend
MUTANTS = {
    "the mask is ignored with dropout": Mutant(
        variant(change_mask=lambda mask, rate: mask | (rate > 0)),
        ["mask_applies_under_dropout", "dropped_or_scaled"],
        "keras-team/keras#23038",
    ),
    "dropout is computed and not used": Mutant(
        variant(
            draw_kept=lambda key, rate, shape: jnp.ones(shape, bool),
            scale=lambda weights, kept, rate: weights,
        ),
        ["dropped_fraction_is_the_rate", "different_keys_differ"],
        "zhouhaoyi/Informer2020#97",
    ),
    "kept weights are not scaled": Mutant(
        variant(scale=lambda weights, kept, rate: jnp.where(kept, weights, 0)),
        ["dropped_or_scaled", "expectation_is_preserved"],
    ),
    "the backward pass multiplies by the rate": Mutant(
        other_backward(lambda cotangent, kept, rate: jnp.where(kept, cotangent * rate, 0)),
        ["backward_uses_the_same_mask"],
        "NVIDIA/apex#816",
    ),
    "the backward pass drops nothing": Mutant(
        other_backward(lambda cotangent, kept, rate: cotangent), ["backward_uses_the_same_mask"]
    ),
    "the rate is the keep probability": Mutant(
        variant(draw_kept=lambda key, rate, shape: draw_kept(key, 1 - rate, shape)),
        ["dropped_fraction_is_the_rate", "rate_0_drops_nothing"],
    ),
    "logits are dropped": Mutant(dropout_on_logits, ["dropped_or_scaled"]),
    "examples and heads share a draw": Mutant(
        variant(draw_kept=shared_along(0, 1)), ["draws_are_independent"]
    ),
    "tiles of queries share a draw": Mutant(
        variant(draw_kept=shared_by_tiles_of_8), ["draws_are_independent"]
    ),
    "queries share a draw": Mutant(variant(draw_kept=shared_along(2)), ["draws_are_independent"]),
    "the key is ignored": Mutant(
        variant(draw_kept=lambda key, rate, shape: draw_kept(jax.random.key(0), rate, shape)),
        ["different_keys_differ"],
    ),
    "draws depend on a hidden state": Mutant(variant(draw_kept=draw_from_state), ["same_key_same_output"]),
}
