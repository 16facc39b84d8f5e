"""What decoding begins from: a cache with all but the last token of the prompt in it."""

from collections.abc import Sequence
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
from tfm_jax.ranges import COUNT, check_number, check_numbers
from tfm_jax.types import Array, Params

__all__ = [
    "Begun",
    "Limits",
    "begin",
    "check_inputs",
    "check_limits",
    "check_valid",
    "extend",
    "init_cache",
    "is_end",
    "prefill",
    "step",
]


def init_cache(
    model: Pure,
    params: Params,
    rows: int | Array,
    capacity: int,
    *,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
) -> Cache:
    """An empty cache: of a decoder, or of an encoder-decoder that has read its source.

    Equivalent to::

        zeros [B, S, K, H] for the keys and values of every layer        # S = capacity
        memory = model.apply(params, source, method="encode")            # its keys and values in every layer

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      rows: of an ``nn.Decoder`` the number of rows B; of an ``nn.EncoderDecoder`` its source, int [B, S].
      capacity: how many tokens a row can have, prompt and output together.
      source_mask: of the encoder, True = may attend; ``masks.padding(valid)`` serves cross-attention too.
      memory_mask: of cross-attention, [..., capacity, S]; needed beside any other ``source_mask``.

    Returns:
      A Cache, a pytree. With a ``window`` it stays at the window's size, whatever the capacity.

    Raises:
      ValueError: for a capacity below 1 or above the positions that ``nn.Learned`` has; for masks without a
        source; for a ``source_mask`` that says nothing of cross-attention without a ``memory_mask``.
    """
    return _empty(model, params, rows, capacity, source_mask, memory_mask)


def prefill(
    model: Pure, params: Params, prompt: Array, cache: Cache, *, valid: Array | None = None
) -> tuple[Array, Cache]:
    """Reads a prompt of any length at once.

    Equivalent to::

        logits = model(prompt)[..., -1, :]                  # of each row alone, without its padding

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      prompt: int tokens [B, P], P at least 1.
      cache: from ``init_cache``, nothing read.
      valid: bool [B, P], True for a token that is not padding, which may stand left or right; None for all.

    Returns:
      ``(logits, cache)``: float32 [B, V], of the token after each row's last.

    Raises:
      ValueError: for a prompt that is empty or longer than the cache, for ``valid`` of another shape, for a
        cache of which something was read (where that is known before tracing; ``extend`` goes on with one),
        for ``valid`` beside a table as mask of cross-attention, which has a row a token.
    """
    prompt, valid = check_ids("prompt", prompt), check_valid(valid)
    if is_concrete(cache.slots.length) and int(cache.slots.length):
        raise ValueError(f"prefill wants an empty cache, got one of {cache.slots.length} tokens: use extend")
    if valid is not None and not isinstance(cache.memory_mask, Padding | None):
        raise ValueError("a table as memory_mask has a row a token: read prompts without padding beside it")
    prompt, positions = _aligned(prompt, valid)
    read = model.apply(params, method="cached_forward")
    hidden, cache = read(prompt, cache, positions=positions)
    return model.apply(params, hidden[:, -1], method="unembed"), cache


def extend(model: Pure, params: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    """Reads any number of tokens that follow those of the cache.

    Equivalent to::

        logits = model(all tokens so far)[..., -T:, :]

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      tokens: int [B, T].
      cache: of the tokens before them.

    Returns:
      ``(logits, cache)``: float32 [B, T, V]. Inside ``jit``, where nothing can raise, the logits are nan once
      more was read than the cache has room for.

    Raises:
      ValueError: for more tokens than the cache has room for, as far as that is known before tracing.
    """
    tokens = check_ids("tokens", tokens, least=0)
    return model.apply(params, tokens, cache, method="extend")


def step(model: Pure, params: Params, token: Array, cache: Cache) -> tuple[Array, Cache]:
    """Reads one token of each row.

    Equivalent to::

        logits, cache = extend(model, params, token[:, None], cache)
        logits[:, 0], cache

    Args:
      model: from ``nn.functionalize``.
      params: its parameters.
      token: int [B].
      cache: of the tokens before it.

    Returns:
      ``(logits, cache)``: float32 [B, V]. A jitted loop of one's own is faster around
      ``read = model.apply(params, method="cached_forward")``, made before it: the layers are taken apart once.

    Raises:
      ValueError: as ``extend``.
    """
    logits, cache = extend(model, params, as_array("step", "token", token)[:, None], cache)
    return logits[:, 0], cache


class Begun(NamedTuple):
    """Prompts read but for their last token."""

    prompt: Array  # int32 [B, P], padding on the left and -1 there
    positions: Array  # int32 [B], of the last token
    cache: Cache


def begin(
    model: Pure,
    params: Params,
    inputs: Array,
    room: int,
    *,
    valid: Array | None,
    source_mask: Mask | Array | None,
    memory_mask: Mask | Array | None,
    bos_id: int,
    width: int | None = None,
) -> Begun:
    """Reads what decoding begins from: the prompt of a decoder, or the source of an encoder-decoder.

    Args:
      inputs: int [B, P], a prompt or a source.
      room: how many positions will follow, the prompt's last token counted.
      width: how many tokens will be read at each, all of which are kept; None is one, kept as far as a window
        looks back.
    """
    inputs = check_inputs(model, params, inputs)
    if model.apply(params, method="is_encoder_decoder"):
        if valid is not None:
            raise ValueError("valid is of a prompt; of a source say source_mask=masks.padding(valid)")
        prompt, start = jnp.full_like(inputs[:, :1], bos_id, dtype=jnp.int32), inputs
    else:
        prompt, start = inputs.astype(jnp.int32), inputs.shape[0]
    P = prompt.shape[1]
    prompt, positions = _aligned(prompt, valid)
    slots = None if width is None else P - 1 + room * width
    cache = _empty(model, params, start, P - 1 + room, source_mask, memory_mask, slots=slots)
    if not definitely(lambda: P <= 1):
        read = model.apply(params, method="cached_forward")
        _, cache = read(prompt[:, :-1], cache, positions=positions[:, :-1])
    return Begun(jnp.where(positions < 0, -1, prompt), positions[:, -1], cache)


def _empty(model, params, rows, capacity, source_mask, memory_mask, **options) -> Cache:
    if model.apply(params, method="is_encoder_decoder"):
        options |= {"source_mask": source_mask, "memory_mask": memory_mask}
    elif source_mask is not None or memory_mask is not None:
        raise ValueError("a decoder has no source to mask; of a padded prompt say valid=...")
    return model.apply(params, rows, capacity, method="init_cache", **options)


def _aligned(prompt: Array, valid: Array | None) -> tuple[Array, Array]:
    return left_pad(prompt, jnp.ones_like(prompt, bool) if valid is None else valid)


def check_valid(valid: Array | None) -> Array | None:
    """Raises for a row without a token, where that is known before tracing."""
    valid = None if valid is None else as_array("generate", "valid", valid)
    if valid is None or isinstance(valid, jax.core.Tracer):
        return valid
    empty = np.flatnonzero(~np.asarray(valid, bool).any(-1)).tolist()
    if empty:
        raise ValueError(f"the prompts of rows {empty} are empty: begin them with a start token")
    return valid


def check_inputs(model: Pure, params: Params, inputs: Array) -> Array:
    """Raises for what is no prompt of a decoder, or no source of an encoder-decoder."""
    return check_ids("source" if model.apply(params, method="is_encoder_decoder") else "prompt", inputs)


def check_ids(name: str, ids: Array, least: int = 1) -> Array:
    """Raises for what is no [B, length] of token ids."""
    ids = as_array("generate", name, ids)
    integer = jnp.issubdtype(ids.dtype, jnp.integer)
    if ids.ndim != 2 or not integer or definitely(lambda: ids.shape[1] < least):
        got = f"{ids.dtype}{list(ids.shape)}"
        raise ValueError(f"{name} must be integer ids of two axes [B, length >= {least}], got {got}")
    return ids


class Limits(NamedTuple):
    """How long outputs are, and what stands at their ends."""

    max_length: int
    min_length: int
    ends: tuple[int, ...]
    pad_id: int
    bos_id: int


def is_end(tokens: Array, ends: tuple[int, ...]) -> Array:
    """Which of the tokens end a row."""
    found = jnp.zeros_like(tokens, bool)
    for end in ends:
        found |= tokens == end
    return found


def check_limits(
    where: str,
    *,
    max_length: int,
    min_length: int,
    eos_id: int | Sequence[int] | None,
    pad_id: int,
    bos_id: int,
) -> Limits:
    """What was asked for, if it can be."""
    check_numbers(where, COUNT, max_length=max_length, min_length=min_length, pad_id=pad_id, bos_id=bos_id)
    if max_length < min_length:
        raise ValueError(
            f"{where}: got min_length={min_length} with max_length={max_length}; wanted no more than that."
        )
    if isinstance(eos_id, np.ndarray | jax.Array):
        eos_id = np.asarray(eos_id).tolist()
    several = isinstance(eos_id, Sequence) and not isinstance(eos_id, str)
    ends = () if eos_id is None else tuple(eos_id) if several else (eos_id,)
    for end in ends:
        check_number(where, "eos_id", end, COUNT)
    return Limits(max_length, min_length, tuple(map(int, ends)), pad_id, bos_id)
