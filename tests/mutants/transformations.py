"""Mutants of a pure function."""

import itertools

import jax
import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False
CALLS = itertools.count()


def right(x):
    return {"out": jnp.tanh(tiny.norm(x)) * x.sum(), "top": x.argmax()}


def counts_calls(x):
    return right(x + 0.1 * next(CALLS))


def key_from_counter(x):
    return right(x + jax.random.normal(jax.random.key(next(CALLS)), x.shape))


@jax.custom_batching.custom_vmap
def mixed_by_vmap(x):
    return x / (1 + jnp.square(x).sum())


@mixed_by_vmap.def_vmap
def over_the_whole_batch(size, batched, x):
    return x / (1 + jnp.square(x).sum()), True


RIGHT = right
MUTANTS = {
    "it counts its calls": Mutant(
        counts_calls,
        [
            "deterministic",
            "vmap_matches_loop",
            "scan_matches_loop",
            "pmap_matches_loop",
            "shard_map_matches_loop",
        ],
    ),
    "its key comes from a counter": Mutant(
        key_from_counter,
        ["deterministic", "jit_matches_eager", "remat_changes_nothing", "scan_matches_loop"],
    ),
    "it depends on whether it is traced": Mutant(
        lambda x: right(2 * x if tiny.is_traced(x) else x), ["jit_matches_eager"]
    ),
    "its vmap rule mixes the examples": Mutant(mixed_by_vmap, ["vmap_matches_loop"]),
}
