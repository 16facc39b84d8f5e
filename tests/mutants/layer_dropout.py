"""Mutants of dropout in a stack of layers."""

import functools
import itertools

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant

JIT = False
L, N, RATE = 3, 300, 0.1


def split(key):
    return jax.random.split(key, L)


def draw_kept(key):
    return jax.random.bernoulli(key, 1 - RATE, (N,))


def scale(kept):
    return jnp.where(kept, 1 / (1 - RATE), 0)


def kept(key, *, split=split, draw_kept=draw_kept, scale=scale):
    return jnp.stack([scale(draw_kept(layer_key)) for layer_key in split(key)])


def variant(**parts):
    return functools.partial(kept, **parts)


CALLS = itertools.count()

RIGHT = kept
MUTANTS = {
    "all layers use one key": Mutant(
        variant(split=lambda key: [key] * L), ["layers_differ"], "google/flax#4950"
    ),
    "one half of a split key is used twice": Mutant(
        variant(split=lambda key: [jax.random.split(key)[0], key, jax.random.split(key)[0]]),
        ["layers_differ"],
    ),
    "the key of a layer is its index": Mutant(
        variant(split=lambda key: [jax.random.key(i) for i in range(L)]),
        ["different_keys_differ"],
    ),
    "draws depend on a hidden state": Mutant(
        variant(split=lambda key: split(jax.random.fold_in(key, next(CALLS)))),
        ["same_key_same_mask"],
    ),
    "the rate is the keep probability": Mutant(
        variant(draw_kept=lambda key: jax.random.bernoulli(key, RATE, (N,))),
        ["dropped_fraction_is_the_rate"],
    ),
    "kept elements are not scaled": Mutant(
        variant(scale=lambda kept: jnp.where(kept, 1.0, 0)), ["kept_elements_are_scaled"]
    ),
    "kept elements are divided by the rate": Mutant(
        variant(scale=lambda kept: jnp.where(kept, 1 / RATE, 0)), ["kept_elements_are_scaled"]
    ),
    "kept elements are scaled in bfloat16": Mutant(
        variant(scale=lambda kept: scale(kept).astype(jnp.bfloat16).astype(jnp.float32)),
        ["kept_elements_are_scaled"],
    ),
}
