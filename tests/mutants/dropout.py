"""Mutants of dropout."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants._batching import first_example_serves_all
from tests.mutants._mutant import Mutant

CALLS = itertools.count()


def draw_kept(key, rate, x):
    return jax.random.bernoulli(key, 1 - rate, x.shape)


def scale(x, rate):
    return (x.astype(jnp.float32) / (1 - rate)).astype(x.dtype)


def drop(x, rate, key, *, draw_kept=draw_kept, scale=scale):
    return jnp.where(draw_kept(key, rate, x), scale(x, rate), 0)


def variant(**parts):
    return functools.partial(drop, **parts)


def shared_along(axis):
    """One mask for all elements along an axis."""

    def draw(key, rate, x):
        shape = list(x.shape)
        shape[axis] = 1
        return jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, shape), x.shape)

    return variant(draw_kept=draw)


def equal_halves(key, rate, x):
    half = draw_kept(key, rate, x[: -(-len(x) // 2)])
    return jnp.concatenate([half, half])[: len(x)]


def two_masks(key, rate, x):
    first, second = jax.random.split(key)
    return draw_kept(first, rate, x) & draw_kept(second, rate, x)


def global_generator(key, rate, x):
    def draw(rate):
        return np.random.default_rng(next(CALLS)).random(x.shape) >= rate

    return jax.pure_callback(draw, jax.ShapeDtypeStruct(x.shape, bool), rate, vmap_method="sequential")


def straight_through(x, rate, key):
    return x + jax.lax.stop_gradient(drop(x, rate, key) - x)


RIGHT = drop
MUTANTS = {
    "kept elements are not scaled": Mutant(
        variant(scale=lambda x, rate: x), ["kept_elements_are_scaled", "gradient_is_the_mask"]
    ),
    "divided by the rate": Mutant(
        variant(scale=lambda x, rate: scale(x, 1 - rate)),
        ["kept_elements_are_scaled", "rate_0_is_identity"],
    ),
    "multiplied by 1 - rate": Mutant(
        variant(scale=lambda x, rate: (x * (1 - rate)).astype(x.dtype)),
        ["kept_elements_are_scaled"],
    ),
    "scaled twice": Mutant(
        variant(scale=lambda x, rate: scale(scale(x, rate), rate)), ["kept_elements_are_scaled"]
    ),
    "the rate is the keep probability": Mutant(
        variant(draw_kept=lambda key, rate, x: draw_kept(key, 1 - rate, x)),
        ["dropped_fraction_is_the_rate", "rate_0_is_identity"],
    ),
    "rate 0 means the default rate": Mutant(
        lambda x, rate, key: drop(x, jnp.where(rate == 0, 0.1, rate), key), ["rate_0_is_identity"]
    ),
    "two masks": Mutant(variant(draw_kept=two_masks), ["dropped_fraction_is_the_rate"]),
    "the rate is always 0.5": Mutant(
        variant(draw_kept=lambda key, rate, x: draw_kept(key, 0.5, x)),
        ["dropped_fraction_is_the_rate", "rate_0_is_identity"],
    ),
    "the key is ignored": Mutant(
        lambda x, rate, key: drop(x, rate, jax.random.key(0)), ["different_keys_differ"]
    ),
    "a global generator": Mutant(variant(draw_kept=global_generator), ["same_key_same_mask"]),
    "one mask for all rows": Mutant(shared_along(-2), ["elements_are_independent"]),
    "one mask for all columns": Mutant(shared_along(-1), ["elements_are_independent"]),
    "one mask for both halves of the rows": Mutant(
        variant(draw_kept=equal_halves), ["elements_are_independent"]
    ),
    "one mask for the batch": Mutant(shared_along(0), ["elements_are_independent"]),
    "small elements are dropped first": Mutant(
        variant(draw_kept=lambda key, rate, x: jax.random.uniform(key, x.shape) * jnp.abs(x) >= rate),
        ["mask_does_not_depend_on_values"],
    ),
    "the gradient ignores the mask": Mutant(straight_through, ["gradient_is_the_mask"]),
    "dropped elements become the mean": Mutant(
        lambda x, rate, key: jnp.where(draw_kept(key, rate, x), scale(x, rate), x.mean()),
        ["kept_elements_are_scaled", "dropped_fraction_is_the_rate"],
    ),
    "the output is float32": Mutant(
        lambda x, rate, key: drop(x.astype(jnp.float32), rate, key), ["dtype_is_preserved"]
    ),
    "vmap uses the key of example 0": Mutant(first_example_serves_all(drop, 2), ["compiled_matches_eager"]),
}
