"""Wrong rotary positions, each with a bug that was seen somewhere, in our own words; and the right one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants.mutant import Mutant

THETA = 10_000.0


def frequencies(H, theta=THETA):
    return jnp.asarray(theta ** (-np.arange(0, H, 2) / H), jnp.float32)


def angles(x, positions, frequencies=frequencies):
    """[B, T, 1, H / 2]"""
    return (positions[..., None].astype(jnp.float32) * frequencies(x.shape[-1])[None, None])[..., None, :]


def turned(a, b, cos, sin):
    return a * cos - b * sin, b * cos + a * sin


def turned_in_place(a, b, cos, sin):
    a = a * cos - b * sin
    return a, b * cos + a * sin


def rotate(x, positions, *, angles=angles, turned=turned):
    at, wide = angles(x, positions), x.astype(jnp.float32)
    a, b = jnp.split(wide, 2, -1)
    return jnp.concatenate(turned(a, b, jnp.cos(at), jnp.sin(at)), -1).astype(x.dtype)


def interleaved(x, positions):
    apart = jnp.concatenate([x[..., 0::2], x[..., 1::2]], -1)
    a, b = jnp.split(rotate(apart, positions), 2, -1)
    return jnp.stack([a, b], -1).reshape(x.shape)


def by_head(x, positions):
    B, T, N, H = x.shape
    of_all = angles(x, positions, lambda H: frequencies(N * H))
    return of_all.reshape(B, T, N, H // 2)


def heads_for_tokens(x, positions):
    places = jnp.arange(x.shape[2]).astype(jnp.float32)
    return (places[:, None] * frequencies(x.shape[-1])[None])[None, None]


def added(x, positions):
    at = angles(x, positions)
    return x + jnp.concatenate([jnp.sin(at), jnp.cos(at)], -1).astype(x.dtype)


def rounded(x, positions):
    return jax.lax.reduce_precision(angles(x, positions), 8, 7)


def at(places):
    """Other positions."""
    return lambda x, positions: rotate(x, places(positions))


def waves(frequencies):
    return part(angles=functools.partial(angles, frequencies=frequencies))


def part(**parts):
    return functools.partial(rotate, **parts)


RIGHT = rotate
# name: (the function, laws that it must break)
MUTANTS = {
    "positions from 1": (at(lambda p: p + 1), ["position_0", "definition"]),
    "counted inside": (
        at(lambda p: jnp.broadcast_to(jnp.arange(p.shape[1]), p.shape)),
        ["definition", "each_token_by_itself", "told_apart"],
    ),
    "the positions of the first row serve all": (
        at(lambda p: jnp.broadcast_to(p[:1], p.shape)),
        ["each_token_by_itself", "compiled_is_eager"],
    ),
    "a table that ends": (at(lambda p: jnp.minimum(p, 255)), ["told_apart", "large_positions"]),
    "the table starts again": (at(lambda p: p % 256), ["only_differences", "definition"]),
    "turned twice": (at(lambda p: 2 * p), ["definition"]),
    "turned the other way": (at(lambda p: -p), ["definition"]),
    "the other pairing": Mutant(interleaved, ["definition"], "vllm-project/vllm#49323"),
    "another theta": (waves(lambda H: frequencies(H, 500_000.0)), ["definition"]),
    "the exponent without its 2": (
        waves(lambda H: jnp.sqrt(frequencies(H))),
        ["definition"],
    ),
    "angles in bfloat16": (part(angles=rounded), ["large_positions", "definition"]),
    "positions in x's dtype": (
        part(angles=lambda x, p: angles(x, p.astype(x.dtype))),
        ["dtype_is_kept"],
    ),
    "nothing is turned": (lambda x, positions: x, ["told_apart", "definition"]),
    "the second by the turned first": (part(turned=turned_in_place), ["norms_stay", "only_differences"]),
    "both sines with one sign": (
        part(turned=lambda a, b, cos, sin: (a * cos + b * sin, b * cos + a * sin)),
        ["norms_stay", "definition"],
    ),
    "added, not turned": (added, ["linear", "norms_stay", "position_0"]),
    "heads share one row of frequencies": (part(angles=by_head), ["heads_alike", "definition"]),
    "heads taken for tokens": (part(angles=heads_for_tokens), ["heads_alike", "told_apart"]),
    "another dtype comes out": (
        lambda x, positions: rotate(x.astype(jnp.float32), positions),
        ["dtype_is_kept"],
    ),
}
