"""Mutants of T5's relative position buckets."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.mutants._batching import first_example_serves_all
from tests.mutants._mutant import Mutant

# The first distance of each bucket after 0, with 16 buckets per direction: 8 exact ones, then 8 * 16^(j / 8).
BOUNDARIES = np.array([*range(1, 9), 12, 16, 23, 32, 46, 64, 91])


def difference(q, k):
    return k[None] - q[:, None]


def by_boundaries(distance, boundaries=BOUNDARIES):
    return (distance[..., None] >= jnp.asarray(boundaries, jnp.int32)[None, None]).sum(-1, dtype=jnp.int32)


def add_direction(difference, bucket):
    return jnp.where(difference > 0, 16 + bucket, bucket)


def buckets(q, k, *, difference=difference, bucket=by_boundaries, add_direction=add_direction):
    signed = difference(q, k)
    return add_direction(signed, bucket(jnp.abs(signed)))


def by_logarithm(distance, last=15, base=16.0):
    ratio = jnp.log(jnp.maximum(distance, 8).astype(jnp.float32) / 8) / np.float32(np.log(base))
    large = 8 + (ratio * 8).astype(jnp.int32)
    return jnp.where(distance < 8, distance, jnp.minimum(large, last))


def wrap_around(distance):
    large = by_logarithm(distance, last=10**6)
    return jnp.where(large < 16, large, large % 16)


def variant(**parts):
    return functools.partial(buckets, **parts)


RIGHT = buckets
MUTANTS = {
    "the direction is lost": Mutant(
        variant(add_direction=lambda difference, bucket: bucket), ["direction", "definition"]
    ),
    "the directions are exchanged": Mutant(
        variant(difference=lambda q, k: -difference(q, k)),
        ["small_distances_are_exact", "definition"],
    ),
    "the query's own position counts as after it": Mutant(
        variant(add_direction=lambda difference, bucket: jnp.where(difference >= 0, 16 + bucket, bucket)),
        ["definition"],
    ),
    "one more distance is exact": Mutant(
        variant(bucket=functools.partial(by_boundaries, boundaries=BOUNDARIES + (BOUNDARIES > 8))),
        ["definition"],
    ),
    "distances 0 and 1 share a bucket": Mutant(
        variant(bucket=lambda distance: by_boundaries(jnp.maximum(distance - 1, 0))),
        ["small_distances_are_exact", "definition"],
    ),
    "logarithms to base e": Mutant(
        variant(bucket=functools.partial(by_logarithm, base=np.e)),
        ["definition"],
    ),
    "no last bucket": Mutant(
        variant(bucket=functools.partial(by_logarithm, last=10**6)),
        ["within_range", "monotone"],
    ),
    "buckets wrap around after the last one": Mutant(variant(bucket=wrap_around), ["monotone", "definition"]),
    "32 buckets in each direction": Mutant(
        variant(add_direction=lambda difference, bucket: jnp.where(difference > 0, 32 + bucket, bucket)),
        ["within_range", "definition"],
    ),
    "distances in 8 bits": Mutant(
        variant(difference=lambda q, k: difference(q, k).astype(jnp.int8).astype(jnp.int32)),
        ["monotone", "definition"],
    ),
    "key position instead of distance": Mutant(
        variant(difference=lambda q, k: difference(0 * q, k)),
        ["translation_invariance", "definition"],
    ),
    "indices instead of positions": Mutant(
        variant(difference=lambda q, k: difference(jnp.arange(len(q)), jnp.arange(len(k)))),
        ["pairs_are_independent"],
    ),
    "vmap uses the queries of example 0": Mutant(
        first_example_serves_all(buckets, 0), ["compiled_matches_eager"]
    ),
}
