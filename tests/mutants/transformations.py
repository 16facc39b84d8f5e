"""Functions that are not as pure as they should be."""

import itertools

import jax
import jax.numpy as jnp

from tests.mutants import tiny

JIT = False
CALLS = itertools.count()


def right(x):
    return {"out": jnp.tanh(tiny.norm(x)) * x.sum(), "top": x.argmax()}


def stateful(x):
    return right(x + 0.1 * next(CALLS))


def only_eagerly(x):
    return right(2 * x if tiny.is_traced(x) else x)


def numbered(x):
    return right(x + jax.random.normal(jax.random.key(next(CALLS)), x.shape))


@jax.custom_batching.custom_vmap
def by_row(x):
    return x / (1 + jnp.square(x).sum())


@by_row.def_vmap
def over_the_whole_batch(size, batched, x):
    return x / (1 + jnp.square(x).sum()), True


RIGHT = right
MUTANTS = {
    "it counts its calls": (
        stateful,
        ["same_twice", "vmap_is_a_loop", "scan_is_a_loop", "pmap_is_a_loop", "sharded_is_a_loop"],
    ),
    "its key is made of a counter": (
        numbered,
        ["same_twice", "compiled_is_eager", "remat_is_plain", "scan_is_a_loop"],
    ),
    "it looks whether it is traced": (only_eagerly, ["compiled_is_eager"]),
    "its rule for vmap mixes the rows": (by_row, ["vmap_is_a_loop"]),
}
