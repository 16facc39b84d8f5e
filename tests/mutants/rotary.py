"""Mutants of rotary position embeddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants._mutant import Mutant

THETA = 10_000.0


def frequencies(H, theta=THETA):
    return jnp.asarray(theta ** (-np.arange(0, H, 2) / H), jnp.float32)


def angles(x, positions, frequencies=frequencies):
    """[B, T, 1, H / 2]"""
    return (positions[..., None].astype(jnp.float32) * frequencies(x.shape[-1])[None, None])[..., None, :]


def rotate_pairs(a, b, cos, sin):
    return a * cos - b * sin, b * cos + a * sin


def rotate_in_place(a, b, cos, sin):
    a = a * cos - b * sin
    return a, b * cos + a * sin


def rotate(x, positions, *, angles=angles, rotate_pairs=rotate_pairs):
    theta, wide = angles(x, positions), x.astype(jnp.float32)
    a, b = jnp.split(wide, 2, -1)
    return jnp.concatenate(rotate_pairs(a, b, jnp.cos(theta), jnp.sin(theta)), -1).astype(x.dtype)


def variant(**parts):
    return functools.partial(rotate, **parts)


def interleaved(x, positions):
    halves = jnp.concatenate([x[..., 0::2], x[..., 1::2]], -1)
    a, b = jnp.split(rotate(halves, positions), 2, -1)
    return jnp.stack([a, b], -1).reshape(x.shape)


def frequencies_over_all_heads(x, positions):
    B, T, N, H = x.shape
    return angles(x, positions, lambda H: frequencies(N * H)).reshape(B, T, N, H // 2)


def heads_as_positions(x, positions):
    heads = jnp.arange(x.shape[2]).astype(jnp.float32)
    return (heads[:, None] * frequencies(x.shape[-1])[None])[None, None]


def added(x, positions):
    theta = angles(x, positions)
    return x + jnp.concatenate([jnp.sin(theta), jnp.cos(theta)], -1).astype(x.dtype)


def with_positions(change):
    return lambda x, positions: rotate(x, change(positions))


def with_frequencies(frequencies):
    return variant(angles=functools.partial(angles, frequencies=frequencies))


RIGHT = rotate
MUTANTS = {
    "positions start at 1": Mutant(with_positions(lambda p: p + 1), ["position_0_is_identity", "definition"]),
    "indices instead of positions": Mutant(
        with_positions(lambda p: jnp.broadcast_to(jnp.arange(p.shape[1]), p.shape)),
        ["definition", "tokens_are_independent", "adjacent_positions_differ"],
    ),
    "positions of the first example serve all": Mutant(
        with_positions(lambda p: jnp.broadcast_to(p[:1], p.shape)),
        ["tokens_are_independent", "compiled_matches_eager"],
    ),
    "positions are clipped at 255": Mutant(
        with_positions(lambda p: jnp.minimum(p, 255)), ["adjacent_positions_differ", "large_positions"]
    ),
    "positions wrap around at 256": Mutant(
        with_positions(lambda p: p % 256), ["translation_invariance", "definition"]
    ),
    "rotated twice": Mutant(with_positions(lambda p: 2 * p), ["definition"]),
    "rotated clockwise": Mutant(with_positions(lambda p: -p), ["definition"]),
    "the other pairing": Mutant(interleaved, ["definition"], "vllm-project/vllm#49323"),
    "another theta": Mutant(with_frequencies(lambda H: frequencies(H, 500_000.0)), ["definition"]),
    "the exponent lacks its 2": Mutant(with_frequencies(lambda H: jnp.sqrt(frequencies(H))), ["definition"]),
    "angles in bfloat16": Mutant(
        variant(angles=lambda x, p: jax.lax.reduce_precision(angles(x, p), 8, 7)),
        ["large_positions", "definition"],
    ),
    "positions in the dtype of x": Mutant(
        variant(angles=lambda x, p: angles(x, p.astype(x.dtype))), ["dtype_is_preserved"]
    ),
    "no rotation": Mutant(lambda x, positions: x, ["adjacent_positions_differ", "definition"]),
    "the second element uses the rotated first": Mutant(
        variant(rotate_pairs=rotate_in_place), ["norms_are_preserved", "translation_invariance"]
    ),
    "both sines have the same sign": Mutant(
        variant(rotate_pairs=lambda a, b, cos, sin: (a * cos + b * sin, b * cos + a * sin)),
        ["norms_are_preserved", "definition"],
    ),
    "added, not rotated": Mutant(added, ["linearity", "norms_are_preserved", "position_0_is_identity"]),
    "one series of frequencies over all heads": Mutant(
        variant(angles=frequencies_over_all_heads), ["heads_rotate_alike", "definition"]
    ),
    "head indices instead of positions": Mutant(
        variant(angles=heads_as_positions), ["heads_rotate_alike", "adjacent_positions_differ"]
    ),
    "the output is float32": Mutant(
        lambda x, positions: rotate(x.astype(jnp.float32), positions), ["dtype_is_preserved"]
    ),
}
