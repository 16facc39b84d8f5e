"""The variants of the Transformer, as frozen values."""

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
from tfm_jax.nn.parameters import look_up, normal
from tfm_jax.ops.backends.capabilities import conjuncts, nodes
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.algebra import Dense
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
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, section 3.5)."""

    theta: Positive = 10_000.0
    pairing: Pairing = "interleaved"

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Learned:
    """A learned vector a position, added to the embeddings; longer inputs are refused.

    Args:
      max_length: how many positions there are.
      padding_id: the padding token, of models that count the other tokens alone (RoBERTa): it has position -1
        and a vector of its own, before the others. None counts every token.
    """

    max_length: Size = 512
    padding_id: Count | None = None

    def __post_init__(self):
        check_fields(self)

    @property
    def rows(self) -> int:
        """Vectors in the table."""
        return self.max_length + (self.padding_id is not None)


@dataclass(frozen=True)
class Rope:
    """Queries and keys rotated by their position (Su et al. 2021).

    With a ``fraction`` below 1 only the first elements of each head are (GPT-NeoX).
    """

    theta: Positive = 10_000.0
    pairing: Pairing = "half"
    fraction: Share = 1.0

    def __post_init__(self):
        check_fields(self)

    def width(self, head_dim: int) -> int:
        """How many elements of a head are rotated."""
        return int(head_dim * self.fraction)


@dataclass(frozen=True)
class Alibi:
    """A linear penalty on distance, added to the attention logits (Press et al. 2022)."""


@dataclass(frozen=True)
class RelativeBias:
    """A learned bias a head and bucket of distance, shared by all layers (Raffel et al. 2020)."""

    buckets: Size = 32
    max_distance: Size = 128

    def __post_init__(self):
        check_fields(self)
        if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"RelativeBias wants an even number of buckets, at least 4, and max_distance above half of "
                f"them, got {self}"
            )


def _at(positions: Array, indices: Array) -> Array:
    """Those of the positions [..., T] with int indices [t]."""
    if not definitely(lambda: positions.shape[-1] > 0):  # an axis without an element has none to gather
        positions = jnp.pad(positions, [(0, 0)] * (positions.ndim - 1) + [(0, 1)])
    return positions[..., indices]


def _check_length(scheme: object, length: int) -> None:
    """Raises for more tokens than ``Learned`` has positions."""
    if isinstance(scheme, Learned) and definitely(lambda: length > scheme.max_length):
        raise ValueError(
            f"a sequence of {length} is longer than the learned position table of "
            f"{scheme.max_length}; raise Learned(max_length) or cut the input"
        )


def count_positions(config: "Config", inputs: Array, mask: Mask | Array | None) -> Array | None:
    """The positions of inputs for which the caller passes none.

    Equivalent to::

        valid = tokens != positions.padding_id             # Learned(padding_id=...)
        valid = mask.valid                                 # not count_padding, in masks.padding(valid) & ...
        jnp.where(valid, jnp.cumsum(valid, -1) - 1, -1)    # in the second case 0 in the place of -1

    Args:
      config: ``positions`` and ``count_padding``.
      inputs: int tokens [..., T], or images.
      mask: as the caller passes it, before any other is added.

    Returns:
      int32 [..., T]; None where all tokens count, from 0.

    Raises:
      ValueError: the tokens to count cannot be read from the mask: an array, or padding below ``|`` or ``~``.
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
    # What does not fit is left to the check of the mask, which says so by its name.
    if not valid or any(_misfits(x.shape, inputs.shape) for x in valid):
        return None
    _check_length(scheme, inputs.shape[-1])
    return jnp.maximum(_count(functools.reduce(jnp.logical_and, jnp.broadcast_arrays(*valid))), 0)


def _valid_tokens(mask: Mask | Array) -> list[Array]:
    """The arrays of the padding masks that ``&`` joins with the rest of a mask."""
    parts = conjuncts(mask) if isinstance(mask, Mask) else [Dense(mask)]
    for part in parts:
        if not isinstance(part, Padding) and any(isinstance(x, Padding | Dense) for x in nodes(part)):
            raise ValueError(
                "mask: got an array, or padding below | or ~, for a model that counts the valid tokens alone "
                "(count_padding=False); wanted masks.padding(valid), joined to others by &. Pass positions "
                "beside such a mask."
            )
    return [part.valid for part in parts if isinstance(part, Padding)]


def _misfits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    try:
        return jnp.broadcast_shapes(shape, wanted) != wanted
    except ValueError:
        return True


def _count(valid: Array) -> Array:
    """bool [..., T] -> int32: which of the valid ones each is, from 0; -1 for the others."""
    return jnp.where(valid, jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, -1)


class PositionEmbedding(nnx.Module):
    """Adds ``Sinusoidal`` or ``Learned`` positions; for every other scheme it is the identity.

    Args:
      config: D and ``positions``.
      rngs: draws the table of ``Learned`` from a normal of standard deviation D ** -0.5.
    """

    def __init__(self, config: "Config", *, rngs: nnx.Rngs):
        self.config, scheme = config, config.positions
        if isinstance(scheme, Learned):
            shape = (scheme.rows, config.d_model)
            self.table = normal(config.d_model**-0.5, rngs.params(), shape, config.param_dtype)
        else:
            self.table = None

    def count(self, length: int) -> Array:
        """The positions 0 .. length - 1, which the table of ``Learned`` must have."""
        _check_length(self.config.positions, length)
        return jnp.arange(length, dtype=jnp.int32)

    def __call__(self, x: Array, positions: Array) -> Array:
        """Adds the vectors of int positions [..., T] to x [..., T, D].

        A position outside the table of ``Learned`` gives NaN, never some other position; with a
        ``padding_id``, -1 is the position of padding.
        """
        x = as_array("nn.PositionEmbedding", "x", x)
        positions = as_array("nn.PositionEmbedding", "positions", positions)
        scheme = self.config.positions
        if isinstance(scheme, Learned):
            # The vector of padding comes first. An addition of 0 would be an operation of the program.
            rows = positions if scheme.padding_id is None else positions + 1
            added = look_up(self.table[...], rows)
        elif isinstance(scheme, Sinusoidal):
            added = ops.sinusoidal(positions, x.shape[-1], theta=scheme.theta, pairing=scheme.pairing)
        else:
            return x
        return x + jnp.broadcast_to(added.astype(x.dtype), x.shape)


class PositionBias(nnx.Module):
    """The bias on the attention logits of ``Alibi`` or ``RelativeBias``; None for every other scheme.

    Args:
      config: N and ``positions``.
      bidirectional: tell keys before the query from keys after it (an encoder), or not (a decoder).
      rngs: draws the table of ``RelativeBias`` from a normal of standard deviation D ** -0.5.
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
        """The bias of int positions [..., T] and [..., S], as a function.

        Returns:
          A function of indices [t] of queries and [s] of keys that gives float32 [..., N, t, s], for
          ``ops.attention`` to ask tile by tile: no table of T x S is built.
        """
        scheme = self.config.positions
        if isinstance(scheme, Alibi):
            alibi = lambda q, k, i, j: ops.alibi(self.config.n_heads, _at(q, i), _at(k, j))
            return jax.tree_util.Partial(alibi, query_positions, key_positions)
        if not isinstance(scheme, RelativeBias):
            return None
        options = {"buckets": scheme.buckets, "max_distance": scheme.max_distance}

        def relative(table: Array, q: Array, k: Array, i: Array, j: Array) -> Array:
            buckets = ops.relative_buckets(_at(q, i), _at(k, j), **options, bidirectional=self.bidirectional)
            return jnp.moveaxis(table[buckets].astype(jnp.float32), -1, -3)

        return jax.tree_util.Partial(relative, self.table[...], query_positions, key_positions)
