"""Decoding: one jitted loop over positions, no Python per token."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tfm_jax.nn.functional import Pure
from tfm_jax.nn.transformer import memory_mask_of
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
    memory_mask: Mask | Array | None = None,
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
      source_mask: of the encoder, True = may attend; ``masks.padding(valid)`` serves cross-attention too.
      memory_mask: of cross-attention, [..., max_length, S]; needed beside any other ``source_mask``.
      bos_id: what the decoder starts from.
      eos_id: what ends a row.
      pad_id: what fills a row that has ended.

    Returns:
      int32 [B, max_length], without the start token; pad after the end token. -1 where the logits are not
      numbers (an id outside the vocabulary, parameters that are not finite), and from there on.

    Raises:
      ValueError: for a source that is not int [B, S], a ``max_length`` below 1, a negative id, a
        ``source_mask`` that says nothing of cross-attention without a ``memory_mask``.
    """
    _check_ids(source=source)
    _check_special(bos_id=bos_id, eos_id=eos_id, pad_id=pad_id)
    memory_mask = memory_mask_of(source_mask) if memory_mask is None else memory_mask
    memory = model.apply(params, source, source_mask=source_mask, method="encode")
    # Made of the source, not of its shape: inside shard_map it is then as different by device.
    prompt = jnp.full_like(source[:, :1], bos_id, dtype=jnp.int32)

    def hidden(tokens: Array) -> Array:
        return model.apply(params, tokens, memory, memory_mask=memory_mask, method="hidden")

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
      int32 [B, max_length], without the prompt; pad after the end token. -1 where the logits are not
      numbers (an id outside the vocabulary, parameters that are not finite), and from there on.

    Raises:
      ValueError: for a prompt that is not int [B, P] or is empty, a temperature that is not above 0, a
        ``max_length`` below 1, a negative id.
    """
    _check_ids(prompt=prompt)
    _check_special(eos_id=eos_id, pad_id=pad_id)
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(
            f"temperature must be above 0, got {temperature}; for the likeliest token use a small one"
        )

    def hidden(tokens: Array) -> Array:
        return model.apply(params, tokens, method="hidden")

    def choose(logits: Array, step: Array) -> Array:
        draw = jax.random.categorical(jax.random.fold_in(key, step), logits / temperature)
        return draw.astype(jnp.int32)

    return _extend(model, params, hidden, choose, prompt.astype(jnp.int32), max_length, eos_id, pad_id)


def _check_ids(**named: Array) -> None:
    for name, ids in named.items():
        if ids.ndim != 2 or ids.shape[1] < 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
            got = f"{ids.dtype}{list(ids.shape)}"
            raise ValueError(f"{name} must be integer ids of two axes [B, length >= 1], got {got}")


def _check_special(**named: int | None) -> None:
    for name, token in named.items():
        if isinstance(token, int) and token < 0:
            raise ValueError(f"{name} must not be negative, got {token}")


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
    P = prompt.shape[1]
    tokens = jnp.pad(prompt, ((0, 0), (0, max_length)), constant_values=pad_id)

    def unfinished(carry) -> Array:
        step, _, ended = carry
        return (step < max_length) & ~jnp.all(ended)

    def extend(carry):
        step, tokens, ended = carry
        # The vector before the new position; the last column is only ever written, never read.
        last = jax.lax.dynamic_index_in_dim(hidden(tokens[:, :-1]), P - 1 + step, axis=1, keepdims=False)
        logits = model.apply(params, last, method="unembed")
        chosen = jnp.where(jnp.isnan(logits).any(-1), -1, choose(logits, step))
        chosen = jnp.where(ended, pad_id, chosen)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, chosen, P + step, axis=1)
        return step + 1, tokens, ended if eos_id is None else ended | (chosen == eos_id)

    start = (jnp.int32(0), tokens, jnp.zeros_like(tokens[:, 0], bool))
    return jax.lax.while_loop(unfinished, extend, start)[1][:, P:]
