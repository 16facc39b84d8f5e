"""Position encodings of integer positions: sinusoidal, rotary, ALiBi, T5's relative buckets.

Positions are arguments: packing, decoding with a KV cache and left padding pass other positions. Angles and
distances are computed in float32 or in integers.
"""

import functools

import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array, check_shapes
from tfm_jax.ranges import POSITIVE, SIZE, check_number, check_numbers
from tfm_jax.types import Array

__all__ = ["alibi", "relative_buckets", "rotary", "sinusoidal"]

_INTEGERS = "Pass integers with the tokens as the last axis, such as jnp.arange(T)."
_FIX = {"rank": _INTEGERS, "dtype": _INTEGERS}


def sinusoidal(positions: Array, dim: int, *, theta: float = 10_000.0, pairing: str = "interleaved") -> Array:
    """Sinusoidal position encoding: sines and cosines of ``dim / 2`` angles.

    Equivalent to::

        angles = positions[..., None] * theta ** (-2 * jnp.arange(dim // 2) / dim)
        jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions.shape, dim)    # "interleaved"
        jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)                             # "half"

    Args:
      positions: [..., T] integer.
      dim: D, even.
      theta: the base of the wavelengths, which grow from 2 pi to 2 pi * theta.
      pairing: the indices of the sine and the cosine of angle i: "interleaved", 2i and 2i + 1 (the paper), or
        "half", i and i + D/2 (Marian). The angles are the same. (tensor2tensor's differ: its exponents are
        multiples of 1 / (D/2 - 1).)

    Returns:
      [..., T, D] float32 in [-1, 1]. Position 0 is sin 0 = 0 and cos 0 = 1.

    Raises:
      ValueError: ``dim`` is odd, ``pairing`` is unknown, or ``positions`` are not integers.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    positions = as_array("sinusoidal", "positions", positions)
    check_shapes("sinusoidal", positions=(positions, "... T", "int"), fix=_FIX)
    angles = _angles("sinusoidal", positions, dim, theta)
    return _join("sinusoidal", jnp.sin(angles), jnp.cos(angles), pairing)


def rotary(x: Array, positions: Array, *, theta: float = 10_000.0, pairing: str = "half") -> Array:
    """Rotary position embedding: rotates pairs of elements by angles proportional to the position.

    Equivalent to::

        angles = positions[..., None, None] * theta ** (-2 * jnp.arange(H // 2) / H)
        a, b = x[..., : H // 2], x[..., H // 2 :]                                   # "half"
        a, b = x[..., 0::2], x[..., 1::2]                                           # "interleaved"
        a, b = a * jnp.cos(angles) - b * jnp.sin(angles), b * jnp.cos(angles) + a * jnp.sin(angles)
        jnp.concatenate([a, b], -1)                                                 # "half"
        jnp.stack([a, b], -1).reshape(x.shape)                                      # "interleaved"

    Args:
      x: [..., T, N, H] queries or keys, float, H even. For partial rotary, pass the slice of each head.
      positions: [..., T] integer, one for each token; leading axes may be missing or 1, and broadcast.
      theta: the base of the wavelengths.
      pairing: the pairs: "half", i and i + H/2 (GPT-NeoX, Llama), or "interleaved", 2i and 2i + 1 (the paper,
        GPT-J). A checkpoint needs the pairing that it was trained with.

    Returns:
      [..., T, N, H] in x's dtype. Position 0 leaves x unchanged. Rotation keeps norms, and the inner product
      of a query and a key depends only on the difference of their positions.

    Raises:
      ValueError: H is odd, ``pairing`` is unknown, ``positions`` do not fit x, or a dtype is wrong.

    Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", equation 34.
    """
    x, positions = as_array("rotary", "x", x), as_array("rotary", "positions", positions)
    check_shapes(
        "rotary",
        x=(x, "... T N H", "float"),
        positions=(positions, "*... T", "int"),
        fix={"T": "Does x have its tokens before its heads?"},
    )
    angles = _angles("rotary", jnp.broadcast_to(positions, x.shape[:-2])[..., None], x.shape[-1], theta)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    if pairing == "half":
        a, b = jnp.split(wide, 2, axis=-1)
    else:
        a, b = wide[..., 0::2], wide[..., 1::2]
    return _join("rotary", a * cos - b * sin, b * cos + a * sin, pairing).astype(x.dtype)


def alibi(n_heads: int, query_positions: Array, key_positions: Array) -> Array:
    """ALiBi: an attention bias proportional to distance, with one slope per head.

    Equivalent to::

        distance = jnp.abs(query_positions[..., :, None] - key_positions[..., None, :])
        -slopes[:, None, None] * distance[..., None, :, :]      # slopes: 2 ** (-8 * n / N) for n = 1 .. N

    Args:
      n_heads: N. If it is not a power of two, the slopes are those of the largest power of two P below it,
        followed by the first, third, fifth, ... of those of 2 P.
      query_positions: [..., T] integer.
      key_positions: [..., S] integer; leading axes may be missing or 1 on either side, and broadcast.

    Returns:
      [..., N, T, S] float32: zero at equal positions, negative elsewhere, symmetric in the distance.

    Raises:
      ValueError: ``n_heads`` is less than 1, or the positions are not integers or do not fit each other.

    Press et al. 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input Length
    Extrapolation", section 3; the slopes where N is not a power of two as in the authors' code.
    """
    return alibi_of_slopes(alibi_slopes(n_heads), query_positions, key_positions)


def alibi_slopes(n_heads: int) -> Array:
    """The slopes [N] of ``alibi``, float32."""
    check_number("alibi", "n_heads", n_heads, SIZE)
    return jnp.asarray(_slopes(n_heads), jnp.float32)


def alibi_of_slopes(slopes: Array, query_positions: Array, key_positions: Array) -> Array:
    """``alibi`` of the heads that have these slopes [n]: [..., n, T, S]."""
    difference = _differences("alibi", query_positions, key_positions)
    distance = jnp.abs(difference).astype(jnp.float32)[..., None, :, :]
    shape = (*distance.shape[:-3], slopes.shape[0], *distance.shape[-2:])
    return jnp.broadcast_to(-slopes[:, None, None], shape) * distance


def relative_buckets(
    query_positions: Array,
    key_positions: Array,
    *,
    buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
) -> Array:
    """T5 relative-position buckets: the index of each position difference in a table of learned biases.

    Equivalent to::

        difference = key_positions[..., None, :] - query_positions[..., :, None]
        half = buckets // 2
        n, first, count = jnp.abs(difference), jnp.where(difference > 0, half, 0), half     # bidirectional
        n, first, count = jnp.maximum(-difference, 0), 0, buckets                           # otherwise
        exact = count // 2
        large = exact + floor(jnp.log(n / exact) / jnp.log(max_distance / exact) * (count - exact))
        first + jnp.where(n < exact, n, jnp.minimum(large, count - 1))

    Args:
      query_positions: [..., T] integer.
      key_positions: [..., S] integer; leading axes may be missing or 1 on either side, and broadcast.
      buckets: the number of buckets; even and at least 4 if bidirectional, at least 2 otherwise.
      max_distance: this and larger distances share the last bucket; more than the number of exact buckets.
      bidirectional: whether keys after the query have separate buckets; otherwise they are in bucket 0.

    Returns:
      [..., T, S] int32 in [0, buckets). The boundaries are computed in integers, without rounding.

    Raises:
      ValueError: ``buckets`` or ``max_distance`` is out of range, or the positions are not integers or do not
        fit each other.

    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    section 2.1; the bucket formula as in the authors' code.
    """
    check_numbers("relative_buckets", SIZE, buckets=buckets, max_distance=max_distance)
    count = buckets // 2 if bidirectional else buckets
    if count < 2 or (bidirectional and buckets % 2):
        least = "an even number, at least 4, if bidirectional" if bidirectional else "at least 2"
        raise ValueError(f"relative_buckets: got buckets={buckets}; wanted {least}.")
    if max_distance <= count // 2:
        raise ValueError(
            f"relative_buckets: got max_distance={max_distance} with buckets={buckets}; wanted more than "
            f"{count // 2}, the number of distances with an exact bucket."
        )
    difference = _differences("relative_buckets", query_positions, key_positions)
    distance = jnp.abs(difference) if bidirectional else jnp.maximum(-difference, 0)
    boundaries = jnp.asarray(_boundaries(count, max_distance), jnp.int32)
    bucket = jnp.searchsorted(boundaries, distance, side="right", method="compare_all").astype(jnp.int32)
    return jnp.where(difference > 0, bucket + count, bucket) if bidirectional else bucket


def _angles(function: str, positions: Array, dim: int, theta: float) -> Array:
    """positions [...] -> float32 [..., dim / 2]."""
    if dim < 2 or dim % 2:
        raise ValueError(
            f"{function}: got a last dimension of {dim}; wanted an even one, for pairs of elements."
        )
    check_number(function, "theta", theta, POSITIVE)
    frequencies = jnp.asarray(theta ** (-np.arange(0, dim, 2) / dim), jnp.float32)
    return positions[..., None].astype(jnp.float32) * jnp.broadcast_to(
        frequencies, (*positions.shape, dim // 2)
    )


def _join(function: str, first: Array, second: Array, pairing: str) -> Array:
    if pairing == "half":
        return jnp.concatenate([first, second], axis=-1)
    if pairing == "interleaved":
        return jnp.stack([first, second], axis=-1).reshape(*first.shape[:-1], 2 * first.shape[-1])
    raise ValueError(f'{function}: got pairing={pairing!r}; wanted "interleaved" or "half".')


def _differences(function: str, query_positions: Array, key_positions: Array) -> Array:
    """[..., T] and [..., S] -> int32 [..., T, S], key minus query."""
    query_positions = as_array(function, "query_positions", query_positions)
    key_positions = as_array(function, "key_positions", key_positions)
    check_shapes(
        function,
        query_positions=(query_positions, "*... T", "int"),
        key_positions=(key_positions, "*... S", "int"),
        fix=_FIX,
    )
    queries, keys = query_positions.shape, key_positions.shape
    leading = jnp.broadcast_shapes(queries[:-1], keys[:-1])
    q = jnp.broadcast_to(query_positions.astype(jnp.int32), (*leading, queries[-1]))
    k = jnp.broadcast_to(key_positions.astype(jnp.int32), (*leading, keys[-1]))
    return k[..., None, :] - q[..., :, None]


def _slopes(n_heads: int) -> np.ndarray:
    power = 1 << (n_heads.bit_length() - 1)
    slopes, next_slopes = (2.0 ** (-8 * np.arange(1, n + 1) / n) for n in (power, 2 * power))
    return np.concatenate([slopes, next_slopes[0::2][: n_heads - power]])


@functools.cache
def _boundaries(buckets: int, max_distance: int) -> tuple[int, ...]:
    """The first distance of each bucket after bucket 0.

    Bucket exact + j starts at the smallest n with log(n / exact) / log(max_distance / exact) * rest >= j,
    that is n^rest >= max_distance^j * exact^(rest - j): integers, exact on every machine.
    """
    exact = buckets // 2
    rest = buckets - exact
    boundaries, n = list(range(1, exact + 1)), exact
    for j in range(1, rest):
        while n**rest < max_distance**j * exact ** (rest - j):
            n += 1
        boundaries.append(n)
    return tuple(boundaries)
