"""Tokens, images and positions into vectors."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.nn.config import Config
from tfm_jax.nn.linear import Linear
from tfm_jax.nn.parameters import constant, normal
from tfm_jax.nn.variants import Alibi, Learned, Patches, RelativeBias, Sinusoidal
from tfm_jax.ops.backends.declare import conjuncts, nodes
from tfm_jax.ops.mask_algebra import Dense
from tfm_jax.ops.mask_parts import Padding
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import surely
from tfm_jax.types import Array

__all__ = ["Embedding", "PatchEmbedding", "PositionBias", "PositionEmbedding", "count_positions"]


def _rows(table: Array, index: Array) -> Array:
    """Rows of a table; an index outside it gives NaN, never some other row."""
    return table.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _at(positions: Array, indices: Array) -> Array:
    """Those of the positions [..., T] with int indices [t]."""
    if not surely(lambda: positions.shape[-1] > 0):  # an axis without an element has none to gather
        positions = jnp.pad(positions, [(0, 0)] * (positions.ndim - 1) + [(0, 1)])
    return positions[..., indices]


def _check_length(scheme: object, length: int) -> None:
    """Raises for more tokens than ``Learned`` has positions."""
    if isinstance(scheme, Learned) and surely(lambda: length > scheme.max_length):
        raise ValueError(
            f"a sequence of {length} is longer than the learned position table of "
            f"{scheme.max_length}; raise Learned(max_length) or cut the input"
        )


def count_positions(config: Config, inputs: Array, mask: Mask | Array | None) -> Array | None:
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


class Embedding(nnx.Module):
    """A learned vector a token; ``attend`` reads the same table as the output projection.

    Equivalent to::

        x = table[tokens] * sqrt(D)          # sqrt(D) where config.scale_embeddings
        x = x + token_types[types]           # where there are config.token_types
        logits = x @ table.T                 # attend

    Args:
      config: V, D, ``scale_embeddings``, ``token_types``, ``dtype``.
      rngs: draws the tables from a normal of standard deviation D ** -0.5.

    Raises:
      ValueError: for a vocabulary that is not positive.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        if config.vocab_size < 1:
            raise ValueError(f"tokens need a vocabulary: vocab_size={config.vocab_size}, wanted at least 1")
        self.config = config
        std, dtype = config.d_model**-0.5, config.param_dtype
        table = lambda rows: normal(std, rngs.params(), (rows, config.d_model), dtype)
        self.table = table(config.vocab_size)
        self.token_types = table(config.token_types) if config.token_types else None

    def __call__(self, tokens: Array, token_types: Array | None = None) -> Array:
        """Looks up int tokens [..., T] as [..., T, D]; an id outside [0, V) gives NaN.

        ``token_types`` int [..., T] or [T] says of which type each is; None is type 0 for all.
        """
        tokens = as_array("nn.Embedding", "tokens", tokens)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be integer ids [..., T], got {tokens.dtype}{tokens.shape}")
        x = _rows(self.table[...], tokens)
        if self.config.scale_embeddings:
            x = x * math.sqrt(self.config.d_model)
        if self.token_types is not None:
            if token_types is None:
                types = jnp.zeros(tokens.shape[-1:], jnp.int32)
            else:
                types = as_array("nn.Embedding", "token_types", token_types)
            x = x + jnp.broadcast_to(_rows(self.token_types[...], types), x.shape)
        elif token_types is not None:
            raise ValueError("this model knows no token types: config.token_types is 0")
        return x.astype(self.config.dtype)

    def attend(self, x: Array) -> Array:
        """The logits [..., T, V] of x [..., T, D], in float32."""
        x = as_array("nn.Embedding", "x", x)
        table = self.table[...].astype(x.dtype)
        return jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)


class PatchEmbedding(nnx.Module):
    """An image cut into patches, each mapped to a vector by one linear layer.

    Equivalent to::

        patches = image.reshape(rows, height, columns, width, C).swapaxes(1, 2).reshape(T, height * width * C)
        x = patches @ kernel + bias                            # [T, D], a class token before them if asked

    Args:
      config: D, ``patches``, ``dtype``.
      rngs: draws the kernel.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        if config.token_types:
            raise ValueError("token_types are of tokens; patches have none")
        self.config, patches = config, config.patches
        pixels = math.prod(patches.sides) * patches.channels
        dtype = config.param_dtype
        self.projection = Linear((pixels,), (config.d_model,), bias=True, dtype=dtype, rngs=rngs)
        has_token = patches.class_token
        self.class_token = constant(0.0, (1, config.d_model), dtype) if has_token else None

    def __call__(self, images: Array) -> Array:
        """Maps images [..., height, width, channels] to [..., T, D]."""
        images = as_array("nn.PatchEmbedding", "images", images)
        p: Patches = self.config.patches
        wanted = (p.height, p.width, p.channels)
        if images.shape[-3:] != wanted:
            raise ValueError(f"images must be [..., height, width, channels] = {wanted}, got {images.shape}")
        lead, (height, width) = images.shape[:-3], p.sides
        x = images.reshape(*lead, p.height // height, height, p.width // width, width, p.channels)
        x = jnp.swapaxes(x, -4, -3).reshape(*lead, p.count, height * width * p.channels)
        x = self.projection(x.astype(self.config.dtype))
        if self.class_token is None:
            return x
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (*lead, 1, x.shape[-1]))
        return jnp.concatenate([token, x], axis=-2)


class PositionEmbedding(nnx.Module):
    """Adds ``Sinusoidal`` or ``Learned`` positions; for every other scheme it is the identity.

    Args:
      config: D and ``positions``.
      rngs: draws the table of ``Learned`` from a normal of standard deviation D ** -0.5.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
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
            added = _rows(self.table[...], rows)
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

    def __init__(self, config: Config, *, bidirectional: bool, rngs: nnx.Rngs):
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
