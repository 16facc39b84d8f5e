"""Mutants of a learned position bias."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.mutants._batching import first_example_serves_all
from tests.mutants._mutant import Mutant

TABLE = np.random.default_rng(0).standard_normal((3, 17)).astype(np.float32)


def difference(q, k):
    return k[None] - q[:, None]


def bias(q, k, *, difference=difference):
    return jnp.asarray(TABLE)[:, jnp.clip(difference(q, k), -8, 8) + 8]


def variant(difference):
    return functools.partial(bias, difference=difference)


RIGHT = bias
MUTANTS = {
    "key position instead of distance": Mutant(
        variant(lambda q, k: difference(0 * q, k)), ["translation_invariance"]
    ),
    "distance from the first query": Mutant(
        variant(lambda q, k: difference(q - q + q[0], k)), ["pairs_are_independent"]
    ),
    "indices instead of positions": Mutant(
        variant(lambda q, k: difference(jnp.arange(len(q)), jnp.arange(len(k)))),
        ["pairs_are_independent"],
    ),
    "vmap uses the queries of example 0": Mutant(
        first_example_serves_all(bias, 0), ["compiled_matches_eager"]
    ),
}
