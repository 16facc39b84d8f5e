"""Decoder-only and encoder-decoder Transformers."""

import dataclasses
from typing import Literal, overload

import jax
import numpy as np
from flax import nnx

from tfm_jax.checks import as_array
from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.decoding import (
    Cache,
    CachedDecoder,
    cross_attention_mask,
    output_head,
    whole_sequences,
)
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.extras import Extras, model_extras, with_extras
from tfm_jax.nn.positions import count_positions, position_scheme
from tfm_jax.nn.stack import DecoderStack, EncoderStack
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.algebra import nodes
from tfm_jax.ops.masks.leaves import Padding, Prefix
from tfm_jax.types import Array, Key

__all__ = ["Decoder", "EncoderDecoder"]

CAUSAL = masks.causal()


def _check_decoder_config(model: str, config: Config) -> None:
    """Raises for fields that only encoders use."""
    unused = {"patches": None, "pooler": None, "token_types": 0}
    for name, wanted in unused.items():
        if (got := getattr(config, name)) != wanted:
            raise ValueError(
                f"{model}: got {name}={got!r}; wanted {name}={wanted}. "
                "Only nn.Encoder and nn.Classifier use it."
            )
    if position_scheme(config).padding_id is not None:
        raise ValueError(
            f"{model}: got {config.positions}; wanted padding_id=None. A decoder counts every token."
        )


def _decoder_mask(causal: Mask, window: int | None, mask: Mask | None) -> Mask:
    """The causal mask, the window and the caller's mask, joined by ``&``; a ValueError for a prefix."""
    causal = causal if window is None else causal & masks.window(window - 1)
    if mask is None:
        return causal
    if any(isinstance(node, Prefix) for node in nodes(mask)):
        raise ValueError(
            f"nn.Decoder: got a prefix in the mask; wanted causal=masks.causal() | masks.prefix(n). Joined "
            f"to {causal.expression()} by &, a prefix has no effect."
        )
    return causal & mask


class Decoder(CachedDecoder):
    """Decoder-only language model.

    Equivalent to::

        x = stack(embedding(tokens), causal & mask)
        logits = x @ unembedding

    Args:
      config: sizes and variants.
      rngs: initializes the parameters.

    Raises:
      ValueError: ``vocab_size`` is 0, or the config has ``patches``, ``token_types``, a ``pooler`` or
        ``Learned`` positions with a ``padding_id``.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        _check_decoder_config("nn.Decoder", config)
        self.config = config
        self.embedding = Embedding(config, rngs=rngs)
        self.stack = DecoderStack(config, cross_attention=False, rngs=rngs)
        self.head, self.logits_bias = output_head(config, rngs=rngs)

    def __call__(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        causal: Mask = CAUSAL,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """Next-token logits at every position.

        Args:
          tokens: int [..., T].
          mask: combined with ``causal`` by ``&``, such as ``masks.segments(ids)``; True = may attend.
          causal: the causal mask; ``masks.causal() | masks.prefix(n)`` makes a prefix language model.
          positions: int [..., T] or [T]; None counts the tokens from 0, without padding if
            ``config.count_padding`` is False.
          key: PRNG key for dropout; None is no dropout.
          return_weights: also return the attention weights.
          return_auxiliary: also return the auxiliary sums of the feed-forward layers.

        Returns:
          logits [..., T, V], float32; ``(logits, extras)`` with a ``return_*`` flag. ``extras["weights"]`` is
          ``{"decoder": [L, ..., N, T, T]}``; ``extras["auxiliary"]`` is ``{name: (sum, weight)}``, added over
          layers.

        Raises:
          ValueError: ``mask`` contains a prefix, which has no effect there.
        """
        hidden, extras = self._hidden(
            tokens,
            mask,
            causal,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        return with_extras(self.unembed(hidden), extras)

    @overload
    def hidden(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        causal: Mask = CAUSAL,
        positions: Array | None = None,
        key: Key | None = None,
    ) -> Array: ...

    @overload
    def hidden(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        causal: Mask = CAUSAL,
        positions: Array | None = None,
        key: Key | None = None,
        return_auxiliary: Literal[True],
    ) -> tuple[Array, Extras]: ...

    def hidden(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        causal: Mask = CAUSAL,
        positions: Array | None = None,
        key: Key | None = None,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """The last hidden states [..., T, D], for ``cross_entropy``; extras as in ``__call__``."""
        hidden, extras = self._hidden(
            tokens, mask, causal, positions=positions, key=key, return_auxiliary=return_auxiliary
        )
        return with_extras(hidden, extras)

    def is_encoder_decoder(self) -> bool:
        return False

    def decoder_stack(self) -> DecoderStack:
        return self.stack

    def init_cache(
        self,
        inputs: int | tuple[int, ...] | Array,
        capacity: int,
        *,
        source_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        slots: int | None = None,
    ) -> Cache:
        """An empty KV cache for a batch size, or leading dims; the rest is as in ``empty_cache``.

        Raises:
          ValueError: a mask, which only an encoder-decoder uses; as in ``empty_cache``.
        """
        if source_mask is not None or memory_mask is not None:
            raise ValueError(
                "nn.init_cache: got source_mask or memory_mask with a decoder-only model; wanted None. Mask "
                "the padding of prompts with valid."
            )
        if isinstance(inputs, jax.Array | np.ndarray):
            raise ValueError(
                f"nn.init_cache: got inputs {inputs.dtype}{list(inputs.shape)} with a decoder-only model; "
                "wanted the batch size. Pass tokens to nn.decode_step."
            )
        return self.empty_cache(inputs if isinstance(inputs, tuple) else (inputs,), capacity, slots=slots)

    def _hidden(
        self,
        tokens: Array,
        mask: Mask | Array | None,
        causal: Mask,
        *,
        positions: Array | None,
        key: Key | None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> tuple[Array, Extras]:
        tokens = as_array("nn.Decoder", "tokens", tokens)
        mask = masks.as_mask(mask, tokens.ndim - 1)
        if positions is None:
            positions = count_positions(self.config, tokens, causal if mask is None else causal & mask)
        x, mask = self.embedding(tokens), _decoder_mask(causal, self.config.window, mask)
        x, extras = self.stack(
            x,
            mask=mask,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        return x, model_extras(decoder=extras)


class EncoderDecoder(CachedDecoder):
    """Encoder-decoder Transformer (Vaswani et al. 2017).

    Equivalent to::

        memory = encode(source)
        logits = decode(target, memory)

    Args:
      config: sizes and variants; ``share_embeddings`` and ``tie_embeddings`` choose the embedding tables.
      rngs: initializes the parameters.

    Raises:
      ValueError: as in ``Decoder``.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        _check_decoder_config("nn.EncoderDecoder", config)
        self.config = config
        self.embedding = Embedding(config, rngs=rngs)
        self.source_embedding = None if config.share_embeddings else Embedding(config, rngs=rngs)
        self.encoder = EncoderStack(config, rngs=rngs)
        self.decoder = DecoderStack(config, cross_attention=True, rngs=rngs)
        self.head, self.logits_bias = output_head(config, rngs=rngs)

    def __call__(
        self,
        source: Array,
        target: Array,
        *,
        source_mask: Mask | Array | None = None,
        target_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        source_positions: Array | None = None,
        target_positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """Next-token logits at every target position.

        Args:
          source: int [..., S].
          target: int [..., T], starting with the BOS token.
          source_mask: for the encoder's self-attention. ``masks.padding(valid)`` also masks cross-attention;
            any other mask requires a ``memory_mask``.
          target_mask: for the decoder's self-attention, combined with the causal mask by ``&``.
          memory_mask: for cross-attention, [..., T, S].
          source_positions: int [..., S] or [S], required by packed sequences; None is as in ``Decoder``.
          target_positions: int [..., T] or [T]; None is as in ``Decoder``.
          key: PRNG key for dropout; None is no dropout.
          return_weights: also return the attention weights.
          return_auxiliary: also return the auxiliary sums of the feed-forward layers.

        Returns:
          logits [..., T, V], float32; ``(logits, extras)`` with a ``return_*`` flag. ``extras["weights"]`` is
          ``{"encoder": [L, ..., N, S, S], "decoder": [L, ..., N, T, T], "cross": [L, ..., N, T, S]}``;
          ``extras["auxiliary"]`` is ``{name: (sum, weight)}``, added over layers and both stacks.

        Raises:
          ValueError: ``source_mask`` is not a padding mask and ``memory_mask`` is None; ``target_mask``
            contains a prefix, which has no effect there.
        """
        encode_key, decode_key = split_key(key, 2)
        if memory_mask is None:
            memory_mask = cross_attention_mask(source_mask)
        flags = {"return_weights": return_weights, "return_auxiliary": return_auxiliary}
        memory, encoder = self._encode(
            source, source_mask, positions=source_positions, key=encode_key, **flags
        )
        hidden, decoder = self._decode(
            target, memory, target_mask, memory_mask, positions=target_positions, key=decode_key, **flags
        )
        return with_extras(self.unembed(hidden), model_extras(encoder=encoder, decoder=decoder))

    @overload
    def encode(
        self,
        source: Array,
        *,
        source_mask: Mask | Array | None = None,
        source_positions: Array | None = None,
        key: Key | None = None,
    ) -> Array: ...

    @overload
    def encode(
        self,
        source: Array,
        *,
        source_mask: Mask | Array | None = None,
        source_positions: Array | None = None,
        key: Key | None = None,
        return_auxiliary: Literal[True],
    ) -> tuple[Array, Extras]: ...

    def encode(
        self,
        source: Array,
        *,
        source_mask: Mask | Array | None = None,
        source_positions: Array | None = None,
        key: Key | None = None,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """The encoder's output [..., S, D], the memory, from int source tokens [..., S].

        Extras are as in ``__call__``, of the encoder alone.
        """
        memory, extras = self._encode(
            source, source_mask, positions=source_positions, key=key, return_auxiliary=return_auxiliary
        )
        return with_extras(memory, model_extras(encoder=extras))

    def decode(
        self,
        target: Array,
        memory: Array,
        *,
        target_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        target_positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """The logits [..., T, V], float32, from int target tokens [..., T] and a memory [..., S, D]."""
        hidden = self.hidden(
            target,
            memory,
            target_mask=target_mask,
            memory_mask=memory_mask,
            target_positions=target_positions,
            key=key,
        )
        return self.unembed(hidden)

    @overload
    def hidden(
        self,
        target: Array,
        memory: Array,
        *,
        target_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        target_positions: Array | None = None,
        key: Key | None = None,
    ) -> Array: ...

    @overload
    def hidden(
        self,
        target: Array,
        memory: Array,
        *,
        target_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        target_positions: Array | None = None,
        key: Key | None = None,
        return_auxiliary: Literal[True],
    ) -> tuple[Array, Extras]: ...

    def hidden(
        self,
        target: Array,
        memory: Array,
        *,
        target_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        target_positions: Array | None = None,
        key: Key | None = None,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """The decoder's last hidden states [..., T, D]; extras as in ``__call__``, of the decoder alone."""
        hidden, extras = self._decode(
            target,
            memory,
            target_mask,
            memory_mask,
            positions=target_positions,
            key=key,
            return_auxiliary=return_auxiliary,
        )
        return with_extras(hidden, model_extras(decoder=extras))

    def is_encoder_decoder(self) -> bool:
        return True

    def decoder_stack(self) -> DecoderStack:
        return self.decoder

    def init_cache(
        self,
        inputs: int | tuple[int, ...] | Array,
        capacity: int,
        *,
        source_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        slots: int | None = None,
    ) -> Cache:
        """Encodes the source and makes a KV cache for the target.

        Args:
          inputs: the source, int [..., S].
          source_mask: as in ``__call__``.
          capacity, slots: as in ``empty_cache``, for the target tokens.
          memory_mask: as in ``__call__``, with T = ``capacity``.

        Returns:
          The Cache, with the keys and values of cross-attention, computed once.

        Raises:
          ValueError: as in ``__call__`` and ``empty_cache``.
        """
        source = as_array("nn.EncoderDecoder", "source", inputs)
        with whole_sequences():
            memory = self.encode(source, source_mask=source_mask)
            cross = tuple(block.memory_keys_values(memory) for block in self.decoder.unstack())
        memory_mask = cross_attention_mask(source_mask) if memory_mask is None else memory_mask
        batch = source.shape[:-1]
        memory_mask = masks.as_mask(memory_mask, len(batch))
        if memory_mask is not None and not isinstance(memory_mask, Padding):
            masks.check_fits(memory_mask, batch, self.config.n_heads, capacity, source.shape[-1])
            slots = capacity if slots is None else slots  # one mask row per token: no slot is reused
        cache = self.empty_cache(batch, capacity, slots=slots)
        return dataclasses.replace(cache, memory=cross, memory_mask=memory_mask)

    def _encode(
        self,
        source: Array,
        mask: Mask | Array | None,
        *,
        positions: Array | None,
        key: Key | None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> tuple[Array, Extras]:
        source = as_array("nn.EncoderDecoder", "source", source)
        positions = count_positions(self.config, source, mask) if positions is None else positions
        x = (self.source_embedding or self.embedding)(source)
        return self.encoder(
            x,
            mask=mask,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )

    def _decode(
        self,
        target: Array,
        memory: Array,
        mask: Mask | Array | None,
        memory_mask: Mask | Array | None,
        *,
        positions: Array | None,
        key: Key | None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> tuple[Array, Extras]:
        target = as_array("nn.EncoderDecoder", "target", target)
        mask = masks.as_mask(mask, target.ndim - 1)
        positions = count_positions(self.config, target, mask) if positions is None else positions
        x, mask = self.embedding(target), _decoder_mask(CAUSAL, self.config.window, mask)
        return self.decoder(
            x,
            mask=mask,
            memory=memory,
            memory_mask=memory_mask,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
