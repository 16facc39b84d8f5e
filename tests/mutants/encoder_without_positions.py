"""Wrong encoders among those that are told no positions: the bugs of the others, and those of order."""

import functools

import jax.numpy as jnp

from tests.mutants import tiny
from tests.mutants.encoder import encode, mutants

JIT = False

RIGHT = functools.partial(encode, place=tiny.nowhere)
MUTANTS = {
    **mutants(place=tiny.nowhere),
    "positions are added all the same": (encode, ["order_of_tokens"]),
    "the last token counts twice": (
        functools.partial(
            encode,
            place=lambda x, positions: x * jnp.where(positions == positions.max(), 2.0, 1.0)[..., None],
        ),
        ["order_of_tokens"],
    ),
}
