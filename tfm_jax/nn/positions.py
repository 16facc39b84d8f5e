"""Position schemes: sinusoidal, learned, RoPE, ALiBi, relative bias; and the layers that apply them."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.fields import check_fields
from tfm_jax.nn._lookup import lookup
from tfm_jax.nn._parameters import initialize
from tfm_jax.nn.initializers import Normal
from tfm_jax.nn.variants import Positions, register_variant
from tfm_jax.ops.backends.common import Bias, BiasFunction
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.algebra import Dense, conjuncts, nodes
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.positions import alibi_of_slopes, alibi_slopes
from tfm_jax.ops.tracing import definitely
from tfm_jax.ranges import Count, Positive, Share, Size
from tfm_jax.types import Array

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = [
    "Alibi",
    "Learned",
    "RelativeBias",
    "Rope",
    "Sinusoidal",
    "check_length",
    "count_positions",
    "position_scheme",
    "valid_tokens",
]

Pairing = Literal["interleaved", "half"]


@register_variant
@dataclass(frozen=True)
class Sinusoidal(Positions):
    """Sinusoidal position embedding (Vaswani et al. 2017, section 3.5)."""

    theta: Positive = 10_000.0
    pairing: Pairing = "interleaved"

    def __post_init__(self):
        check_fields(self)

    def check_config(self, config: "Config") -> None:
        if config.d_model % 2:
            raise ValueError(f"Config: got d_model={config.d_model} with {self}; wanted an even d_model.")

    def build_embedding(self, config: "Config", *, rngs: nnx.Rngs) -> "SinusoidalLayer":
        return SinusoidalLayer(self)


@register_variant
@dataclass(frozen=True)
class Learned(Positions):
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

    def build_embedding(self, config: "Config", *, rngs: nnx.Rngs) -> "LearnedLayer":
        return LearnedLayer(self, config, rngs=rngs)


@register_variant
@dataclass(frozen=True)
class Rope(Positions):
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

    def check_config(self, config: "Config") -> None:
        if not (n := self.width(config.H)) or n % 2:
            raise ValueError(
                f"Config: got {self}, which rotates {n} of the {config.H} elements of a head; "
                "wanted an even number, at least 2."
            )

    def rotate(self, x: Array, positions: Array) -> Array:
        rotated, rest = jnp.split(x, [self.width(x.shape[-1])], axis=-1)
        rotated = ops.rotary(rotated, positions, theta=self.theta, pairing=self.pairing)
        return jnp.concatenate([rotated, rest], axis=-1)


@register_variant
@dataclass(frozen=True)
class Alibi(Positions):
    """ALiBi: a linear penalty on distance, added to the attention logits (Press et al. 2022)."""

    def build_bias(self, config: "Config", *, bidirectional: bool, rngs: nnx.Rngs) -> "AlibiLayer":
        return AlibiLayer(config.n_heads)


@register_variant
@dataclass(frozen=True)
class RelativeBias(Positions):
    """T5's relative position bias: one learned value per head and bucket of distance, shared by all layers.

    The table is normal with standard deviation D ** -0.5, whatever ``config.initializers``.

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

    def build_bias(self, config: "Config", *, bidirectional: bool, rngs: nnx.Rngs) -> "RelativeBiasLayer":
        return RelativeBiasLayer(self, config, bidirectional=bidirectional, rngs=rngs)


def _at(positions: Array, indices: Array) -> Array:
    """The positions [..., T] at int indices [t]."""
    if not definitely(lambda: positions.shape[-1] > 0):  # a gather from an empty axis fails
        positions = jnp.pad(positions, [(0, 0)] * (positions.ndim - 1) + [(0, 1)])
    return positions[..., indices]


def position_scheme(config: "Config") -> Positions:
    """The position scheme of a config; for None one that does nothing."""
    return Positions() if config.positions is None else config.positions


def check_length(config: "Config", length: int) -> None:
    """Raises for a sequence of more positions than the scheme has."""
    scheme = position_scheme(config)
    limit = scheme.max_length
    if limit is not None and definitely(lambda: length > limit):
        raise ValueError(
            f"{type(scheme).__name__}: got a sequence of {length}; wanted at most max_length={limit}. Raise "
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
    padding_id = position_scheme(config).padding_id
    if padding_id is not None:
        inputs = as_array("nn.Embedding", "tokens", inputs)
        check_length(config, inputs.shape[-1])
        return _count(inputs != padding_id)
    if config.count_padding or config.patches is not None or mask is None:
        return None
    inputs = as_array("nn.Embedding", "tokens", inputs)
    counter = "a model that counts only valid tokens (count_padding=False)"
    valid = valid_tokens(mask, inputs.shape, counter, "With such a mask pass positions too.")
    if valid is None:
        return None
    check_length(config, inputs.shape[-1])
    return jnp.maximum(_count(valid), 0)


def valid_tokens(mask: Mask | Array, shape: tuple[int, ...], reader: str, fix: str) -> Array | None:
    """The valid tokens by the padding masks that are joined to the rest of a mask by ``&``.

    Args:
      mask: the caller's mask.
      shape: [..., T] of the tokens.
      reader: what reads them, for the error.
      fix: the last sentence of the error.

    Returns:
      bool [..., T]; None without padding masks, and for those of another shape, which attention reports.

    Raises:
      ValueError: an array, or padding under ``|`` or ``~``.
    """
    valid = []
    for part in conjuncts(mask) if isinstance(mask, Mask) else [Dense(mask)]:
        if isinstance(part, Padding):
            valid.append(part.valid)
        elif any(isinstance(x, Padding | Dense) for x in nodes(part)):
            raise ValueError(
                f"mask: got an array, or padding under | or ~, for {reader}; wanted masks.padding(valid), "
                f"joined to other masks by &. {fix}"
            )
    if not valid or any(_misfits(x.shape, shape) for x in valid):
        return None
    return functools.reduce(jnp.logical_and, jnp.broadcast_arrays(*valid))


def _misfits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape does not broadcast to the wanted one."""
    try:
        return jnp.broadcast_shapes(shape, wanted) != wanted
    except ValueError:
        return True


def _count(valid: Array) -> Array:
    """bool [..., T] -> int32: the index of each valid token among the valid ones; -1 for the others."""
    return jnp.where(valid, jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, -1)


class SinusoidalLayer(nnx.Module):
    """Adds the vectors of ``Sinusoidal`` positions."""

    def __init__(self, scheme: Sinusoidal):
        self.scheme = scheme

    def __call__(self, x: Array, positions: Array) -> Array:
        """Adds the vectors of int positions [..., T] to x [..., T, D]."""
        x, positions = as_array("nn.Sinusoidal", "x", x), as_array("nn.Sinusoidal", "positions", positions)
        theta, pairing = self.scheme.theta, self.scheme.pairing
        added = ops.sinusoidal(positions, x.shape[-1], theta=theta, pairing=pairing)
        return x + jnp.broadcast_to(added.astype(x.dtype), x.shape)


class LearnedLayer(nnx.Module):
    """Adds the vectors of ``Learned`` positions, rows of a table."""

    def __init__(self, scheme: Learned, config: "Config", *, rngs: nnx.Rngs):
        self.scheme = scheme
        shape = (scheme.rows, config.d_model)
        self.table = initialize(config.initializers.embedding, rngs.params(), shape, config.param_dtype)

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        return {"table": "T D"}

    def __call__(self, x: Array, positions: Array) -> Array:
        """Adds the vectors of int positions [..., T] to x [..., T, D].

        A position outside the table gives NaN, never another position's vector. With a ``padding_id``, -1 is
        the position of padding.
        """
        x, positions = as_array("nn.Learned", "x", x), as_array("nn.Learned", "positions", positions)
        # Row 0 is for padding. Without a padding_id, adding 0 would put an addition into the program.
        rows = positions if self.scheme.padding_id is None else positions + 1
        added = lookup(self.table[...], rows, "T D")
        return x + jnp.broadcast_to(added.astype(x.dtype), x.shape)


class AlibiLayer(nnx.Module):
    """Attention bias of ``Alibi``."""

    def __init__(self, n_heads: int):
        self.n_heads = n_heads

    def __call__(self, query_positions: Array, key_positions: Array) -> Bias:
        """The bias between int positions [..., T] and [..., S], as a function of indices."""

        def alibi(slopes: Array, q: Array, k: Array, i: Array, j: Array) -> Array:
            return alibi_of_slopes(slopes, _at(q, i), _at(k, j))

        arrays = (alibi_slopes(self.n_heads), query_positions, key_positions)
        return BiasFunction(arrays, alibi, ("N", "... T", "... S"))


class RelativeBiasLayer(nnx.Module):
    """Attention bias of ``RelativeBias``, with its table.

    The table is normal with standard deviation D ** -0.5, whatever ``config.initializers``: its values are
    logits, not vectors.
    """

    def __init__(self, scheme: RelativeBias, config: "Config", *, bidirectional: bool, rngs: nnx.Rngs):
        self.scheme, self.bidirectional = scheme, bidirectional
        shape = (scheme.buckets, config.n_heads)
        self.table = initialize(Normal(config.d_model**-0.5), rngs.params(), shape, config.param_dtype)

    def axes(self) -> dict[str, str]:
        """The letters of the parameters; R numbers the buckets."""
        return {"table": "R N"}

    def __call__(self, query_positions: Array, key_positions: Array) -> Bias:
        """The bias between int positions [..., T] and [..., S], as a function.

        Returns:
          A function of query indices [t] and key indices [s] that returns float32 [..., N, t, s].
          ``ops.attention`` evaluates it one tile at a time and never builds a T x S table.
        """
        scheme, bidirectional = self.scheme, self.bidirectional

        def relative(table: Array, q: Array, k: Array, i: Array, j: Array) -> Array:
            buckets = ops.relative_buckets(
                _at(q, i),
                _at(k, j),
                buckets=scheme.buckets,
                max_distance=scheme.max_distance,
                bidirectional=bidirectional,
            )
            return jnp.moveaxis(table[buckets].astype(jnp.float32), -1, -3)

        arrays = (self.table[...], query_positions, key_positions)
        return BiasFunction(arrays, relative, ("R N", "... T", "... S"))
