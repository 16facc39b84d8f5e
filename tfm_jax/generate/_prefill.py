"""Prefill: reads prompts and sources into a KV cache before decoding."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array, check_shapes
from tfm_jax.generate._limits import Limits
from tfm_jax.nn.decoding import Cache, CachedDecoder, left_pad
from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.tracing import definitely, is_concrete
from tfm_jax.types import Array, Params

__all__ = ["InputMasks", "Prefilled", "check_inputs", "prefill", "prefill_but_last"]


def prefill(
    model: Pure[CachedDecoder], params: Params, prompt: Array, cache: Cache, *, valid: Array | None = None
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
        is not empty (if its length is concrete; ``nn.decode_step`` appends to one), ``valid`` with a
        ``memory_mask`` that has one row per target token.
    """
    prompt, valid = check_inputs("prefill", prompt, valid, name="prompt")
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
    decoder = model.bind(params)
    prompt, positions = _left_pad(prompt, valid)
    hidden, cache = decoder.cached_forward()(prompt, cache, positions=positions)
    return decoder.unembed(hidden[:, -1]), cache


class InputMasks(NamedTuple):
    """The masks of a batch of inputs, as in ``greedy``."""

    valid: Array | None
    source_mask: Mask | Array | None
    memory_mask: Mask | Array | None


class Prefilled(NamedTuple):
    """Prompts and the KV cache of all their tokens but the last."""

    prompt: Array  # int32 [B, P], left-padded with -1
    positions: Array  # int32 [B], of the last token
    cache: Cache


def prefill_but_last(
    decoder: CachedDecoder, inputs: Array, limits: Limits, masks: InputMasks, *, beams: int | None = None
) -> Prefilled:
    """Prefill: fills the KV cache with all but the last prompt token, which the first decoding step reads.

    Args:
      decoder: the model with its parameters.
      inputs: int [B, P], the prompt of a decoder or the source of an encoder-decoder, whose prompt is the
        start token.
      limits: of the outputs.
      masks: of the inputs.
      beams: tokens per decoding step, each with its own slot; None is one, with slots reused in a window.

    Returns:
      ``Prefilled``.
    """
    if decoder.is_encoder_decoder():
        assert limits.start_id is not None  # resolve_limits checks it
        prompt, batch = jnp.full_like(inputs[:, :1], limits.start_id, dtype=jnp.int32), inputs
    else:
        prompt, batch = inputs.astype(jnp.int32), inputs.shape[0]
    P, M = prompt.shape[1], limits.max_length
    prompt, positions = _left_pad(prompt, masks.valid)
    slots = None if beams is None else P - 1 + M * beams
    cache = decoder.init_cache(
        batch, P - 1 + M, source_mask=masks.source_mask, memory_mask=masks.memory_mask, slots=slots
    )
    if not definitely(lambda: P <= 1):
        _, cache = decoder.cached_forward()(prompt[:, :-1], cache, positions=positions[:, :-1])
    return Prefilled(jnp.where(positions < 0, -1, prompt), positions[:, -1], cache)


def _left_pad(prompt: Array, valid: Array | None) -> tuple[Array, Array]:
    return left_pad(prompt, jnp.ones_like(prompt, bool) if valid is None else valid)


def check_inputs(
    function: str, inputs: Array, valid: Array | None, *, name: str = "inputs"
) -> tuple[Array, Array | None]:
    """Checks token ids [B, T] and the mask of their padding.

    Raises:
      ValueError: inputs that are not int [B, T] with at least one token, ``valid`` of another shape; an input
        without a valid token, if ``valid`` is concrete.
    """
    inputs = as_array(function, name, inputs)
    valid = None if valid is None else as_array(function, "valid", valid)
    arguments = {name: (inputs, "B T", "int"), "valid": (valid, "B T", "bool")}
    fix = {"valid": "It is False at padding.", "rank": "A single sequence is [1, T]."}
    check_shapes(function, fix=fix, **arguments)
    if inputs.ndim and definitely(lambda: inputs.shape[-1] < 1):
        raise ValueError(
            f"{function}: got {name} {inputs.dtype}{list(inputs.shape)}; wanted at least one token in each, "
            "such as BOS."
        )
    if valid is not None and is_concrete(valid):
        empty = np.flatnonzero(~np.asarray(valid, bool).any(-1)).tolist()
        if empty:
            raise ValueError(
                f"{function}: got empty {name} at {empty}; wanted at least one token in each, such as BOS."
            )
    return inputs, valid
