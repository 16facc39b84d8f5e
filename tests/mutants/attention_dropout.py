"""Wrong dropout on attention's weights, each with a bug in our own words; and the right one.

A mutant is the right function with one part exchanged.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants import attention
from tests.mutants.mutant import Mutant


def drawn(key, rate, shape):
    return jax.random.bernoulli(key, 1 - rate, shape)


def scaled(weights, kept, rate):
    return jnp.where(kept, weights / (1 - rate), 0)


def masked(mask, rate):
    return mask


def attend(q, k, v, mask, rate, key, *, drawn=drawn, scaled=scaled, masked=masked):
    def softmax(logits):
        return scaled(attention.softmax(logits), drawn(key, rate, logits.shape), rate)

    return attention.attend(q, k, v, masked(mask, rate), softmax=softmax)


def before_the_softmax(q, k, v, mask, rate, key):
    dropped = lambda logits, mask: attention.closed(
        scaled(logits, drawn(key, rate, logits.shape), rate), mask
    )
    return attention.attend(q, k, v, mask, closed=dropped)


def other_backward(slope_of):
    """Dropout whose backward pass is ``slope_of(slope, kept, rate)``."""

    @jax.custom_vjp
    def scaled_otherwise(weights, kept, rate):
        return scaled(weights, kept, rate)

    scaled_otherwise.defvjp(
        lambda weights, kept, rate: (scaled(weights, kept, rate), (kept, rate)),
        lambda saved, slope: (slope_of(slope, *saved), None, None),
    )
    return functools.partial(attend, scaled=scaled_otherwise)


def of_shape_with_ones(*axes):
    return lambda key, rate, shape: jnp.broadcast_to(
        drawn(key, rate, [1 if axis in axes else n for axis, n in enumerate(shape)]), shape
    )


def by_tiles_of_8(key, rate, shape):
    B, N, T, S = shape
    tiles = -(-T // 8)
    return jnp.tile(drawn(key, rate, (B, N, 8, S)), (1, 1, tiles, 1))[:, :, :T]


COUNT = itertools.count()


def drawn_from_a_state(key, rate, shape):
    count = jax.pure_callback(lambda: np.int32(next(COUNT)), jax.ShapeDtypeStruct((), jnp.int32))
    return drawn(jax.random.fold_in(key, count), rate, shape)


def part(**parts):
    return functools.partial(attend, **parts)


RIGHT = attend
# by name: a wrong dropout, the laws that it must break, and where it was seen
MUTANTS = {
    "the mask is dropped with the weights": Mutant(
        part(masked=lambda mask, rate: mask | (rate > 0)),
        ["mask_holds_under_dropout", "dropped_or_scaled"],
        "keras-team/keras#23038",
    ),
    "dropout is made, and not used": Mutant(
        part(
            drawn=lambda key, rate, shape: jnp.ones(shape, bool), scaled=lambda weights, kept, rate: weights
        ),
        ["rate_is_the_share", "another_key_drops_others"],
        "zhouhaoyi/Informer2020#97",
    ),
    "what is kept is not scaled": Mutant(
        part(scaled=lambda weights, kept, rate: jnp.where(kept, weights, 0)),
        ["dropped_or_scaled", "nothing_is_lost_on_average"],
    ),
    "the backward pass multiplies by the rate": Mutant(
        other_backward(lambda slope, kept, rate: jnp.where(kept, slope * rate, 0)),
        ["backward_drops_the_same"],
        "NVIDIA/apex#816",
    ),
    "the backward pass drops nothing": Mutant(
        other_backward(lambda slope, kept, rate: slope), ["backward_drops_the_same"]
    ),
    "the rate is what is kept": Mutant(
        part(drawn=lambda key, rate, shape: drawn(key, 1 - rate, shape)),
        ["rate_is_the_share", "rate_0_drops_nothing"],
    ),
    "logits are dropped": Mutant(before_the_softmax, ["dropped_or_scaled"]),
    "one draw for all rows and heads": Mutant(part(drawn=of_shape_with_ones(0, 1)), ["each_draws_its_own"]),
    "one draw for every tile of queries": Mutant(part(drawn=by_tiles_of_8), ["each_draws_its_own"]),
    "one draw for all queries": Mutant(part(drawn=of_shape_with_ones(2)), ["each_draws_its_own"]),
    "the key is not read": Mutant(
        part(drawn=lambda key, rate, shape: drawn(jax.random.key(0), rate, shape)),
        ["another_key_drops_others"],
    ),
    "a state is drawn from": Mutant(part(drawn=drawn_from_a_state), ["same_key_same_output"]),
}
