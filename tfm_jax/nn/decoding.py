"""KV cache and incremental decoding."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops, pytrees
from tfm_jax.checks import as_array, check_shapes
from tfm_jax.nn._parameters import constant
from tfm_jax.nn.blocks import KeysValues
from tfm_jax.nn.config import Config
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.functional import Pure
from tfm_jax.nn.heads import LanguageModelHead
from tfm_jax.nn.norms import normalize
from tfm_jax.nn.positions import check_length
from tfm_jax.nn.precision import at_model_precision, matmul_precision
from tfm_jax.nn.stack import Stack
from tfm_jax.ops.kv_cache import Slots, advance, has_room, init_slots, next_positions, seen_mask
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.masks.tiles import Span
from tfm_jax.ops.tracing import current_platform, definitely
from tfm_jax.sharding import constrain, current_rules, use_rules
from tfm_jax.types import Array, Params, SumWeight

__all__ = [
    "Cache",
    "CachedDecoder",
    "cross_attention_mask",
    "decode_step",
    "init_cache",
    "left_pad",
    "output_head",
    "unembed",
    "whole_sequences",
]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Cache:
    """KV cache of all layers. A pytree.

    Args:
      layers: the keys and values of each layer's self-attention, each [..., K, S, H]. S is the capacity, or
        window - 1 if that is smaller.
      slots: the position of the token in each slot, and the number of tokens appended.
      memory: the keys and values of each layer's cross-attention; empty for a decoder-only model.
      memory_mask: for cross-attention, with one row per target token up to the capacity.
    """

    layers: tuple[KeysValues, ...]
    slots: Slots
    memory: tuple[KeysValues, ...] = ()
    memory_mask: Mask | None = None


class CachedForward(Protocol):
    """From ``CachedDecoder.cached_forward``."""

    def __call__(
        self, tokens: Array, cache: Cache, *, positions: Array | None = None, mask: Mask | None = None
    ) -> tuple[Array, Cache]: ...


class CachedDecoder(nnx.Module):
    """Base class of ``Decoder`` and ``EncoderDecoder``: output projection and decoding with a KV cache."""

    config: Config
    embedding: Embedding
    head: LanguageModelHead | None
    logits_bias: nnx.Param | None

    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder."""
        raise NotImplementedError

    def decoder_stack(self) -> Stack:
        """The decoder's layers."""
        raise NotImplementedError

    def axes(self) -> dict[str, str]:
        return {"logits_bias": "V"}

    @at_model_precision
    def unembed(self, hidden: Array) -> Array:
        """The logits [..., V], float32, from hidden states [..., D]."""
        hidden = self._scaled(hidden)
        return self._biased(self.embedding.attend(hidden) if self.head is None else self.head(hidden))

    def output_projection(self) -> tuple[Array, Array | None]:
        """The kernel [D, V], in float32 or ``config.dtype``, and the bias [V], or None, of the logits.

        Equivalent to::

            unembed(hidden) == hidden @ kernel.astype(hidden.dtype) + bias

        For a loss of your own; ``cross_entropy`` is that of ``ops.linear_cross_entropy``. On a mesh the
        kernel keeps the sharding of its parameter: who multiplies with it gathers it, in its own dtype.
        """
        kernel = self._parameter()
        kernel = kernel if kernel.dtype == jnp.float32 else kernel.astype(self.config.dtype)
        return self._scaled(kernel), None if self.logits_bias is None else self.logits_bias[...]

    @at_model_precision
    def cross_entropy(
        self,
        hidden: Array,
        labels: Array,
        *,
        weights: Array | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        ignore_index: int | None = None,
        chunk_size: int = 1024,
    ) -> SumWeight:
        """Cross-entropy of the logits of hidden states; the logits of all tokens never exist at once.

        Equivalent to::

            kernel, bias = self.output_projection()
            with nn.matmul_precision(self.config):
                ops.linear_cross_entropy(hidden, kernel, labels, bias=bias, ...)

        Args:
          hidden: [..., T, D], from ``hidden``.
          labels, weights, label_smoothing, z_loss, ignore_index, chunk_size: as in
            ``ops.linear_cross_entropy``.

        Returns:
          ``(sum, weight)``: two float32 scalars.

        Raises:
          ValueError: as in ``ops.linear_cross_entropy``.
        """
        kernel, bias = self.output_projection()
        return ops.linear_cross_entropy(
            hidden,
            kernel,
            labels,
            bias=bias,
            weights=weights,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            ignore_index=ignore_index,
            chunk_size=chunk_size,
        )

    def unembed_function(self, batch_size: int) -> Callable[[Array], Array]:
        """Makes a function equal to ``unembed``, for a loop over ``batch_size`` sequences.

        On a CPU, a batch times [D, V] is faster than times the embedding table [V, D]. There the table is
        transposed once, before the loop, which takes a second copy in memory.
        """
        if self.head is not None or batch_size == 1 or current_platform() != "cpu":
            return self.unembed
        # On a mesh the kernel is gathered here, once, in the dtype of the computation.
        kernel = constrain(self._parameter().astype(self.config.dtype), "D V")

        def unembed(x: Array) -> Array:
            with matmul_precision(self.config):
                logits = jnp.einsum(
                    "...D,DV->...V", self._scaled(x), kernel, preferred_element_type=jnp.float32
                )
            return self._biased(constrain(logits, "V"))

        return unembed

    def _parameter(self) -> Array:
        return self.embedding.table[...].T if self.head is None else self.head.projection.kernel[...]

    def _scaled(self, x: Array) -> Array:
        return x if self.config.logits_scale == 1.0 else x * self.config.logits_scale

    def _biased(self, logits: Array) -> Array:
        if self.logits_bias is None:
            return logits
        return logits + jnp.broadcast_to(self.logits_bias[...].astype(logits.dtype), logits.shape)

    def init_cache(
        self,
        inputs: int | tuple[int, ...] | Array,
        capacity: int,
        *,
        source_mask: Mask | Array | None = None,
        memory_mask: Mask | Array | None = None,
        slots: int | None = None,
    ) -> Cache:
        """An empty KV cache, as ``nn.init_cache`` makes it; ``slots`` is as in ``empty_cache``."""
        raise NotImplementedError

    def cached_forward(self) -> CachedForward:
        """Makes ``forward(tokens, cache, *, positions=None, mask=None) -> (hidden [..., T, D], cache)``.

        It unstacks the layers: call it before a loop, so that the loop does not slice the parameters in every
        iteration. ``positions`` int [..., T] default to the next ones; -1 marks padding, which no token
        attends to. ``mask`` [..., T, S] over the slots defaults to the causal mask, with the window.
        """
        stack = self.decoder_stack()
        config, blocks = stack.config, stack.unstack()

        def forward(
            tokens: Array, cache: Cache, *, positions: Array | None = None, mask: Mask | None = None
        ) -> tuple[Array, Cache]:
            tokens = as_array("nn.decode_step", "tokens", tokens)
            check_shapes(
                "nn.decode_step",
                cache=(cache.layers[0][0], "... K S H"),
                tokens=(tokens, "... T", "int"),
                fix={"tokens": "One token of each sequence is token[:, None]."},
            )
            slots, T = cache.slots, tokens.shape[-1]
            positions = next_positions(slots, T) if positions is None else positions
            seen, next_slots = advance(slots, positions)
            mask = seen_mask(slots, seen, window=config.window) if mask is None else mask
            # Padding gets position 0, which is in every table; no token attends to it.
            positions = jnp.maximum(positions, 0)
            x = stack.embed_positions(self.embedding(tokens), positions)
            bias = stack.bias(positions, seen)
            memory_mask = cache.memory_mask
            if memory_mask is not None:
                S = cache.memory[0][0].shape[-2]
                memory_mask = memory_mask.block(Span(slots.length, T), Span(0, S))
            layers = []
            for i, block in enumerate(blocks):
                x, layer = block.extend(
                    x,
                    cache.layers[i],
                    slots,
                    mask,
                    cache.memory[i] if cache.memory else None,
                    memory_mask,
                    positions=positions,
                    bias=bias,
                )
                layers.append(layer)
            x = normalize(stack.norm, x)
            x = jnp.where(has_room(slots, T), x, jnp.nan)
            return x, dataclasses.replace(cache, layers=tuple(layers), slots=next_slots)

        def forward_on_mesh(
            tokens: Array, cache: Cache, *, positions: Array | None = None, mask: Mask | None = None
        ) -> tuple[Array, Cache]:
            with whole_sequences():
                return forward(tokens, cache, positions=positions, mask=mask)

        return forward_on_mesh

    def empty_cache(self, batch: tuple[int, ...], capacity: int, *, slots: int | None = None) -> Cache:
        """An empty KV cache, [..., K, S, H] in each layer.

        Args:
          batch: the leading dims [...].
          capacity: the most positions of a sequence, prompt and output together.
          slots: S, for tokens that share a position (beams); None is one slot per position, or window - 1
            if that is smaller.

        Returns:
          The Cache.

        Raises:
          ValueError: ``capacity`` is below 1, or above the ``max_length`` of ``Learned``.
        """
        stack = self.decoder_stack()
        config = stack.config
        check_length(config, capacity)
        window = config.window
        S, rolling = capacity if slots is None else slots, False
        if (
            slots is None
            and window is not None
            and definitely(functools.partial(operator.le, window, capacity))
        ):
            S, rolling = max(window - 1, 1), True
        empty = constrain(jnp.zeros((*batch, config.K, S, config.H), config.dtype), "B K ? H")
        return Cache(((empty, empty),) * stack.n_layers, init_slots(batch, S, rolling=rolling))


def init_cache(
    model: Pure[CachedDecoder],
    params: Params,
    inputs: int | tuple[int, ...] | Array,
    capacity: int,
    *,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
) -> Cache:
    """An empty KV cache; for an encoder-decoder, encodes the source too.

    Equivalent to::

        zeros [B, K, S, H] for the keys and values of every layer        # S = capacity
        memory = model.bind(params).encode(source)                       # its keys and values in every layer

    Args:
      model: from ``functionalize``.
      params: its parameters.
      inputs: the batch size B, or the leading dims, for an ``nn.Decoder``; the source, int [..., S], for an
        ``nn.EncoderDecoder``.
      capacity: most tokens of a sequence, prompt and output together.
      source_mask: for the encoder, True = may attend; ``masks.padding(valid)`` also masks cross-attention.
      memory_mask: for cross-attention, [..., capacity, S]; required with any other ``source_mask``.

    Returns:
      A Cache, a pytree. With ``config.window`` its size is that of the window.

    Raises:
      ValueError: ``capacity`` is below 1 or above the positions of ``nn.Learned``; masks without a source;
        a ``source_mask`` that is not padding, without a ``memory_mask``.
    """
    return model.bind(params).init_cache(inputs, capacity, source_mask=source_mask, memory_mask=memory_mask)


def decode_step(
    model: Pure[CachedDecoder], params: Params, tokens: Array, cache: Cache
) -> tuple[Array, Cache]:
    """Appends tokens to a KV cache and returns their logits: one step of decoding, often of one token.

    Equivalent to::

        logits = model(all tokens so far)[..., -T:, :]

    Args:
      model: from ``functionalize``.
      params: its parameters.
      tokens: int [..., T], the next tokens of each sequence.
      cache: of the previous tokens.

    Returns:
      ``(logits, cache)``: float32 [..., T, V], and the updated cache. Inside ``jit``, which cannot raise, the
      logits are NaN once the cache is over capacity. For a loop inside ``jit``,
      ``model.bind(params).cached_forward()`` before the loop is faster: it unstacks the layers once.

    Raises:
      ValueError: tokens of another shape or dtype; more tokens than the cache has room for, if the number is
        concrete.
    """
    decoder = model.bind(params)
    hidden, cache = decoder.cached_forward()(tokens, cache)
    return decoder.unembed(hidden), cache


def unembed(model: Pure[CachedDecoder], params: Params, hidden: Array) -> Array:
    """The logits from hidden states: the output projection of a decoder.

    Equivalent to::

        hidden @ kernel * config.logits_scale + logits_bias        # a tied kernel: the embedding, transposed

    Args:
      model: from ``functionalize``.
      params: its parameters.
      hidden: float [..., D], such as those of ``model.bind(params).hidden(tokens)``.

    Returns:
      The logits [..., V], float32.

    Raises:
      ValueError: hidden states of another size than D, or of another dtype than a float.
    """
    decoder, hidden = model.bind(params), as_array("nn.unembed", "hidden", hidden)
    check_shapes("nn.unembed", sizes={"D": decoder.config.d_model}, hidden=(hidden, "... D", "float"))
    return decoder.unembed(hidden)


def whole_sequences() -> Any:
    """A context: a mesh shards the batch and the heads, not the sequences, so that any length fits."""
    rules = current_rules()
    return use_rules(dataclasses.replace(rules, activations={**rules.activations, "T": None, "S": None}))


def cross_attention_mask(source_mask: Mask | Array | None) -> Mask | None:
    """The cross-attention mask that a source mask implies; only a padding mask implies one."""
    if source_mask is None:
        return None
    if isinstance(source_mask, Padding):
        return source_mask
    got = source_mask.expression() if isinstance(source_mask, Mask) else "an array"
    raise ValueError(
        f"source_mask: got {got} with memory_mask=None; wanted masks.padding(valid). "
        "Any other source_mask requires a memory_mask for cross-attention."
    )


def output_head(config: Config, *, rngs: nnx.Rngs) -> tuple[LanguageModelHead | None, nnx.Param | None]:
    """The output projection, None if tied to the embedding, and the bias of the logits, if any."""
    head = None if config.tie_embeddings else LanguageModelHead(config, rngs=rngs)
    bias = constant(0.0, config.vocab_size, config.param_dtype) if config.logits_bias else None
    return head, bias


def left_pad(tokens: Array, valid: Array) -> tuple[Array, Array]:
    """Moves all padding to the left and counts the positions of the tokens.

    Equivalent to::

        tokens = concatenate([tokens[~valid], tokens[valid]])         # each sequence
        positions = [-1, ..., -1, 0, 1, 2, ...]                       # -1 at padding

    Args:
      tokens: int [..., T], padded on either side.
      valid: bool [..., T], False at padding.

    Returns:
      ``(tokens, positions)``, both int [..., T].

    Raises:
      ValueError: an argument of another shape or dtype.
    """
    tokens, valid = as_array("left_pad", "tokens", tokens), as_array("left_pad", "valid", valid)
    check_shapes(
        "left_pad",
        tokens=(tokens, "... T", "int"),
        valid=(valid, "... T", "bool"),
        fix={"valid": "It is False at padding."},
    )
    order = jnp.argsort(valid, axis=-1, stable=True)
    count = jnp.sum(valid, axis=-1, keepdims=True, dtype=jnp.int32)
    T = tokens.shape[-1]
    positions = jnp.arange(T, dtype=jnp.int32).reshape((1,) * (tokens.ndim - 1) + (T,)) - (T - count)
    return jnp.take_along_axis(tokens, order, axis=-1), jnp.maximum(positions, -1)
