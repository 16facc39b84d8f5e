"""One layer of the Transformer: attention and feed-forward, each with Add & Norm."""

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
    """Splits a key into n, or no key into n times None: no key, no dropout, all the way down."""
    return [None] * n if key is None else list(jax.random.split(as_key("nn", key), n))


class Block(nnx.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward, each with Add & Norm.

    Equivalent to::

        x = norm(x + dropout(sublayer(x)))      # post, the paper's
        x = x + dropout(sublayer(norm(x)))      # pre
        x = x + dropout(sublayer(norm(y)))      # parallel: y is what the first sublayer's x was

    for each sublayer in turn (Vaswani et al. 2017, section 3.1; parallel: Black et al. 2022, "GPT-NeoX-20B",
    section 2.1).

    Args:
      config: the sizes and variants.
      cross_attention: put attention over a memory between the other two.
      rngs: draws the parameters.
    """

    def __init__(self, config: Config, *, cross_attention: bool, rngs: nnx.Rngs):
        self.config = config
        norm = lambda: Norm(config.norm, config.d_model, dtype=config.param_dtype, rngs=rngs)
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
        """Runs the layer.

        Args:
          x: [..., T, D].
          mask: of self-attention, True = may attend.
          memory: [..., S, D], the encoder's output; needed exactly where there is cross-attention.
          memory_mask: of cross-attention.
          positions: int [..., T], used by ``Rope``.
          bias: of the logits of self-attention, as ``ops.attention`` takes it: what ``PositionBias`` gives.
          key: for dropout; None is no dropout.
          return_weights: give the attention weights too.

        Returns:
          ``(x, weights)``: x [..., T, D]; weights ``{"self": [..., N, T, T], "cross": [..., N, T, S]}``
          with those that were asked for and exist.

        Raises:
          ValueError: for a memory without cross-attention, or the other way round, and for ``Rope`` without
            positions, ``Alibi`` or ``RelativeBias`` without a bias.
        """
        if (memory is None) != (self.cross_attention is None):
            has = "has" if self.cross_attention is not None else "has no"
            raise ValueError(
                f"this block {has} cross-attention; memory was {'not ' * (memory is None)}given: "
                "an encoder-decoder needs a memory, every other model takes none"
            )
        if bias is None and isinstance(self.config.positions, Alibi | RelativeBias):
            raise ValueError(
                f"{self.config.positions} is a bias on the attention logits: pass what "
                "nn.PositionBias gives, or use a stack, which does"
            )
        own = lambda y, key: self.attention(
            y, mask=mask, bias=bias, positions=positions, key=key, return_weights=return_weights
        )
        cross = lambda y, key: self.cross_attention(
            y, memory, mask=memory_mask, key=key, return_weights=return_weights
        )
        x, *weights = self._run(x, own, cross, key)
        found = zip(("self", "cross"), weights, strict=True)
        return x, {name: w for name, w in found if w is not None}

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
        """Runs the layer on tokens that follow those of a cache.

        Args:
          x: [..., T, D], the tokens that follow.
          cache: keys and values of those before them, each [..., K, S, H].
          slots: of the cache, before these tokens.
          mask: which of the tokens that ``ops.kv_cache.append`` gives may be attended to.
          memory: keys and values of the encoder's output, from ``remember``.
          memory_mask: of cross-attention.
          positions: int [..., T].
          bias: of the logits of self-attention.

        Returns:
          ``(x, cache)``: x [..., T, D], and the cache with the tokens in it.
        """

        def own(y: Array, key: None) -> tuple[Array, KeysValues]:
            # Stored heads first: one query's products with them need no copy.
            new = map(heads_first, self.attention.keys_values(y, positions=positions))
            pairs = [append(old, n, slots) for old, n in zip(cache, new, strict=True)]
            seen, kept = zip(*pairs, strict=True)
            seen = map(heads_first, seen)
            return self.attention.attend(y, *seen, mask, bias, positions=positions)[0], kept

        cross = lambda y, key: self.cross_attention.attend(y, *map(heads_first, memory), memory_mask)
        x, kept, _ = self._run(x, own, cross, None)
        return x, kept

    def remember(self, memory: Array) -> KeysValues:
        """The keys and values of cross-attention, of the encoder's output [..., S, D]."""
        return tuple(map(heads_first, self.cross_attention.keys_values(memory)))

    def _run(self, x: Array, own: _Sublayer, cross: _Sublayer, key: Key | None) -> tuple[Array, Any, Any]:
        """The sublayers, each with Add & Norm; and what those of attention give beside their output."""
        keys = split_key(key, 6)
        first = x
        y, of_own = own(self._enter(self.attention_norm, x, first), keys[0])
        x = self._add(self.attention_norm, x, y, keys[1])
        of_cross = None
        if self.cross_attention is not None:
            y, of_cross = cross(self._enter(self.cross_attention_norm, x, first), keys[2])
            x = self._add(self.cross_attention_norm, x, y, keys[3])
        y = self.feed_forward(self._enter(self.feed_forward_norm, x, first), key=keys[4])
        return self._add(self.feed_forward_norm, x, y, keys[5]), of_own, of_cross

    def _enter(self, norm: Norm, x: Array, first: Array) -> Array:
        """What a sublayer reads, of what those before it left and what the first of them read."""
        if self.config.norm_placement == "post":
            return x
        return norm(first if self.config.norm_placement == "parallel" else x)

    def _add(self, norm: Norm, x: Array, y: Array, key: Key | None) -> Array:
        """What a sublayer leaves behind: x plus its output y, normalized after it in ``"post"``."""
        chex.assert_equal_shape([x, y])  # or a residual would be broadcast
        x = x + ops.dropout(y, self.config.dropout_rate, key)
        return norm(x) if self.config.norm_placement == "post" else x


class EncoderBlock(Block):
    """Self-attention and feed-forward, each with Add & Norm.

    Args:
      config: the sizes and variants.
      rngs: draws the parameters.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, cross_attention=False, rngs=rngs)


class DecoderBlock(Block):
    """Self-attention, cross-attention over the encoder's output, feed-forward, each with Add & Norm.

    Args:
      config: the sizes and variants.
      cross_attention: False for a decoder-only model.
      rngs: draws the parameters.
    """

    def __init__(self, config: Config, *, cross_attention: bool = True, rngs: nnx.Rngs):
        super().__init__(config, cross_attention=cross_attention, rngs=rngs)
