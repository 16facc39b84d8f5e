"""Position schemes: sinusoidal, learned, RoPE, ALiBi, relative bias; and the modules that apply them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import lookup, normal
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.algebra import Dense, conjuncts, nodes
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.tracing import definitely
from tfm_jax.ranges import Count, Positive, Share, Size
from tfm_jax.types import Array

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = [
    "Alibi",
    "Learned",
    "PositionBias",
    "PositionEmbedding",
    "RelativeBias",
    "Rope",
    "Sinusoidal",
    "count_positions",
]

Pairing = Literal["interleaved", "half"]


@dataclass(frozen=True)
class Sinusoidal:
    """Sinusoidal position embedding (Vaswani et al. 2017, section 3.5)."""

    theta: Positive = 10_000.0
    pairing: Pairing = "interleaved"

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Learned:
    """Learned position embedding; a longer input is an error.

    Args:
      max_length: number of positions.
      padding_id: the pad token of models that count only the other tokens (RoBERTa). It has position -1,
        with its own vector at row 0 of the table. None counts every token.
    """

    max_length: Size = 512
    padding_id: Count | None = None

    def __post_init__(self):
        check_fields(self)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.max_length + (self.padding_id is not None)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of queries and keys (Su et al. 2021).

    With a ``fraction`` below 1 only the first elements of each head are rotated (GPT-NeoX).
    """

    theta: Positive = 10_000.0
    pairing: Pairing = "half"
    fraction: Share = 1.0

    def __post_init__(self):
        check_fields(self)

    def width(self, head_dim: int) -> int:
        """The number of rotated elements of a head."""
        return int(head_dim * self.fraction)


@dataclass(frozen=True)
class Alibi:
    """ALiBi: a linear penalty on distance, added to the attention logits (Press et al. 2022)."""


@dataclass(frozen=True)
class RelativeBias:
    """T5's relative position bias: one learned value per head and bucket of distance, shared by all layers.

    Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.1.
    """

    buckets: Size = 32
    max_distance: Size = 128

    def __post_init__(self):
        check_fields(self)
        if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"RelativeBias: got {self}; wanted an even number of buckets, at least 4, and max_distance "
                "above half of them."
            )


def _at(positions: Array, indices: Array) -> Array:
    """The positions [..., T] at int indices [t]."""
    if not definitely(lambda: positions.shape[-1] > 0):  # a gather from an empty axis fails
        positions = jnp.pad(positions, [(0, 0)] * (positions.ndim - 1) + [(0, 1)])
    return positions[..., indices]


def _check_length(scheme: object, length: int) -> None:
    """Raises for a sequence longer than the table of ``Learned``."""
    if isinstance(scheme, Learned) and definitely(lambda: length > scheme.max_length):
        raise ValueError(
            f"Learned: got a sequence of {length}; wanted at most max_length={scheme.max_length}. Raise "
            "max_length or truncate the input."
        )


def count_positions(config: "Config", inputs: Array, mask: Mask | Array | None) -> Array | None:
    """Default positions of an input.

    Equivalent to::

        valid = tokens != positions.padding_id             # Learned(padding_id=...)
        valid = mask.valid                                 # not count_padding, in masks.padding(valid) & ...
        jnp.where(valid, jnp.cumsum(valid, -1) - 1, -1)    # 0 instead of -1 in the second case

    Args:
      config: ``positions`` and ``count_padding``.
      inputs: int tokens [..., T], or images.
      mask: the caller's mask.

    Returns:
      int32 [..., T]; None if every token counts, from 0.

    Raises:
      ValueError: the valid tokens cannot be read from the mask: an array, or padding under ``|`` or ``~``.
    """
    scheme = config.positions
    by_id = isinstance(scheme, Learned) and scheme.padding_id is not None
    if not by_id and (config.count_padding or config.patches or mask is None):
        return None
    inputs = as_array("nn.Embedding", "tokens", inputs)
    if by_id:
        _check_length(scheme, inputs.shape[-1])
        return _count(inputs != scheme.padding_id)
    valid = _valid_tokens(mask)
    # The check of the mask reports a shape that does not fit.
    if not valid or any(_misfits(x.shape, inputs.shape) for x in valid):
        return None
    _check_length(scheme, inputs.shape[-1])
    return jnp.maximum(_count(functools.reduce(jnp.logical_and, jnp.broadcast_arrays(*valid))), 0)


def _valid_tokens(mask: Mask | Array) -> list[Array]:
    """The arrays of the padding masks that are joined to the rest of a mask by ``&``."""
    parts = conjuncts(mask) if isinstance(mask, Mask) else [Dense(mask)]
    for part in parts:
        if not isinstance(part, Padding) and any(isinstance(x, Padding | Dense) for x in nodes(part)):
            raise ValueError(
                "mask: got an array, or padding under | or ~, for a model that counts only valid tokens "
                "(count_padding=False); wanted masks.padding(valid), joined to other masks by &. "
                "With such a mask pass positions too."
            )
    return [part.valid for part in parts if isinstance(part, Padding)]


def _misfits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape does not broadcast to the wanted one."""
    try:
        return jnp.broadcast_shapes(shape, wanted) != wanted
    except ValueError:
        return True


def _count(valid: Array) -> Array:
    """bool [..., T] -> int32: the index of each valid token among the valid ones; -1 for the others."""
    return jnp.where(valid, jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, -1)


class PositionEmbedding(nnx.Module):
    """Adds ``Sinusoidal`` or ``Learned`` positions; the identity for every other scheme.

    Args:
      config: D and ``positions``.
      rngs: initializes the table of ``Learned``, normal with standard deviation D ** -0.5.
    """

    def __init__(self, config: "Config", *, rngs: nnx.Rngs):
        self.config, scheme = config, config.positions
        if isinstance(scheme, Learned):
            shape = (scheme.rows, config.d_model)
            self.table = normal(config.d_model**-0.5, rngs.params(), shape, config.param_dtype)
        else:
            self.table = None

    def count(self, length: int) -> Array:
        """The positions 0 .. length - 1; raises if ``Learned`` has fewer."""
        _check_length(self.config.positions, length)
        return jnp.arange(length, dtype=jnp.int32)

    def __call__(self, x: Array, positions: Array) -> Array:
        """Adds the vectors of int positions [..., T] to x [..., T, D].

        A position outside the table of ``Learned`` gives NaN, never another position's vector. With a
        ``padding_id``, -1 is the position of padding.
        """
        x = as_array("nn.PositionEmbedding", "x", x)
        positions = as_array("nn.PositionEmbedding", "positions", positions)
        scheme = self.config.positions
        if isinstance(scheme, Learned):
            # Row 0 is for padding. Without a padding_id, adding 0 would put an addition into the program.
            rows = positions if scheme.padding_id is None else positions + 1
            added = lookup(self.table[...], rows)
        elif isinstance(scheme, Sinusoidal):
            added = ops.sinusoidal(positions, x.shape[-1], theta=scheme.theta, pairing=scheme.pairing)
        else:
            return x
        return x + jnp.broadcast_to(added.astype(x.dtype), x.shape)


class PositionBias(nnx.Module):
    """Attention bias of ``Alibi`` or ``RelativeBias``; None for every other scheme.

    Args:
      config: N and ``positions``.
      bidirectional: distinguish keys before and after the query, as an encoder does.
      rngs: initializes the table of ``RelativeBias``, normal with standard deviation D ** -0.5.
    """

    def __init__(self, config: "Config", *, bidirectional: bool, rngs: nnx.Rngs):
        self.config, self.bidirectional, scheme = config, bidirectional, config.positions
        if isinstance(scheme, RelativeBias):
            shape = (scheme.buckets, config.n_heads)
            self.table = normal(config.d_model**-0.5, rngs.params(), shape, config.param_dtype)
        else:
            self.table = None

    def __call__(
        self, query_positions: Array, key_positions: Array
    ) -> Callable[[Array, Array], Array] | None:
        """The bias between int positions [..., T] and [..., S], as a function.

        Returns:
          A function of query indices [t] and key indices [s] that returns float32 [..., N, t, s].
          ``ops.attention`` evaluates it one tile at a time and never builds a T x S table.
        """
        scheme = self.config.positions
        if isinstance(scheme, Alibi):

            def alibi(q: Array, k: Array, i: Array, j: Array) -> Array:
                return ops.alibi(self.config.n_heads, _at(q, i), _at(k, j))

            return jax.tree_util.Partial(alibi, query_positions, key_positions)
        if not isinstance(scheme, RelativeBias):
            return None
        options = {"buckets": scheme.buckets, "max_distance": scheme.max_distance}

        def relative(table: Array, q: Array, k: Array, i: Array, j: Array) -> Array:
            buckets = ops.relative_buckets(_at(q, i), _at(k, j), **options, bidirectional=self.bidirectional)
            return jnp.moveaxis(table[buckets].astype(jnp.float32), -1, -3)

        return jax.tree_util.Partial(relative, self.table[...], query_positions, key_positions)
