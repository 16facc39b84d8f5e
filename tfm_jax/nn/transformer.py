"""The models that write: decoder, encoder-decoder."""

import dataclasses

import jax
from flax import nnx

from tfm_jax.checks import as_array
from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.decoding import Cache, Incremental, memory_mask_of, output_head
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.positions import Learned, count_positions
from tfm_jax.nn.stack import DecoderStack, EncoderStack
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.leaves import Padding, Prefix
from tfm_jax.types import Array, Key

__all__ = ["Decoder", "EncoderDecoder"]

Weights = dict[str, Array]
CAUSAL = masks.causal()


def _tokens_only(config: Config) -> None:
    if config.patches is not None:
        raise ValueError("patches are for an Encoder or a Classifier; a decoder reads tokens")
    if config.pooler is not None:
        raise ValueError("a pooler is of an Encoder or a Classifier; a decoder gives logits of tokens")
    if config.token_types:
        raise ValueError("token_types are of an Encoder; a decoder reads tokens of one type")
    if isinstance(config.positions, Learned) and config.positions.padding_id is not None:
        raise ValueError(f"a decoder counts every token: got {config.positions}; wanted padding_id=None.")


def _beside(causal: Mask, window: int | None, mask: Mask | Array | None, tokens: Array) -> Mask:
    """The mask of a decoder: who precedes whom, how far back, beside the mask that was passed, if any."""
    causal = causal if window is None else causal & masks.window(window - 1)
    if mask is None:
        return causal
    mask = masks.as_mask(mask, tokens.ndim - 1)
    is_prefix = lambda part: isinstance(part, Prefix)
    if any(map(is_prefix, jax.tree.leaves(mask, is_leaf=is_prefix))):
        raise ValueError(
            f"beside {causal!r} a prefix would open nothing; for a prefix language model pass "
            "causal=masks.causal() | masks.prefix(n)"
        )
    return causal & mask


class Decoder(Incremental):
    """A decoder-only language model: each position sees itself and what came before.

    Equivalent to::

        x = stack(embedding(tokens), causal & mask)
        logits = x @ unembedding

    Args:
      config: the sizes and variants.
      rngs: draws the parameters.

    Raises:
      ValueError: for a config without a vocabulary, or with ``patches``, ``token_types`` or a ``pooler``.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        _tokens_only(config)
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
    ) -> Array | tuple[Array, Weights]:
        """Predicts the next token at every position.

        Args:
          tokens: int [..., T].
          mask: beside the causal one, such as ``masks.segments(ids)``; True = may attend.
          causal: who precedes whom; ``masks.causal() | masks.prefix(n)`` is a prefix language model.
          positions: int [..., T] or [T]; None counts from 0, as the config says.
          key: for dropout; None is no dropout.
          return_weights: give the attention weights too.

        Returns:
          logits [..., T, V], float32; with ``return_weights``, ``(logits, {"decoder": [L, ..., N, T, T]})``.

        Raises:
          ValueError: for a prefix in ``mask``, where it would do nothing.
        """
        hidden, weights = self._run(tokens, mask, causal, positions, key, return_weights)
        logits = self.unembed(hidden)
        return (logits, {"decoder": weights["self"]}) if return_weights else logits

    def hidden(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        causal: Mask = CAUSAL,
        positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """The vectors [..., T, D] before the output projection, for ``ops.linear_cross_entropy``."""
        return self._run(tokens, mask, causal, positions, key, False)[0]

    def is_encoder_decoder(self) -> bool:
        return False

    def decoder_stack(self) -> DecoderStack:
        return self.stack

    def init_cache(self, batch: int | tuple[int, ...], capacity: int, *, slots: int | None = None) -> Cache:
        """An empty cache for rows [batch] of at most ``capacity`` tokens, as ``empty_cache`` makes it."""
        return self.empty_cache(batch if isinstance(batch, tuple) else (batch,), capacity, slots=slots)

    def _run(self, tokens, mask, causal, positions, key, return_weights) -> tuple[Array, Weights]:
        tokens = as_array("nn.Decoder", "tokens", tokens)
        mask = None if mask is None else masks.as_mask(mask, tokens.ndim - 1)
        if positions is None:
            positions = count_positions(self.config, tokens, causal if mask is None else causal & mask)
        x, mask = self.embedding(tokens), _beside(causal, self.config.window, mask, tokens)
        return self.stack(x, mask, positions=positions, key=key, return_weights=return_weights)


class EncoderDecoder(Incremental):
    """The Transformer of Vaswani et al. 2017: an encoder, and a decoder that attends to it.

    Equivalent to::

        memory = encode(source)
        logits = decode(target, memory)

    Args:
      config: the sizes and variants; ``share_embeddings`` and ``tie_embeddings`` say who owns a table.
      rngs: draws the parameters.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        _tokens_only(config)
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
    ) -> Array | tuple[Array, Weights]:
        """Predicts the next target token at every position.

        Args:
          source: int [..., S].
          target: int [..., T], beginning with the start token.
          source_mask: of the encoder's self-attention; ``masks.padding(valid)`` serves cross-attention
            too, every other mask needs a ``memory_mask`` beside it.
          target_mask: of the decoder's self-attention, beside the causal one.
          memory_mask: of cross-attention, [..., T, S].
          source_positions: int [..., S] or [S], which packed rows need; None counts from 0, as the config
            says.
          target_positions: int [..., T] or [T]; None counts from 0, as the config says.
          key: for dropout; None is no dropout.
          return_weights: give the attention weights too.

        Returns:
          logits [..., T, V], float32; with ``return_weights``, ``(logits, weights)`` with weights
          ``{"encoder": [L, ..., N, S, S], "decoder": [L, ..., N, T, T], "cross": [L, ..., N, T, S]}``.

        Raises:
          ValueError: for a ``source_mask`` that says nothing of cross-attention, without ``memory_mask``;
            for a prefix in ``target_mask``, where it would do nothing.
        """
        encode_key, decode_key = split_key(key, 2)
        if memory_mask is None:
            memory_mask = memory_mask_of(source_mask)
        memory, encoder_weights = self._encode(
            source, source_mask, source_positions, encode_key, return_weights
        )
        hidden, weights = self._decode(
            target, memory, target_mask, memory_mask, target_positions, decode_key, return_weights
        )
        logits = self.unembed(hidden)
        if not return_weights:
            return logits
        return logits, {
            "encoder": encoder_weights["self"],
            "decoder": weights["self"],
            "cross": weights["cross"],
        }

    def encode(
        self,
        source: Array,
        *,
        source_mask: Mask | Array | None = None,
        source_positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """The memory [..., S, D] of int tokens source [..., S]."""
        return self._encode(source, source_mask, source_positions, key, False)[0]

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
        """The logits [..., T, V], float32, of int tokens target [..., T] beside a memory [..., S, D]."""
        hidden, _ = self._decode(target, memory, target_mask, memory_mask, target_positions, key, False)
        return self.unembed(hidden)

    def hidden(
        self,
        target: Array,
        memory: Array,
        *,
        target_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        target_positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """The decoder's vectors [..., T, D] before the output projection."""
        return self._decode(target, memory, target_mask, memory_mask, target_positions, key, False)[0]

    def is_encoder_decoder(self) -> bool:
        return True

    def decoder_stack(self) -> DecoderStack:
        return self.decoder

    def init_cache(
        self,
        source: Array,
        capacity: int,
        *,
        source_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        slots: int | None = None,
    ) -> Cache:
        """A cache for at most ``capacity`` target tokens a row, beside a source that was read.

        Args:
          source, source_mask: as ``__call__`` takes them.
          capacity, slots: as ``empty_cache`` takes them.
          memory_mask: as ``__call__``, for ``capacity`` target tokens.

        Returns:
          The Cache; keys and values of cross-attention are made here, once. Raises as those two.
        """
        source = as_array("nn.EncoderDecoder", "source", source)
        memory = self.encode(source, source_mask=source_mask)
        cross = tuple(block.remember(memory) for block in self.decoder.apart())
        memory_mask = memory_mask_of(source_mask) if memory_mask is None else memory_mask
        batch = source.shape[:-1]
        if not isinstance(memory_mask, Padding | None):
            memory_mask = masks.as_mask(memory_mask, len(batch))
            masks.check_fits(memory_mask, batch, self.config.n_heads, capacity, source.shape[-1])
            slots = capacity if slots is None else slots  # its rows are those of the tokens: all are kept
        cache = self.empty_cache(batch, capacity, slots=slots)
        return dataclasses.replace(cache, memory=cross, memory_mask=memory_mask)

    def _encode(self, source, mask, positions, key, return_weights) -> tuple[Array, Weights]:
        source = as_array("nn.EncoderDecoder", "source", source)
        positions = count_positions(self.config, source, mask) if positions is None else positions
        x = (self.source_embedding or self.embedding)(source)
        return self.encoder(x, mask, positions=positions, key=key, return_weights=return_weights)

    def _decode(
        self, target, memory, mask, memory_mask, positions, key, return_weights
    ) -> tuple[Array, Weights]:
        target = as_array("nn.EncoderDecoder", "target", target)
        positions = count_positions(self.config, target, mask) if positions is None else positions
        x, mask = self.embedding(target), _beside(CAUSAL, self.config.window, mask, target)
        return self.decoder(
            x, mask, memory, memory_mask, positions=positions, key=key, return_weights=return_weights
        )
