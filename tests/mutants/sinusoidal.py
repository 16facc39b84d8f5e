"""Mutants of sinusoidal position encodings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants._batching import first_example_serves_all
from tests.mutants._mutant import Mutant

D = 6


def frequencies(theta=10_000.0, denominator=D):
    return theta ** (-np.arange(0, D, 2) / denominator)


FREQUENCIES = frequencies()


def angles(positions, frequencies=FREQUENCIES):
    return positions[:, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None]


def interleave(sin, cos):
    return jnp.stack([sin, cos], -1).reshape(len(sin), D)


def encode(positions, *, angles=angles, join=interleave):
    theta = angles(positions)
    return join(jnp.sin(theta), jnp.cos(theta))


def variant(**parts):
    return functools.partial(encode, **parts)


def one_frequency_per_element(positions):
    theta = angles(positions, 10_000.0 ** (-np.arange(D) / D))
    return jnp.where(jnp.arange(D)[None] % 2 == 0, jnp.sin(theta), jnp.cos(theta))


def with_positions(change):
    return lambda positions: encode(change(positions))


def with_frequencies(frequencies):
    return variant(angles=functools.partial(angles, frequencies=frequencies))


RIGHT = encode
MUTANTS = {
    "sines first, then cosines": Mutant(
        variant(join=lambda sin, cos: jnp.concatenate([sin, cos], -1)),
        ["definition", "position_0"],
    ),
    "cosines before sines": Mutant(
        variant(join=lambda sin, cos: interleave(cos, sin)), ["position_0", "definition"]
    ),
    "positions start at 1": Mutant(with_positions(lambda p: p + 1), ["position_0", "definition"]),
    "only sines": Mutant(
        variant(join=lambda sin, cos: interleave(sin, sin)), ["constant_norm", "translation_invariance"]
    ),
    "sines and cosines of different angles": Mutant(
        one_frequency_per_element, ["constant_norm", "translation_invariance"]
    ),
    "the exponent lacks its 2": Mutant(with_frequencies(np.sqrt(FREQUENCIES)), ["definition"]),
    "exponents divided by D / 2 - 1": Mutant(
        with_frequencies(frequencies(denominator=D - 2)), ["definition"]
    ),
    "another theta": Mutant(with_frequencies(frequencies(theta=1_000.0)), ["definition"]),
    "angles in bfloat16": Mutant(
        variant(angles=lambda p: jax.lax.reduce_precision(angles(p), 8, 7)),
        ["large_positions", "definition"],
    ),
    "multiplied by sqrt(D)": Mutant(
        lambda positions: encode(positions) * np.float32(np.sqrt(D)), ["constant_norm"]
    ),
    "positions are clipped at 255": Mutant(
        with_positions(lambda p: jnp.minimum(p, 255)), ["adjacent_positions_differ", "large_positions"]
    ),
    "indices instead of positions": Mutant(
        with_positions(lambda p: jnp.arange(len(p))),
        ["positions_are_independent", "adjacent_positions_differ"],
    ),
    "vmap uses the positions of example 0": Mutant(
        first_example_serves_all(encode, 0), ["compiled_matches_eager"]
    ),
}
