"""Mutants of an encoder without positions."""

import functools

import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant
from tests.mutants.encoder import encode, mutants

JIT = False


def double_the_last_token(x, positions):
    return x * jnp.where(positions == positions.max(), 2.0, 1.0)[..., None]


RIGHT = functools.partial(encode, add_positions=tiny.no_positions)
MUTANTS = {
    **mutants(add_positions=tiny.no_positions),
    "positions are added": Mutant(encode, ["permutation_equivariance"]),
    "the last token counts twice": Mutant(
        functools.partial(encode, add_positions=double_the_last_token), ["permutation_equivariance"]
    ),
}
