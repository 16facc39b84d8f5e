"""Mutants of ALiBi with 6 heads."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.mutants._batching import first_example_serves_all
from tests.mutants._mutant import Mutant

SLOPES = 2.0 ** -np.array([2, 4, 6, 8, 1, 3])  # those of 4 heads, then the first and the third of 8


def distance(q, k):
    return jnp.abs(k[None] - q[:, None]).astype(jnp.float32)


def alibi(q, k, *, slopes=SLOPES, distance=distance):
    return -jnp.asarray(slopes, jnp.float32)[:, None, None] * distance(q, k)[None]


def variant(**parts):
    return functools.partial(alibi, **parts)


RIGHT = alibi
MUTANTS = {
    "the sign is wrong": Mutant(
        lambda q, k: -alibi(q, k), ["never_positive", "decreases_with_distance", "slopes"]
    ),
    "6 slopes by the formula for 8": Mutant(variant(slopes=2.0 ** -np.arange(1.0, 7)), ["slopes"]),
    "one geometric series of 6 slopes": Mutant(
        variant(slopes=2.0 ** (-8 * np.arange(1.0, 7) / 6)), ["slopes"]
    ),
    "the first slopes of 8, not every other one": Mutant(
        variant(slopes=2.0 ** -np.array([2.0, 4, 6, 8, 1, 2])), ["slopes"]
    ),
    "slopes start at n = 0": Mutant(variant(slopes=4 * SLOPES), ["slopes"]),
    "one slope for all heads": Mutant(variant(slopes=np.full(6, 0.5)), ["slopes"]),
    "key position instead of distance": Mutant(
        variant(distance=lambda q, k: -distance(0 * q, k)),
        ["translation_invariance", "never_positive", "zero_at_distance_0"],
    ),
    "signed distance": Mutant(
        variant(distance=lambda q, k: (q[:, None] - k[None]).astype(jnp.float32)),
        ["never_positive", "decreases_with_distance"],
    ),
    "distances start at 1": Mutant(
        variant(distance=lambda q, k: 1 + distance(q, k)),
        ["zero_at_distance_0", "linear_in_distance"],
    ),
    "distances are clipped at 128": Mutant(
        variant(distance=lambda q, k: jnp.minimum(distance(q, k), 128)),
        ["decreases_with_distance", "linear_in_distance"],
    ),
    "logarithm of the distance": Mutant(
        variant(distance=lambda q, k: jnp.log1p(distance(q, k))),
        ["linear_in_distance", "slopes"],
    ),
    "indices instead of positions": Mutant(
        variant(distance=lambda q, k: distance(jnp.arange(len(q)), jnp.arange(len(k)))),
        ["pairs_are_independent", "slopes"],
    ),
    "vmap uses the keys of example 0": Mutant(first_example_serves_all(alibi, 1), ["compiled_matches_eager"]),
}
