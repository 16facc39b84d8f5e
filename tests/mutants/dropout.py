"""Wrong dropouts, each with a bug that was seen somewhere, in our own words; and the right one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants.batching import first_row_serves_all

_CALLS = itertools.count()


def mask(key, rate, x):
    return jax.random.bernoulli(key, 1 - rate, x.shape)


def scaled(x, rate):
    return (x.astype(jnp.float32) / (1 - rate)).astype(x.dtype)


def drop(x, rate, key, *, mask=mask, scaled=scaled):
    return jnp.where(mask(key, rate, x), scaled(x, rate), 0)


def shared(axis):
    """One mask along an axis."""

    def mask(key, rate, x):
        shape = list(x.shape)
        shape[axis] = 1
        return jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, shape), x.shape)

    return part(mask=mask)


def halves_alike(key, rate, x):
    half = mask(key, rate, x[: -(-len(x) // 2)])
    return jnp.concatenate([half, half])[: len(x)]


def twice(key, rate, x):
    first, second = jax.random.split(key)
    return mask(first, rate, x) & mask(second, rate, x)


def of_a_generator_outside(key, rate, x):
    draw = lambda rate: np.random.default_rng(next(_CALLS)).random(x.shape) >= rate
    return jax.pure_callback(draw, jax.ShapeDtypeStruct(x.shape, bool), rate, vmap_method="sequential")


def straight_through(x, rate, key):
    return x + jax.lax.stop_gradient(drop(x, rate, key) - x)


def part(**parts):
    return functools.partial(drop, **parts)


RIGHT = drop
# name: (the function, laws that it must break)
MUTANTS = {
    "nothing is rescaled": (part(scaled=lambda x, rate: x), ["kept_is_scaled", "gradient_is_the_mask"]),
    "divided by the rate": (
        part(scaled=lambda x, rate: scaled(x, 1 - rate)),
        ["kept_is_scaled", "rate_0"],
    ),
    "scaled down, as at the time of evaluation": (
        part(scaled=lambda x, rate: (x * (1 - rate)).astype(x.dtype)),
        ["kept_is_scaled"],
    ),
    "scaled twice": (part(scaled=lambda x, rate: scaled(scaled(x, rate), rate)), ["kept_is_scaled"]),
    "the rate is that of what is kept": (
        part(mask=lambda key, rate, x: mask(key, 1 - rate, x)),
        ["share", "rate_0"],
    ),
    "a rate of 0 is taken for none given": (
        lambda x, rate, key: drop(x, jnp.where(rate == 0, 0.1, rate), key),
        ["rate_0"],
    ),
    "two masks": (part(mask=twice), ["share"]),
    "exactly half": (part(mask=lambda key, rate, x: mask(key, 0.5, x)), ["share", "rate_0"]),
    "the key is not used": (
        lambda x, rate, key: drop(x, rate, jax.random.key(0)),
        ["another_key_another_mask"],
    ),
    "a generator outside": (part(mask=of_a_generator_outside), ["same_key_same_mask"]),
    "one mask for all rows": (shared(-2), ["every_element_has_its_own"]),
    "one mask for all columns": (shared(-1), ["every_element_has_its_own"]),
    "one draw for both halves of the rows": (
        part(mask=halves_alike),
        ["every_element_has_its_own"],
    ),
    "one mask for the batch": (shared(0), ["every_element_has_its_own"]),
    "small elements are dropped first": (
        part(mask=lambda key, rate, x: jax.random.uniform(key, x.shape) * jnp.abs(x) >= rate),
        ["blind"],
    ),
    "the gradient passes by the mask": (straight_through, ["gradient_is_the_mask"]),
    "what is dropped is the mean": (
        lambda x, rate, key: jnp.where(mask(key, rate, x), scaled(x, rate), x.mean()),
        ["kept_is_scaled", "share"],
    ),
    "another dtype comes out": (
        lambda x, rate, key: drop(x.astype(jnp.float32), rate, key),
        ["dtype_is_kept"],
    ),
    "under vmap the key of row 0": (first_row_serves_all(drop, 2), ["compiled_is_eager"]),
}
