"""Transformer blocks: attention and feed-forward sublayers, each with a residual connection and a norm."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_key, check_shapes
from tfm_jax.nn.attention import MultiHeadAttention
from tfm_jax.nn.config import Config
from tfm_jax.nn.extras import Auxiliary, Extras
from tfm_jax.nn.norms import normalize
from tfm_jax.nn.positions import position_scheme
from tfm_jax.nn.precision import at_model_precision
from tfm_jax.nn.variants import NormModule
from tfm_jax.ops.backends.common import Bias, heads_first
from tfm_jax.ops.kv_cache import Slots, append
from tfm_jax.ops.masks import Mask
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key

__all__ = ["Block", "DecoderBlock", "EncoderBlock", "KeysValues", "split_key"]

KeysValues = tuple[Array, Array]  # each [..., K, S, H]
E = TypeVar("E")
C = TypeVar("C")
_Sublayer = Callable[[Array, Key | None], tuple[Array, E]]  # (x, key) -> (y, what else it returns)


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

        def norm() -> NormModule:
            return config.norm.build(config.d_model, axis="D", dtype=config.param_dtype, rngs=rngs)

        self.attention = MultiHeadAttention(config, rngs=rngs)
        self.attention_norm = norm()
        self.cross_attention = MultiHeadAttention(config, rngs=rngs) if cross_attention else None
        self.cross_attention_norm = norm() if cross_attention else None
        self.feed_forward = config.feed_forward.build(config, rngs=rngs)
        self.feed_forward_norm = norm()

    @at_model_precision
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
        return_auxiliary: bool = False,
    ) -> tuple[Array, Extras]:
        """Applies the block.

        Args:
          x: [..., T, D].
          mask: for self-attention, True = may attend.
          memory: [..., S, D], the encoder's output; required with cross-attention, else None.
          memory_mask: for cross-attention.
          positions: int [..., T], used by ``Rope``.
          bias: on the self-attention logits, from the scheme's ``build_bias``.
          key: PRNG key for dropout; None is no dropout.
          return_weights: also return the attention weights.
          return_auxiliary: also return the auxiliary losses of the feed-forward layer.

        Returns:
          ``(x, extras)``: x [..., T, D]; extras has ``"weights"`` ``{"self": [..., N, T, T], "cross": [...,
          N, T, S]}`` and ``"auxiliary"`` ``{name: (sum, weight)}``, each if its flag is set.

        Raises:
          ValueError: a memory without cross-attention, cross-attention without a memory, a scheme such as
            ``Rope`` without positions, one such as ``Alibi`` without a bias.
        """
        self._check(memory, bias)

        def self_attention(y: Array, key: Key | None) -> tuple[Array, Array | None]:
            return self.attention(
                y, mask=mask, bias=bias, positions=positions, key=key, return_weights=return_weights
            )

        attend_memory = self.cross_attention
        cross_attention: _Sublayer[Array | None] | None = None
        if attend_memory is not None:

            def attention_to_memory(y: Array, key: Key | None) -> tuple[Array, Array | None]:
                return attend_memory(y, memory, mask=memory_mask, key=key, return_weights=return_weights)

            cross_attention = attention_to_memory

        x, self_weights, cross_weights, auxiliary = self._sublayers(x, self_attention, cross_attention, key)
        extras: Extras = {}
        if return_weights:
            weights = {"self": self_weights, "cross": cross_weights}
            extras["weights"] = {name: w for name, w in weights.items() if w is not None}
        if return_auxiliary:
            extras["auxiliary"] = auxiliary
        return x, extras

    def _check(self, memory: Array | KeysValues | None, bias: Bias | None) -> None:
        if (memory is None) != (self.cross_attention is None):
            got, wanted = (
                ("a memory", "None") if self.cross_attention is None else ("memory=None", "a memory")
            )
            raise ValueError(
                f"nn.{type(self).__name__}: got {got}; wanted {wanted}. Only the decoder of an "
                "encoder-decoder has cross-attention, which attends to the memory."
            )
        if bias is None and position_scheme(self.config).has_bias:
            raise ValueError(
                f"nn.{type(self).__name__}: got bias=None with {self.config.positions}; wanted the output of "
                "the module of its build_bias. A stack passes it."
            )

    @at_model_precision
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

        Raises:
          ValueError: as in ``__call__``.
        """
        self._check(memory, bias)

        def self_attention(y: Array, key: Key | None) -> tuple[Array, KeysValues]:
            # The cache holds heads first: the products with one query then need no copy.
            k, v = map(heads_first, self.attention.keys_values(y, positions=positions))
            (visible_k, new_k), (visible_v, new_v) = append(cache[0], k, slots), append(cache[1], v, slots)
            new_k, new_v = constrain(new_k, "B K ? H"), constrain(new_v, "B K ? H")
            visible = heads_first(visible_k), heads_first(visible_v)
            return self.attention.attend(y, *visible, mask, bias, positions=positions)[0], (new_k, new_v)

        attend_memory = self.cross_attention
        cross_attention: _Sublayer[Array | None] | None = None
        if attend_memory is not None and memory is not None:

            def attention_to_memory(y: Array, key: Key | None) -> tuple[Array, Array | None]:
                return attend_memory.attend(y, heads_first(memory[0]), heads_first(memory[1]), memory_mask)

            cross_attention = attention_to_memory

        x, updated, _, _ = self._sublayers(x, self_attention, cross_attention, None)
        return x, updated

    @at_model_precision
    def memory_keys_values(self, memory: Array) -> KeysValues:
        """The keys and values [..., K, S, H] of cross-attention from the encoder's output [..., S, D].

        Raises:
          ValueError: the block has no cross-attention.
        """
        if self.cross_attention is None:
            raise ValueError("nn.Block: got a memory without cross-attention; wanted a decoder's block.")
        k, v = self.cross_attention.keys_values(memory)
        return constrain(heads_first(k), "B K ? H"), constrain(heads_first(v), "B K ? H")

    def _sublayers(
        self,
        x: Array,
        self_attention: _Sublayer[E],
        cross_attention: _Sublayer[C] | None,
        key: Key | None,
    ) -> tuple[Array, E, C | None, Auxiliary]:
        """Applies all sublayers; also returns the second output of each (weights or cache; auxiliary)."""
        keys = split_key(key, 6)
        block_input, cross_extra = x, None
        y, self_extra = self_attention(self._sublayer_input(self.attention_norm, x, block_input), keys[0])
        x = self._residual(self.attention_norm, x, y, keys[1])
        if cross_attention is not None and self.cross_attention_norm is not None:
            y = self._sublayer_input(self.cross_attention_norm, x, block_input)
            y, cross_extra = cross_attention(y, keys[2])
            x = self._residual(self.cross_attention_norm, x, y, keys[3])
        y = self._sublayer_input(self.feed_forward_norm, x, block_input)
        y, auxiliary = self._feed_forward(y, keys[4])
        return self._residual(self.feed_forward_norm, x, y, keys[5]), self_extra, cross_extra, auxiliary

    def _feed_forward(self, x: Array, key: Key | None) -> tuple[Array, Auxiliary]:
        output = self.feed_forward(x, key=key)
        # An array would be unpacked along its first axis.
        if not isinstance(output, tuple) or len(output) != 2 or not _is_auxiliary(output[1]):
            got = jax.tree.map(lambda part: type(part).__name__, output, is_leaf=lambda x: x is None)
            raise ValueError(
                f"nn.Block: got {got} from {self.config.feed_forward}; wanted (y, auxiliary), where "
                "auxiliary is a dict of (sum, weight) by name. Return (y, {}) where there is nothing to add "
                "to the loss."
            )
        return output

    def _sublayer_input(self, norm: NormModule, x: Array, block_input: Array) -> Array:
        """The input of a sublayer, by ``norm_placement``."""
        if self.config.norm_placement == "post":
            return x
        return normalize(norm, block_input if self.config.norm_placement == "parallel" else x)

    def _residual(self, norm: NormModule, x: Array, y: Array, key: Key | None) -> Array:
        """Adds a sublayer's output y to x, after dropout; post-norm normalizes the sum."""
        # A residual must not broadcast.
        fix = "A sublayer keeps the shape of its input, and its dtype."
        check_shapes("nn.Block", x=(x, "... T D"), sublayer_output=(y, "... T D", x.dtype), fix=fix)
        x = constrain(x + ops.dropout(constrain(y, "B T D"), self.config.dropout_rate, key), "B T D")
        return normalize(norm, x) if self.config.norm_placement == "post" else x


def _is_auxiliary(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(term, tuple) and len(term) == 2 for name, term in value.items()
    )


class EncoderBlock(Block):
    """Encoder block: self-attention and feed-forward, each with Add & Norm.

    Args:
      config: sizes and variants.
      rngs: initializes the parameters.
    """

    __call__ = Block.__call__  # its own, as nnx.capture records no inherited method

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, cross_attention=False, rngs=rngs)


class DecoderBlock(Block):
    """Decoder block: self-attention, cross-attention to the encoder's output, and feed-forward.

    Args:
      config: sizes and variants.
      cross_attention: False for a decoder-only model.
      rngs: initializes the parameters.
    """

    __call__ = Block.__call__  # its own, as nnx.capture records no inherited method

    def __init__(self, config: Config, *, cross_attention: bool = True, rngs: nnx.Rngs):
        super().__init__(config, cross_attention=cross_attention, rngs=rngs)
