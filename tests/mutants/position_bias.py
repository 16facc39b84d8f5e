"""Wrong learned biases, each with a bug that was seen somewhere, in our own words; and a right one."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.mutants.batching import first_row_serves_all

TABLE = np.random.default_rng(0).standard_normal((3, 17)).astype(np.float32)


def difference(q, k):
    return k[None] - q[:, None]


def bias(q, k, *, difference=difference):
    return jnp.asarray(TABLE)[:, jnp.clip(difference(q, k), -8, 8) + 8]


def part(difference):
    return functools.partial(bias, difference=difference)


RIGHT = bias
# name: (the function, laws that it must break)
MUTANTS = {
    "where the key stands": (part(lambda q, k: difference(0 * q, k)), ["only_differences"]),
    "as far as from the first query": (
        part(lambda q, k: difference(q - q + q[0], k)),
        ["each_pair_by_itself"],
    ),
    "counted inside": (
        part(lambda q, k: difference(jnp.arange(len(q)), jnp.arange(len(k)))),
        ["each_pair_by_itself"],
    ),
    "under vmap the queries of row 0": (first_row_serves_all(bias, 0), ["compiled_is_eager"]),
}
