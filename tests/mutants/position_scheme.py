"""Mutants of position schemes: one with a table, a rotation and a bias."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant
from tfm_jax import nn

JIT = False
LENGTH, N = 9, 2


def rotate(x, positions):
    """Turns pairs of neighbours by a quarter of a radian per position."""
    angle = positions[..., None, None].astype(jnp.float32) / 4
    a, b = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)]
    return jnp.stack(turned, -1).reshape(x.shape).astype(x.dtype)


def embed(x, table, positions):
    return x + table[positions].astype(x.dtype)


def bias_of(slope, q, k):
    """Minus the logarithm of the distance, [..., N, T, S]."""
    distance = jnp.abs(q[..., :, None] - k[..., None, :]).astype(jnp.float32)
    slopes = jnp.broadcast_to(slope, (*distance.shape, N))
    return jnp.moveaxis(-slopes * jnp.log1p(distance)[..., None], -1, -3)


class Table(nnx.Module):
    def __init__(self, variant, config, *, rngs):
        self.variant = variant
        x = jax.random.normal(rngs.params(), (LENGTH, config.d_model))
        self.table = nnx.Param(x.astype(variant.dtype or config.param_dtype))

    def axes(self):
        return {"table": self.variant.letters}

    def __call__(self, x, positions):
        return self.variant.embed(x, self.table[...], positions)


class Bias(nnx.Module):
    def __init__(self, variant, config):
        self.variant = variant
        self.slope = nnx.Param(jnp.ones(config.n_heads, config.param_dtype))

    def axes(self):
        return {"slope": "N"}

    def __call__(self, query_positions, key_positions):
        def at(slope, q, k, i, j):
            return self.variant.bias(slope.astype(jnp.float32), q[..., i], k[..., j])

        return jax.tree_util.Partial(at, self.slope[...], query_positions, key_positions)


@dataclasses.dataclass(frozen=True)
class Variant(nn.Positions):
    turn: Callable = rotate
    embed: Callable = embed
    bias: Callable = bias_of
    letters: str = "T D"
    dtype: str | None = None
    max_length: int = LENGTH

    def build_embedding(self, config, *, rngs):
        return Table(self, config, rngs=rngs)

    def build_bias(self, config, *, bidirectional, rngs):
        return Bias(self, config)

    def rotate(self, x, positions):
        return self.turn(x, positions)


def order_in(positions):
    """The index of each token, instead of its position."""
    return jnp.broadcast_to(jnp.arange(positions.shape[-1]), positions.shape)


def from_the_first(positions):
    return positions - positions[..., :1]


def of_the_first_example(positions):
    return jnp.broadcast_to(positions.reshape(-1, positions.shape[-1])[0], positions.shape)


def times_number_of_tokens(x, positions):
    return rotate(x, positions) * positions.shape[-1]


def in_float32(x, positions):
    return rotate(x.astype(jnp.float32), positions)


def integers(slope, q, k):
    return jnp.round(bias_of(slope, q, k)).astype(jnp.int32)


def logarithm_of_the_distance(slope, q, k):
    bias = bias_of(slope, q, k)
    return jnp.where(bias == 0, jnp.inf, bias)


def one_later_in_a_single_step(x, table, positions):
    """What a decoder does that counts from the number of tokens in the cache, this one included."""
    return embed(x, table, positions + (1 if positions.shape[-1] == 1 else 0))


def zero_under_jit(x, table, positions):
    return embed(x, table, 0 * positions if tiny.is_traced(positions) else positions)


RIGHT = Variant()
MUTANTS = {
    "the rotation depends on the number of tokens": Mutant(
        Variant(turn=times_number_of_tokens), ["tokens_are_independent", "cached_matches_full"]
    ),
    "indices instead of positions": Mutant(
        Variant(turn=lambda x, at: rotate(x, order_in(at))),
        ["tokens_are_independent", "permutation_equivariance"],
    ),
    "positions are relative to the first": Mutant(
        Variant(embed=lambda x, table, at: embed(x, table, from_the_first(at))),
        ["tokens_are_independent", "permutation_equivariance"],
    ),
    "all examples have the positions of the first": Mutant(
        Variant(bias=lambda slope, q, k: bias_of(slope, of_the_first_example(q), of_the_first_example(k))),
        ["leading_dims"],
    ),
    "the rotation is float32": Mutant(Variant(turn=in_float32), ["dtypes"]),
    "the bias is an integer": Mutant(Variant(bias=integers), ["dtypes"]),
    "the logarithm of distance 0": Mutant(Variant(bias=logarithm_of_the_distance), ["finite"]),
    "axes in another order": Mutant(Variant(letters="D T"), ["parameters"]),
    "the table is float32": Mutant(Variant(dtype="float32"), ["parameters"]),
    "position 0 under jit": Mutant(Variant(embed=zero_under_jit), ["compiled_matches_eager"]),
    "one position later in a single step": Mutant(
        Variant(embed=one_later_in_a_single_step), ["cached_matches_full", "tokens_are_independent"]
    ),
}
