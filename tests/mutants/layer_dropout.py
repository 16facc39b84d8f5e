"""Wrong dropout in a stack of layers."""

import functools
import itertools

import jax
import jax.numpy as jnp

from tests.mutants.mutant import Mutant

JIT = False
L, N, RATE = 3, 300, 0.1


def scaled(keep):
    return jnp.where(keep, 1 / (1 - RATE), 0)


def split(key):
    return jax.random.split(key, L)


def keep(key):
    return jax.random.bernoulli(key, 1 - RATE, (N,))


def kept(key, *, split=split, keep=keep, scaled=scaled):
    return jnp.stack([scaled(keep(each)) for each in split(key)])


def part(**parts):
    return functools.partial(kept, **parts)


CALLS = itertools.count()

RIGHT = kept
MUTANTS = {
    "one key serves all layers": Mutant(
        part(split=lambda key: [key] * L), ["another_layer_another_dropout"], "google/flax#4950"
    ),
    "the key is split, and the first half used again": (
        part(split=lambda key: [jax.random.split(key)[0], key, jax.random.split(key)[0]]),
        ["another_layer_another_dropout"],
    ),
    "the key of a layer is its number": (
        part(split=lambda key: [jax.random.key(i) for i in range(L)]),
        ["another_key_another_dropout"],
    ),
    "chance from elsewhere than the key": (
        part(split=lambda key: split(jax.random.fold_in(key, next(CALLS)))),
        ["same_key_same_dropout"],
    ),
    "the rate is the share that is kept": (
        part(keep=lambda key: jax.random.bernoulli(key, RATE, (N,))),
        ["rate"],
    ),
    "what is kept is not scaled": (part(scaled=lambda keep: jnp.where(keep, 1.0, 0)), ["the_mean_stays"]),
    "what is kept is divided by the rate": (
        part(scaled=lambda keep: jnp.where(keep, 1 / RATE, 0)),
        ["the_mean_stays"],
    ),
    "what is kept is scaled in bfloat16": (
        part(scaled=lambda keep: scaled(keep).astype(jnp.bfloat16).astype(jnp.float32)),
        ["the_mean_stays"],
    ),
}
