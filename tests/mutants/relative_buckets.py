"""Wrong buckets of T5, each with a bug that was seen somewhere, in our own words; and the right ones."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.mutants.batching import first_row_serves_all

# The first distance of each bucket but 0, of 16 in a direction: 8 are exact, then 8 * 16^(j / 8) from j = 1.
BORDERS = np.array([*range(1, 9), 12, 16, 23, 32, 46, 64, 91])


def difference(q, k):
    return k[None] - q[:, None]


def by_borders(distance, borders=BORDERS):
    return (distance[..., None] >= jnp.asarray(borders, jnp.int32)[None, None]).sum(-1, dtype=jnp.int32)


def sided(difference, bucket):
    return jnp.where(difference > 0, 16 + bucket, bucket)


def buckets(q, k, *, difference=difference, bucket=by_borders, sided=sided):
    apart = difference(q, k)
    return sided(apart, bucket(jnp.abs(apart)))


def by_logarithm(distance, end=15, base=16.0):
    """With the rounding of float32, and in other ways."""
    ratio = jnp.log(jnp.maximum(distance, 8).astype(jnp.float32) / 8) / np.float32(np.log(base))
    large = 8 + (ratio * 8).astype(jnp.int32)
    return jnp.where(distance < 8, distance, jnp.minimum(large, end))


def wrapped(distance):
    large = by_logarithm(distance, end=10**6)
    return jnp.where(large < 16, large, large % 16)


def part(**parts):
    return functools.partial(buckets, **parts)


RIGHT = buckets
# name: (the function, laws that it must break)
MUTANTS = {
    "the direction is lost": (part(sided=lambda difference, bucket: bucket), ["direction", "definition"]),
    "the directions are exchanged": (
        part(difference=lambda q, k: -difference(q, k)),
        ["small_distances_are_exact", "definition"],
    ),
    "the same position counts as after": (
        part(sided=lambda difference, bucket: jnp.where(difference >= 0, 16 + bucket, bucket)),
        ["definition"],
    ),
    "one more distance is exact": (
        part(bucket=functools.partial(by_borders, borders=BORDERS + (BORDERS > 8))),
        ["definition"],
    ),
    "no distance 0": (
        part(bucket=lambda distance: by_borders(jnp.maximum(distance - 1, 0))),
        ["small_distances_are_exact", "definition"],
    ),
    "logarithms to base e": (
        part(bucket=functools.partial(by_logarithm, base=np.e)),
        ["definition"],
    ),
    "no last bucket": (
        part(bucket=functools.partial(by_logarithm, end=10**6)),
        ["within_range", "monotone"],
    ),
    "buckets start again after the last": (part(bucket=wrapped), ["monotone", "definition"]),
    "32 buckets in each direction": (
        part(sided=lambda difference, bucket: jnp.where(difference > 0, 32 + bucket, bucket)),
        ["within_range", "definition"],
    ),
    "distances in 8 bits": (
        part(difference=lambda q, k: difference(q, k).astype(jnp.int8).astype(jnp.int32)),
        ["monotone", "definition"],
    ),
    "where the key stands": (
        part(difference=lambda q, k: difference(0 * q, k)),
        ["only_differences", "definition"],
    ),
    "counted inside": (
        part(difference=lambda q, k: difference(jnp.arange(len(q)), jnp.arange(len(k)))),
        ["each_pair_by_itself"],
    ),
    "under vmap the queries of row 0": (first_row_serves_all(buckets, 0), ["compiled_is_eager"]),
}
