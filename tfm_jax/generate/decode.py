"""Decoding: one jitted loop over positions, no Python per token."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask
from tfm_jax.types import Array, Key, Params

__all__ = ["greedy", "sample"]


def greedy(
    model: Pure,
    params: Params,
    source: Array,
    *,
    max_length: int,
    source_mask: Mask | Array | None = None,
    bos_id: int = 1,
    eos_id: int = 2,
    pad_id: int = 0,
) -> Array:
    """The likeliest next token, again and again, until every row has ended.

    Equivalent to::

        while tokens[-1] != eos_id and len(tokens) <= max_length:
            tokens.append(argmax(model(source, tokens)[-1]))

    Args:
      model: an encoder-decoder, from ``nn.functionalize(nn.EncoderDecoder, config)``.
      params: its parameters.
      source: int tokens [B, S].
      max_length: the longest output, in tokens, the end token counted.
      source_mask: ``masks.padding(valid)``, True = may attend; of the encoder and of cross-attention.
      bos_id: what the decoder starts from.
      eos_id: what ends a row.
      pad_id: what fills a row that has ended.

    Returns:
      int32 [B, max_length], without the start token; pad after the end token.

    Raises:
      ValueError: for a ``max_length`` below 1.
    """
    memory = model.apply(params, source, source_mask=source_mask, method="encode")
    prompt = jnp.full((source.shape[0], 1), bos_id, jnp.int32)

    def hidden(tokens: Array) -> Array:
        return model.apply(params, tokens, memory, memory_mask=source_mask, method="hidden")

    def choose(logits: Array, step: Array) -> Array:
        del step
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return _extend(model, params, hidden, choose, prompt, max_length, eos_id, pad_id)


def sample(
    model: Pure,
    params: Params,
    prompt: Array,
    *,
    key: Key,
    max_length: int,
    temperature: float = 1.0,
    eos_id: int | None = None,
    pad_id: int = 0,
) -> Array:
    """Draws each next token from the model's distribution.

    Equivalent to::

        for step in range(max_length):
            logits = model(tokens)[-1] / temperature
            tokens.append(jax.random.categorical(jax.random.fold_in(key, step), logits))

    Args:
      model: a decoder, from ``nn.functionalize(nn.Decoder, config)``.
      params: its parameters.
      prompt: int tokens [B, P], P at least 1.
      key: consumed.
      max_length: how many tokens to add.
      temperature: above 0; lower is more certain.
      eos_id: what ends a row; None never ends.
      pad_id: what fills a row that has ended.

    Returns:
      int32 [B, max_length], without the prompt; pad after the end token.

    Raises:
      ValueError: for an empty prompt, a temperature that is not above 0, a ``max_length`` below 1.
    """
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must be int [B, P] with P at least 1, got {prompt.shape}")
    if not temperature > 0:
        raise ValueError(
            f"temperature must be above 0, got {temperature}; for the likeliest token use a small one"
        )

    def hidden(tokens: Array) -> Array:
        return model.apply(params, tokens, method="hidden")

    def choose(logits: Array, step: Array) -> Array:
        draw = jax.random.categorical(jax.random.fold_in(key, step), logits / temperature)
        return draw.astype(jnp.int32)

    return _extend(model, params, hidden, choose, prompt.astype(jnp.int32), max_length, eos_id, pad_id)


def _extend(
    model: Pure,
    params: Params,
    hidden: Callable[[Array], Array],
    choose: Callable[[Array, Array], Array],
    prompt: Array,
    max_length: int,
    eos_id: int | None,
    pad_id: int,
) -> Array:
    """Adds tokens to prompt [B, P] in a buffer of fixed length; what is not written yet cannot be seen,
    as every position attends to those before it only."""
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    B, P = prompt.shape
    tokens = jnp.concatenate([prompt, jnp.full((B, max_length), pad_id, jnp.int32)], axis=1)

    def unfinished(carry) -> Array:
        step, _, ended = carry
        return (step < max_length) & ~jnp.all(ended)

    def extend(carry):
        step, tokens, ended = carry
        # The vector before the new position; the last column is only ever written, never read.
        last = jax.lax.dynamic_index_in_dim(hidden(tokens[:, :-1]), P - 1 + step, axis=1, keepdims=False)
        chosen = choose(model.apply(params, last, method="unembed"), step)
        chosen = jnp.where(ended, pad_id, chosen)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, chosen, P + step, axis=1)
        return step + 1, tokens, ended if eos_id is None else ended | (chosen == eos_id)

    start = (jnp.int32(0), tokens, jnp.zeros(B, bool))
    return jax.lax.while_loop(unfinished, extend, start)[1][:, P:]
