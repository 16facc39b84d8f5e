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
    "prefill",
    "prefill_but_last",
]


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
      cache: an empty cache from ``nn.init_cache``.
      valid: bool [B, P], False at padding, on the left or right; None for no padding.

    Returns:
      ``(logits, cache)``: float32 [B, V], for the token after each prompt.

    Raises:
      ValueError: a prompt that is empty or longer than the cache, ``valid`` of another shape, a cache that
        is not empty (if its length is concrete; ``nn.decode_step``
        appends to one), ``valid`` with a ``memory_mask``
        that has one row per target token.
    """
    prompt, valid = _check_tokens("prompt", prompt), check_valid(valid)
    if is_concrete(cache.slots.length) and int(cache.slots.length):
        raise ValueError(
            f"prefill: got a cache of {cache.slots.length} tokens; wanted an empty one. Append with "
            "nn.decode_step."
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
    masks = {"source_mask": source_mask, "memory_mask": memory_mask}
    masks = {name: mask for name, mask in masks.items() if mask is not None}
    cache = model.bind(params).init_cache(batch, P - 1 + max_length, slots=slots, **masks)
    if not definitely(lambda: P <= 1):
        forward = model.bind(params).cached_forward()
        _, cache = forward(prompt[:, :-1], cache, positions=positions[:, :-1])
    return Prefilled(jnp.where(positions < 0, -1, prompt), positions[:, -1], cache)


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
