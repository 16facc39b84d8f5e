"""Wrong ALiBis, each with a bug that was seen somewhere, in our own words; and the right one, of 6 heads."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.mutants.batching import first_row_serves_all

SLOPES = 2.0 ** -np.array([2, 4, 6, 8, 1, 3])  # of 4 heads, then the first and the third of 8


def distance(q, k):
    return jnp.abs(k[None] - q[:, None]).astype(jnp.float32)


def alibi(q, k, *, slopes=SLOPES, distance=distance):
    return -jnp.asarray(slopes, jnp.float32)[:, None, None] * distance(q, k)[None]


def part(**parts):
    return functools.partial(alibi, **parts)


RIGHT = alibi
# name: (the function, laws that it must break)
MUTANTS = {
    "a bonus for what is far": (
        lambda q, k: -alibi(q, k),
        ["never_positive", "farther_is_less", "slopes"],
    ),
    "6 slopes by the formula for 8": (part(slopes=2.0 ** -np.arange(1.0, 7)), ["slopes"]),
    "one geometric series of 6 slopes": (part(slopes=2.0 ** (-8 * np.arange(1.0, 7) / 6)), ["slopes"]),
    "the first of 8 in a row, not every other": (
        part(slopes=2.0 ** -np.array([2.0, 4, 6, 8, 1, 2])),
        ["slopes"],
    ),
    "slopes from n = 0": (part(slopes=4 * SLOPES), ["slopes"]),
    "one slope for all heads": (part(slopes=np.full(6, 0.5)), ["slopes"]),
    "where the key stands": (
        part(distance=lambda q, k: -distance(0 * q, k)),
        ["only_differences", "never_positive", "nothing_at_distance_0"],
    ),
    "the signed distance": (
        part(distance=lambda q, k: (q[:, None] - k[None]).astype(jnp.float32)),
        ["never_positive", "farther_is_less"],
    ),
    "distances from 1": (
        part(distance=lambda q, k: 1 + distance(q, k)),
        ["nothing_at_distance_0", "linear_in_distance"],
    ),
    "distances end at 128": (
        part(distance=lambda q, k: jnp.minimum(distance(q, k), 128)),
        ["farther_is_less", "linear_in_distance"],
    ),
    "the logarithm of the distance": (
        part(distance=lambda q, k: jnp.log1p(distance(q, k))),
        ["linear_in_distance", "slopes"],
    ),
    "counted inside": (
        part(distance=lambda q, k: distance(jnp.arange(len(q)), jnp.arange(len(k)))),
        ["each_pair_by_itself", "slopes"],
    ),
    "under vmap the keys of row 0": (first_row_serves_all(alibi, 1), ["compiled_is_eager"]),
}
