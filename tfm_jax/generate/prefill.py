"""KV cache and prefill: the functions that read prompts and sources before decoding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array
from tfm_jax.nn.decoding import Cache, left_pad
from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.tracing import definitely, is_concrete
from tfm_jax.types import Array, Params

__all__ = [
    "Prefilled",
    "check_inputs",
    "check_valid",
    "extend",
    "init_cache",
    "prefill",
    "prefill_but_last",
    "step",
]


def init_cache(
    model: Pure,
    params: Params,
    inputs: int | Array,
    capacity: int,
    *,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
) -> Cache:
    """An empty KV cache; for an encoder-decoder, encodes the source too.

    Equivalent to::

        zeros [B, K, S, H] for the keys and values of every layer        # S = capacity
        memory = model.bind(params).encode(source)                   # its keys and values in every layer

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      inputs: the batch size B for an ``nn.Decoder``; the source, int [B, S], for an ``nn.EncoderDecoder``.
      capacity: most tokens of a sequence, prompt and output together.
      source_mask: for the encoder, True = may attend; ``masks.padding(valid)`` also masks cross-attention.
      memory_mask: for cross-attention, [..., capacity, S]; required with any other ``source_mask``.

    Returns:
      A Cache, a pytree. With ``config.window`` its size is that of the window.

    Raises:
      ValueError: ``capacity`` is below 1 or above the positions of ``nn.Learned``; masks without a source;
        a ``source_mask`` that is not padding, without a ``memory_mask``.
    """
    return _empty_cache(model, params, inputs, capacity, source_mask, memory_mask)


def prefill(
    model: Pure, params: Params, prompt: Array, cache: Cache, *, valid: Array | None = None
) -> tuple[Array, Cache]:
    """Prefill: reads a prompt in one forward pass.

    Equivalent to::

        logits = model(prompt)[..., -1, :]                  # of each sequence without its padding

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      prompt: int tokens [B, P], P at least 1.
      cache: an empty cache from ``init_cache``.
      valid: bool [B, P], False at padding, on the left or right; None for no padding.

    Returns:
      ``(logits, cache)``: float32 [B, V], for the token after each prompt.

    Raises:
      ValueError: a prompt that is empty or longer than the cache, ``valid`` of another shape, a cache that
        is not empty (if its length is concrete; ``extend`` appends to one), ``valid`` with a ``memory_mask``
        that has one row per target token.
    """
    prompt, valid = _check_tokens("prompt", prompt), check_valid(valid)
    if is_concrete(cache.slots.length) and int(cache.slots.length):
        raise ValueError(
            f"prefill: got a cache of {cache.slots.length} tokens; wanted an empty one. Append with extend."
        )
    if valid is not None and not isinstance(cache.memory_mask, Padding | None):
        raise ValueError(
            "prefill: got valid with a memory_mask that has one row per target token; wanted prompts without "
            "padding. Group prompts by length."
        )
    prompt, positions = _left_pad(prompt, valid)
    forward = model.bind(params).cached_forward()
    hidden, cache = forward(prompt, cache, positions=positions)
    return model.bind(params).unembed(hidden[:, -1]), cache


def extend(model: Pure, params: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    """Appends tokens to a KV cache and returns their logits.

    Equivalent to::

        logits = model(all tokens so far)[..., -T:, :]

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      tokens: int [B, T], the next tokens.
      cache: of the previous tokens.

    Returns:
      ``(logits, cache)``: float32 [B, T, V]. Inside ``jit``, which cannot raise, the logits are NaN once the
      cache is over capacity.

    Raises:
      ValueError: more tokens than the cache has room for, if the number is concrete.
    """
    return model.bind(params).extend(_check_tokens("tokens", tokens, minimum=0), cache)


def step(model: Pure, params: Params, token: Array, cache: Cache) -> tuple[Array, Cache]:
    """One decoding step: appends one token per sequence to a KV cache.

    Equivalent to::

        logits, cache = extend(model, params, token[:, None], cache)
        logits[:, 0], cache

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      token: int [B].
      cache: of the previous tokens.

    Returns:
      ``(logits, cache)``: float32 [B, V]. For a jitted loop, ``model.bind(params).cached_forward()``
      before the loop is faster: it unstacks the layers once.

    Raises:
      ValueError: as in ``extend``.
    """
    logits, cache = extend(model, params, as_array("step", "token", token)[:, None], cache)
    return logits[:, 0], cache


class Prefilled(NamedTuple):
    """Prompts and the KV cache of all their tokens but the last."""

    prompt: Array  # int32 [B, P], left-padded with -1
    positions: Array  # int32 [B], of the last token
    cache: Cache


def prefill_but_last(
    model: Pure,
    params: Params,
    inputs: Array,
    max_length: int,
    *,
    bos_id: int,
    valid: Array | None,
    source_mask: Mask | Array | None,
    memory_mask: Mask | Array | None,
    beams: int | None = None,
) -> Prefilled:
    """Prefill: fills the KV cache with all but the last prompt token, which the first decoding step reads.

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      inputs: int [B, P], the prompt of a decoder or the source of an encoder-decoder, whose prompt is BOS.
      max_length: tokens to generate after the prompt.
      bos_id, valid, source_mask, memory_mask: as in ``greedy``.
      beams: tokens per decoding step, each with its own slot; None is one, with slots reused in a window.

    Returns:
      ``Prefilled``.
    """
    inputs = check_inputs(model, params, inputs)
    if model.bind(params).is_encoder_decoder():
        if valid is not None:
            raise ValueError(
                "generate: got valid with an encoder-decoder; wanted valid=None. Mask the source with "
                "source_mask=masks.padding(valid)."
            )
        prompt, batch = jnp.full_like(inputs[:, :1], bos_id, dtype=jnp.int32), inputs
    else:
        prompt, batch = inputs.astype(jnp.int32), inputs.shape[0]
    P = prompt.shape[1]
    prompt, positions = _left_pad(prompt, valid)
    slots = None if beams is None else P - 1 + max_length * beams
    cache = _empty_cache(model, params, batch, P - 1 + max_length, source_mask, memory_mask, slots=slots)
    if not definitely(lambda: P <= 1):
        forward = model.bind(params).cached_forward()
        _, cache = forward(prompt[:, :-1], cache, positions=positions[:, :-1])
    return Prefilled(jnp.where(positions < 0, -1, prompt), positions[:, -1], cache)


def _empty_cache(model, params, inputs, capacity, source_mask, memory_mask, **options) -> Cache:
    if model.bind(params).is_encoder_decoder():
        options |= {"source_mask": source_mask, "memory_mask": memory_mask}
    elif source_mask is not None or memory_mask is not None:
        raise ValueError(
            "generate: got source_mask or memory_mask with a decoder-only model; wanted None. "
            "Mask the padding of prompts with valid."
        )
    return model.bind(params).init_cache(inputs, capacity, **options)


def _left_pad(prompt: Array, valid: Array | None) -> tuple[Array, Array]:
    return left_pad(prompt, jnp.ones_like(prompt, bool) if valid is None else valid)


def check_valid(valid: Array | None) -> Array | None:
    """Raises for a prompt without tokens, if ``valid`` is concrete."""
    valid = None if valid is None else as_array("generate", "valid", valid)
    if valid is None or isinstance(valid, jax.core.Tracer):
        return valid
    empty = np.flatnonzero(~np.asarray(valid, bool).any(-1)).tolist()
    if empty:
        raise ValueError(
            f"generate: got empty prompts at {empty}; wanted at least one token in each, such as BOS."
        )
    return valid


def check_inputs(model: Pure, params: Params, inputs: Array) -> Array:
    """Raises unless inputs are int [B, length], a decoder's prompt or an encoder-decoder's source."""
    is_encoder_decoder = model.bind(params).is_encoder_decoder()
    return _check_tokens("source" if is_encoder_decoder else "prompt", inputs)


def _check_tokens(name: str, tokens: Array, minimum: int = 1) -> Array:
    """Raises unless tokens are int [B, length] of at least the minimum length."""
    tokens = as_array("generate", name, tokens)
    is_integer = jnp.issubdtype(tokens.dtype, jnp.integer)
    if tokens.ndim != 2 or not is_integer or definitely(lambda: tokens.shape[1] < minimum):
        raise ValueError(
            f"generate: got {name} {tokens.dtype}{list(tokens.shape)}; wanted int [B, length], "
            f"length at least {minimum}."
        )
    return tokens
