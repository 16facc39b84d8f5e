"""Decoders that read a few tokens at a time, and remember those before them in a cache."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from tfm_jax import pytrees
from tfm_jax.checks import as_array
from tfm_jax.nn.blocks import KeysValues
from tfm_jax.nn.config import Config
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.heads import LanguageModelHead
from tfm_jax.nn.parameters import constant
from tfm_jax.nn.stack import Stack
from tfm_jax.ops.kv_cache import Slots, advance, has_room, init_slots, next_positions, seen_mask
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.masks.tiles import Span
from tfm_jax.ops.tracing import current_platform, definitely
from tfm_jax.types import Array

__all__ = ["Cache", "Incremental", "left_pad", "memory_mask_of", "output_head"]

Read = Callable[..., tuple[Array, "Cache"]]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Cache:
    """What a decoder remembers of the tokens that it has read. A pytree.

    Args:
      layers: the keys and values of each layer's self-attention, each [..., K, S, H], with K heads, not N. S
        is the capacity, or the window less 1 where that is smaller.
      slots: which token stands in which slot, and how many were read.
      memory: the keys and values of each layer's cross-attention, made once; empty without a source.
      memory_mask: of cross-attention, for as many target tokens as there is room for.
    """

    layers: tuple[KeysValues, ...]
    slots: Slots
    memory: tuple[KeysValues, ...] = ()
    memory_mask: Mask | None = None


class Incremental(nnx.Module):
    """What ``Decoder`` and ``EncoderDecoder`` share: the output projection, and reading token by token."""

    config: Config
    embedding: Embedding
    head: LanguageModelHead | None
    logits_bias: nnx.Param | None

    def is_encoder_decoder(self) -> bool:
        """Whether there is an encoder."""
        raise NotImplementedError

    def decoder_stack(self) -> Stack:
        """The layers that read the tokens."""
        raise NotImplementedError

    def unembed(self, hidden: Array) -> Array:
        """The logits [..., V], float32, of hidden [..., D]."""
        hidden = self._scaled(hidden)
        return self._biased(self.embedding.attend(hidden) if self.head is None else self.head(hidden))

    def unembedding(self) -> Array:
        """The output projection [D, V], in the dtype of the activations.

        Raises a ValueError where the logits have a bias too: the kernel alone would leave it out.
        """
        if self.logits_bias is not None:
            raise ValueError(
                "these logits are hidden @ kernel + bias: use unembed, or add params['logits_bias']"
            )
        return self._scaled(self._kernel())

    def projection(self, rows: int) -> Callable[[Array], Array]:
        """Makes ``unembed`` for a loop over so many rows.

        On a CPU several rows times [D, V] are faster than times the embedding's table [V, D]: there the table
        is transposed here, before the loop, at the price of a second one in memory.
        """
        if self.head is not None or rows == 1 or current_platform() != "cpu":
            return self.unembed
        kernel = self._kernel()
        project = lambda x: jnp.einsum("...D,DV->...V", x, kernel, preferred_element_type=jnp.float32)
        return lambda x: self._biased(project(self._scaled(x)))

    def _kernel(self) -> Array:
        kernel = self.embedding.table[...].T if self.head is None else self.head.projection.kernel[...]
        return kernel.astype(self.config.dtype)

    def _scaled(self, x: Array) -> Array:
        return x if self.config.logits_scale == 1.0 else x * self.config.logits_scale

    def _biased(self, logits: Array) -> Array:
        if self.logits_bias is None:
            return logits
        return logits + jnp.broadcast_to(self.logits_bias[...].astype(logits.dtype), logits.shape)

    def extend(self, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        """Reads the tokens that follow those of a cache.

        Equivalent to::

            logits = self(all tokens so far)[..., -T:, :]

        Args:
          tokens: int [..., T].
          cache: of the tokens before them.

        Returns:
          ``(logits, cache)``: [..., T, V] float32, and the cache with these tokens in it. The logits are nan
          where, inside ``jit``, more tokens are read than the cache has room for.

        Raises:
          ValueError: for more tokens than the cache has room for, as far as that is known before tracing.
        """
        hidden, cache = self.incremental()(tokens, cache)
        return self.unembed(hidden), cache

    def incremental(self) -> Read:
        """Makes ``read(tokens, cache, *, positions=None, mask=None) -> (hidden [..., T, D], cache)``.

        The layers, which are stacked, are taken apart here: made before a loop, ``read`` does not copy them
        in every turn of it. ``positions`` int [..., T] are those that follow, or -1 for tokens that nobody is
        to look at; ``mask`` [..., T, S] is which slots each token may attend to: by default those before it
        and itself.
        """
        stack = self.decoder_stack()
        config, blocks = stack.config, stack.apart()

        def read(
            tokens: Array, cache: Cache, *, positions: Array | None = None, mask: Mask | None = None
        ) -> tuple[Array, Cache]:
            tokens = as_array("extend", "tokens", tokens)
            slots, T = cache.slots, tokens.shape[-1]
            positions = next_positions(slots, T) if positions is None else positions
            seen, after = advance(slots, positions)
            mask = seen_mask(slots, seen, window=config.window) if mask is None else mask
            # What stands nowhere is read as if it stood at 0: nobody looks at it.
            positions = jnp.maximum(positions, 0)
            x = stack.enter(self.embedding(tokens), positions)
            bias = stack.position_bias(positions, seen)
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
            x = x if stack.norm is None else stack.norm(x)
            x = jnp.where(has_room(slots, T), x, jnp.nan)
            return x, dataclasses.replace(cache, layers=tuple(layers), slots=after)

        return read

    def empty_cache(self, batch: tuple[int, ...], capacity: int, *, slots: int | None = None) -> Cache:
        """A cache [..., K, S, H] a layer in which nothing stands.

        Args:
          batch: the leading dims [...].
          capacity: how many positions a row can have, prompt and output together.
          slots: how many tokens are to be kept, where several may share a position; None is one a position,
            and no more than the window looks back at.

        Returns:
          The Cache.

        Raises:
          ValueError: for a capacity below 1, or above the positions that ``Learned`` has.
        """
        stack = self.decoder_stack()
        config = stack.config
        stack.position_embedding.count(capacity)
        window = config.window
        rolling = slots is None and window is not None and definitely(lambda: window <= capacity)
        S = max(window - 1, 1) if rolling else capacity if slots is None else slots
        empty = jnp.zeros((*batch, config.K, S, config.H), config.dtype)
        return Cache(((empty, empty),) * stack.n_layers, init_slots(batch, S, rolling=rolling))


def memory_mask_of(source_mask: Mask | Array | None) -> Mask | None:
    """The mask of cross-attention that a mask of the source implies."""
    if source_mask is None or isinstance(source_mask, Padding):
        return source_mask
    raise ValueError(
        "of the masks of the source, only masks.padding(valid) says what the target may attend to; "
        f"got {source_mask!r}: pass memory_mask too"
    )


def output_head(config: Config, *, rngs: nnx.Rngs) -> tuple[LanguageModelHead | None, nnx.Param | None]:
    """The output projection, unless the embedding's table serves as one, and the bias after it, if any."""
    head = None if config.tie_embeddings else LanguageModelHead(config, rngs=rngs)
    bias = constant(0.0, config.vocab_size, config.param_dtype) if config.logits_bias else None
    return head, bias


def left_pad(tokens: Array, valid: Array) -> tuple[Array, Array]:
    """Rows padded on whichever side, padded on the left; and where each token stands in its row.

    Equivalent to::

        [row[~ok], row[ok]]                                # one after the other, in each row
        [-1 for all that are not valid, 0, 1, 2 ...]

    Args:
      tokens: int [..., T].
      valid: bool [..., T], True for a token that is not padding.

    Returns:
      ``(tokens, positions)``, int [..., T] both.

    Raises:
      ValueError: for ``valid`` of another shape or dtype.
    """
    tokens, valid = as_array("left_pad", "tokens", tokens), as_array("left_pad", "valid", valid)
    if valid.shape != tokens.shape or valid.dtype != bool:
        raise ValueError(
            f"valid must be bool [..., T] = {list(tokens.shape)}, True where a token is not padding; "
            f"got {valid.dtype}{list(valid.shape)}"
        )
    order = jnp.argsort(valid, axis=-1, stable=True)
    count = jnp.sum(valid, axis=-1, keepdims=True, dtype=jnp.int32)
    T = tokens.shape[-1]
    place = jnp.arange(T, dtype=jnp.int32).reshape((1,) * (tokens.ndim - 1) + (T,)) - (T - count)
    return jnp.take_along_axis(tokens, order, axis=-1), jnp.maximum(place, -1)
