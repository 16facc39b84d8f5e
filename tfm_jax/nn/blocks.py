"""Transformer blocks: attention and feed-forward sublayers, each with a residual connection and a norm."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_key
from tfm_jax.nn.attention import MultiHeadAttention
from tfm_jax.nn.config import Config
from tfm_jax.nn.feed_forward import FeedForward
from tfm_jax.nn.norms import Norm
from tfm_jax.nn.positions import Alibi, RelativeBias
from tfm_jax.ops.backends.common import Bias, heads_first
from tfm_jax.ops.kv_cache import Slots, append
from tfm_jax.ops.masks import Mask
from tfm_jax.types import Array, Key

__all__ = ["Block", "DecoderBlock", "EncoderBlock", "KeysValues", "split_key"]

KeysValues = tuple[Array, Array]  # each [..., K, S, H]
_Sublayer = Callable[[Array, Key | None], tuple[Array, Any]]


def split_key(key: Key | None, n: int) -> list[Key] | list[None]:
    """Splits a PRNG key into n; None, which means no dropout, becomes n times None."""
    return [None] * n if key is None else list(jax.random.split(as_key("nn", key), n))


class Block(nnx.Module):
    """Transformer block: self-attention, optional cross-attention, feed-forward, each with Add & Norm.

    Equivalent to::

        x = norm(x + dropout(sublayer(x)))      # post
        x = x + dropout(sublayer(norm(x)))      # pre
        x = x + dropout(sublayer(norm(x0)))     # parallel: x0 is the block's input

    for each sublayer in turn.

    Args:
      config: sizes and variants.
      cross_attention: add cross-attention between self-attention and feed-forward.
      rngs: initializes the parameters.

    Vaswani et al. 2017, section 3.1 (post); Black et al. 2022, "GPT-NeoX-20B", section 2.1 (parallel).
    """

    def __init__(self, config: Config, *, cross_attention: bool, rngs: nnx.Rngs):
        self.config = config
        norm = functools.partial(Norm, config.norm, config.d_model, dtype=config.param_dtype, rngs=rngs)
        self.attention = MultiHeadAttention(config, rngs=rngs)
        self.attention_norm = norm()
        self.cross_attention = MultiHeadAttention(config, rngs=rngs) if cross_attention else None
        self.cross_attention_norm = norm() if cross_attention else None
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = norm()

    def __call__(
        self,
        x: Array,
        mask: Mask | Array | None = None,
        memory: Array | None = None,
        memory_mask: Mask | Array | None = None,
        *,
        positions: Array | None = None,
        bias: Bias | None = None,
        key: Key | None = None,
        return_weights: bool = False,
    ) -> tuple[Array, dict[str, Array]]:
        """Applies the block.

        Args:
          x: [..., T, D].
          mask: for self-attention, True = may attend.
          memory: [..., S, D], the encoder's output; required with cross-attention, else None.
          memory_mask: for cross-attention.
          positions: int [..., T], used by ``Rope``.
          bias: on the self-attention logits, such as the output of ``PositionBias``.
          key: PRNG key for dropout; None is no dropout.
          return_weights: also return the attention weights.

        Returns:
          ``(x, weights)``: x [..., T, D]; weights ``{"self": [..., N, T, T], "cross": [..., N, T, S]}``,
          empty without ``return_weights``.

        Raises:
          ValueError: a memory without cross-attention, cross-attention without a memory, ``Rope`` without
            positions, ``Alibi`` or ``RelativeBias`` without a bias.
        """
        if (memory is None) != (self.cross_attention is None):
            got, wanted = (
                ("a memory", "None") if self.cross_attention is None else ("memory=None", "a memory")
            )
            raise ValueError(
                f"nn.{type(self).__name__}: got {got}; wanted {wanted}. Only the decoder of an "
                "encoder-decoder has cross-attention, which attends to the memory."
            )
        if bias is None and isinstance(self.config.positions, Alibi | RelativeBias):
            raise ValueError(
                f"nn.{type(self).__name__}: got bias=None with {self.config.positions}; wanted the output of "
                "PositionBias. A stack passes it."
            )

        def self_attention(y: Array, key: Key | None) -> tuple[Array, Array | None]:
            return self.attention(
                y, mask=mask, bias=bias, positions=positions, key=key, return_weights=return_weights
            )

        def cross_attention(y: Array, key: Key | None) -> tuple[Array, Array | None]:
            return self.cross_attention(y, memory, mask=memory_mask, key=key, return_weights=return_weights)

        x, *weights = self._sublayers(x, self_attention, cross_attention, key)
        named = zip(("self", "cross"), weights, strict=True)
        return x, {name: w for name, w in named if w is not None}

    def extend(
        self,
        x: Array,
        cache: KeysValues,
        slots: Slots,
        mask: Mask,
        memory: KeysValues | None = None,
        memory_mask: Mask | None = None,
        *,
        positions: Array,
        bias: Bias | None = None,
    ) -> tuple[Array, KeysValues]:
        """Applies the block to the next tokens, with a KV cache.

        Args:
          x: [..., T, D], the next tokens.
          cache: keys and values of the previous tokens, each [..., K, S, H].
          slots: of the cache, before these tokens.
          mask: for self-attention over the keys that ``ops.kv_cache.append`` returns.
          memory: keys and values of the encoder's output, from ``memory_keys_values``.
          memory_mask: for cross-attention.
          positions: int [..., T].
          bias: on the self-attention logits.

        Returns:
          ``(x, cache)``: x [..., T, D], and the updated cache.
        """

        def self_attention(y: Array, key: None) -> tuple[Array, KeysValues]:
            # The cache holds heads first: the products with one query then need no copy.
            new = map(heads_first, self.attention.keys_values(y, positions=positions))
            pairs = [append(old, n, slots) for old, n in zip(cache, new, strict=True)]
            visible, updated = zip(*pairs, strict=True)
            visible = map(heads_first, visible)
            return self.attention.attend(y, *visible, mask, bias, positions=positions)[0], updated

        def cross_attention(y: Array, key: None) -> tuple[Array, None]:
            return self.cross_attention.attend(y, *map(heads_first, memory), memory_mask)

        x, updated, _ = self._sublayers(x, self_attention, cross_attention, None)
        return x, updated

    def memory_keys_values(self, memory: Array) -> KeysValues:
        """The keys and values [..., K, S, H] of cross-attention from the encoder's output [..., S, D]."""
        return tuple(map(heads_first, self.cross_attention.keys_values(memory)))

    def _sublayers(
        self, x: Array, self_attention: _Sublayer, cross_attention: _Sublayer, key: Key | None
    ) -> tuple[Array, Any, Any]:
        """Applies all sublayers; also returns the second output of each attention (weights or cache)."""
        keys = split_key(key, 6)
        block_input, cross_extra = x, None
        y, self_extra = self_attention(self._sublayer_input(self.attention_norm, x, block_input), keys[0])
        x = self._residual(self.attention_norm, x, y, keys[1])
        if self.cross_attention is not None:
            y, cross_extra = cross_attention(
                self._sublayer_input(self.cross_attention_norm, x, block_input), keys[2]
            )
            x = self._residual(self.cross_attention_norm, x, y, keys[3])
        y = self.feed_forward(self._sublayer_input(self.feed_forward_norm, x, block_input), key=keys[4])
        return self._residual(self.feed_forward_norm, x, y, keys[5]), self_extra, cross_extra

    def _sublayer_input(self, norm: Norm, x: Array, block_input: Array) -> Array:
        """The input of a sublayer, by ``norm_placement``."""
        if self.config.norm_placement == "post":
            return x
        return norm(block_input if self.config.norm_placement == "parallel" else x)

    def _residual(self, norm: Norm, x: Array, y: Array, key: Key | None) -> Array:
        """Adds a sublayer's output y to x, after dropout; post-norm normalizes the sum."""
        chex.assert_equal_shape([x, y])  # a residual must not broadcast
        x = x + ops.dropout(y, self.config.dropout_rate, key)
        return norm(x) if self.config.norm_placement == "post" else x


class EncoderBlock(Block):
    """Encoder block: self-attention and feed-forward, each with Add & Norm.

    Args:
      config: sizes and variants.
      rngs: initializes the parameters.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, cross_attention=False, rngs=rngs)


class DecoderBlock(Block):
    """Decoder block: self-attention, cross-attention to the encoder's output, and feed-forward.

    Args:
      config: sizes and variants.
      cross_attention: False for a decoder-only model.
      rngs: initializes the parameters.
    """

    def __init__(self, config: Config, *, cross_attention: bool = True, rngs: nnx.Rngs):
        super().__init__(config, cross_attention=cross_attention, rngs=rngs)
