"""Wrong sinusoidal positions, each with a bug that was seen somewhere, in our own words; and right ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants.batching import first_row_serves_all

D = 6


def frequencies(theta=10_000.0, spread=D):
    return theta ** (-np.arange(0, D, 2) / spread)


def angles(positions, frequencies=frequencies()):  # noqa: B008 (numbers that nobody changes)
    return positions[:, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None]


def interleaved(sin, cos):
    return jnp.stack([sin, cos], -1).reshape(len(sin), D)


def encode(positions, *, angles=angles, join=interleaved):
    at = angles(positions)
    return join(jnp.sin(at), jnp.cos(at))


def an_exponent_an_element(positions):
    at = angles(positions, 10_000.0 ** (-np.arange(D) / D))
    return jnp.where(jnp.arange(D)[None] % 2 == 0, jnp.sin(at), jnp.cos(at))


def at(places):
    """Other positions."""
    return lambda positions: encode(places(positions))


def waves(frequencies):
    return part(angles=functools.partial(angles, frequencies=frequencies))


def part(**parts):
    return functools.partial(encode, **parts)


RIGHT = encode
# name: (the function, laws that it must break)
MUTANTS = {
    "sines first, then cosines": (
        part(join=lambda sin, cos: jnp.concatenate([sin, cos], -1)),
        ["definition", "position_0"],
    ),
    "cosines before sines": (part(join=lambda sin, cos: interleaved(cos, sin)), ["position_0", "definition"]),
    "positions from 1": (at(lambda p: p + 1), ["position_0", "definition"]),
    "sines alone": (part(join=lambda sin, cos: interleaved(sin, sin)), ["norms", "only_differences"]),
    "sines and cosines of other angles": (an_exponent_an_element, ["norms", "only_differences"]),
    "the exponent without its 2": (waves(np.sqrt(frequencies())), ["definition"]),
    "frequencies spread by D / 2 - 1": (waves(frequencies(spread=D - 2)), ["definition"]),
    "another theta": (waves(frequencies(theta=1_000.0)), ["definition"]),
    "angles in bfloat16": (
        part(angles=lambda p: jax.lax.reduce_precision(angles(p), 8, 7)),
        ["large_positions", "definition"],
    ),
    "times sqrt(D)": (lambda positions: encode(positions) * np.float32(np.sqrt(D)), ["norms"]),
    "a table that ends": (at(lambda p: jnp.minimum(p, 255)), ["told_apart", "large_positions"]),
    "counted inside": (at(lambda p: jnp.arange(len(p))), ["each_by_itself", "told_apart"]),
    "under vmap the positions of row 0": (first_row_serves_all(encode, 0), ["compiled_is_eager"]),
}
