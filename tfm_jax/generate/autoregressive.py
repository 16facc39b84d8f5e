"""Autoregressive decoding: greedy, sampling and streaming, in one jitted loop over positions."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import as_array, as_key
from tfm_jax.generate._limits import EosIds, Limits, is_eos, output_lengths, resolve_limits
from tfm_jax.generate.logits_processors import Context, Processor, apply_processors, prepare_processors
from tfm_jax.generate.prefill import check_inputs, check_valid, prefill_but_last
from tfm_jax.nn.decoding import Cache
from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import vary_with
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Array, Key, Params

__all__ = ["DecodingLoop", "Generated", "greedy", "sample", "stream"]


@pytrees.register_named_tuple
class Generated(NamedTuple):
    """Generated tokens of a batch.

    Args:
      tokens: int32 [B, max_length], without the prompt; pad after EOS. -1 from the first position with no
        valid choice: the logits are NaN (an id outside the vocabulary, parameters that are not finite), the
        processors masked every token, or several logits are infinite (a temperature near 0).
      lengths: int32 [B], tokens of each output, EOS included.
      log_probs: float32 [B, max_length], the model's log-probability of each token, before the processors;
        0 after EOS.
    """

    tokens: Array
    lengths: Array
    log_probs: Array


def greedy(
    model: Pure,
    params: Params,
    inputs: Array,
    *,
    max_length: int,
    min_length: int = 0,
    eos_id: EosIds = 2,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
    bos_id: int = 1,
) -> Generated:
    """Greedy decoding: takes the most likely next token until every sequence has ended.

    Equivalent to::

        while tokens[-1] != eos_id and len(tokens) < max_length:
            tokens.append(argmax(model(source, [bos_id, *tokens])[-1]))      # an encoder-decoder
            tokens.append(argmax(model([*prompt, *tokens])[-1]))             # a decoder

    Args:
      model: from ``nn.functionalize``: an ``nn.Decoder`` or an ``nn.EncoderDecoder``.
      params: its parameters.
      inputs: int tokens: the prompt [B, P] of a decoder, or the source [B, S] of an encoder-decoder.
      max_length: most tokens of an output, EOS included; 0 generates nothing.
      min_length: fewest tokens of an output, EOS included.
      eos_id: the EOS token: one id, several, or None for none.
      pad_id: fills outputs after EOS.
      processors: logits processors, applied in order, such as ``(NoRepeatNgram(3),)``.
      valid: bool [B, P], False at the padding of prompts, on the left or right.
      source_mask: for the encoder, True = may attend; ``masks.padding(valid)`` also masks cross-attention.
      memory_mask: for cross-attention, [..., max_length, S]; required with any other ``source_mask``.
      bos_id: first decoder token of an encoder-decoder.

    Returns:
      ``Generated``. Compiled once per model, shape of inputs, and limits.

    Raises:
      ValueError: inputs that are not int [B, length >= 1], an empty prompt, ``max_length`` below 0 or below
        ``min_length``, a length or an id that is not an integer, a negative id, more positions than
        ``nn.Learned`` has, a ``source_mask`` that is not padding, without a ``memory_mask``.
    """
    limits = resolve_limits(
        "greedy", max_length=max_length, min_length=min_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id
    )
    loop = DecodingLoop(model, params, limits, prepare_processors(processors, limits))
    return loop.generate(inputs, None, valid=valid, source_mask=source_mask, memory_mask=memory_mask)


def sample(
    model: Pure,
    params: Params,
    inputs: Array,
    *,
    key: Key,
    max_length: int,
    min_length: int = 0,
    eos_id: EosIds = None,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
    bos_id: int = 1,
) -> Generated:
    """Samples each next token from the model's distribution, after the processors.

    Equivalent to::

        keys = jax.random.split(key, B)                      # unless key has shape [B]
        for step in range(max_length):
            logits = apply_processors(processors, model(tokens)[-1])
            tokens.append(jax.random.categorical(jax.random.fold_in(keys[b], step), logits))

    Args:
      model, params, inputs: as in ``greedy``.
      key: a PRNG key, consumed; or one per sequence [B], which makes sampling independent of batching. Keys
        of ``jax.random.PRNGKey`` are uint32 [2], or [B, 2].
      max_length, min_length, eos_id, pad_id: as in ``greedy``, but no EOS by default.
      processors: logits processors, applied in order, such as ``(Temperature(0.8), TopP(0.95))``.
      valid, source_mask, memory_mask, bos_id: as in ``greedy``.

    Returns:
      ``Generated``.

    Raises:
      ValueError: as in ``greedy``; ``key`` is None, or neither one key nor B.
    """
    if key is None:
        raise ValueError(
            "sample: got key=None; wanted a PRNG key, such as jax.random.key(0). For the most likely tokens "
            "call greedy."
        )
    limits = resolve_limits(
        "sample", max_length=max_length, min_length=min_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id
    )
    loop = DecodingLoop(model, params, limits, prepare_processors(processors, limits))
    return loop.generate(inputs, key, valid=valid, source_mask=source_mask, memory_mask=memory_mask)


def stream(
    model: Pure,
    params: Params,
    inputs: Array,
    *,
    key: Key | None,
    max_length: int,
    every: int = 8,
    min_length: int = 0,
    eos_id: EosIds = None,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
    bos_id: int = 1,
) -> Iterator[np.ndarray]:
    """Streams tokens while they are generated.

    Equivalent to::

        tokens = sample(model, params, inputs, key=key, ...).tokens          # greedy if key is None
        for start in range(0, max_length, every):                            # until all sequences have ended
            yield tokens[:, start : start + every]

    Args:
      model, params, inputs: as in ``greedy``.
      key: as in ``sample``; None decodes greedily.
      max_length, min_length, eos_id, pad_id, processors: as in ``sample``.
      every: tokens per call of the compiled loop; fewer tokens cost more calls.
      valid, source_mask, memory_mask, bos_id: as in ``greedy``.

    Returns:
      An iterator over NumPy int32 [B, n] with n at most ``every``. Generation stops with the iteration.

    Raises:
      ValueError: as in ``sample``; ``every`` is below 1.
    """
    check_number("stream", "every", every, SIZE)
    limits = resolve_limits(
        "stream", max_length=max_length, min_length=min_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id
    )
    loop = DecodingLoop(model, params, limits, prepare_processors(processors, limits))
    return loop.stream(inputs, key, every, valid=valid, source_mask=source_mask, memory_mask=memory_mask)


class _State(NamedTuple):
    """State of the loop before each step."""

    step: Array  # int32 scalar, tokens generated so far
    tokens: Array  # int32 [B, P + max_length], -1 at padding and at positions to come
    position: Array  # int32 [B], of the last token
    log_probs: Array  # float32 [B, max_length]
    ended: Array  # bool [B]
    keys: Key | None  # [B]
    cache: Cache


class DecodingLoop(NamedTuple):
    """The constants of an autoregressive loop, and the ways to run it."""

    model: Pure
    params: Params
    limits: Limits
    processors: tuple[Processor, ...]

    def generate(self, inputs: Array, key: Key | None, **masks) -> Generated:
        """Generates until every sequence has ended."""
        M = self.limits.max_length
        if M > 0:
            return _output(self.limits, self._decode(self._start(inputs, key, **masks), M))
        inputs = check_inputs(self.model, self.params, inputs)
        empty, lengths = inputs[:, :0], jnp.zeros_like(inputs[:, 0], jnp.int32)
        return Generated(empty.astype(jnp.int32), lengths, empty.astype(jnp.float32))

    def stream(self, inputs: Array, key: Key | None, every: int, **masks) -> Iterator[np.ndarray]:
        """Generates ``every`` tokens at a time; the prompt is read at once."""
        if self.limits.max_length == 0:
            return iter(())
        return self._blocks(self._start(inputs, key, **masks), every)

    def _blocks(self, state: _State, every: int) -> Iterator[np.ndarray]:
        M = self.limits.max_length
        for start in range(0, M, every):
            stop = min(start + every, M)
            state = self._decode(state, stop)
            yield np.asarray(_output(self.limits, state).tokens[:, start:stop])
            if state.ended.all():
                return

    def _start(self, inputs: Array, key: Key | None, *, valid: Array | None, **masks) -> _State:
        inputs, valid = as_array("generate", "inputs", inputs), check_valid(valid)
        B = inputs.shape[0] if inputs.ndim else 1  # inputs without axes raise below
        keys = None if key is None else _sequence_keys(key, B)
        return _start(self.model, self.limits, self.params, inputs, keys, valid=valid, **masks)

    def _decode(self, state: _State, stop: int) -> _State:
        return _decode(self.model, self.limits, self.params, self.processors, state, jnp.int32(stop))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(model, limits, params, inputs, keys, **options) -> _State:
    M = limits.max_length
    prompt, position, cache = prefill_but_last(model, params, inputs, M, bos_id=limits.bos_id, **options)
    tokens = jnp.pad(prompt, ((0, 0), (0, M)), constant_values=-1)
    log_probs = jnp.zeros_like(tokens[:, -M:], jnp.float32)
    return _State(jnp.int32(0), tokens, position, log_probs, jnp.zeros_like(position, bool), keys, cache)


@functools.partial(jax.jit, static_argnums=0)
def _output(limits, state) -> Generated:
    tokens = state.tokens[:, -limits.max_length :]
    lengths = output_lengths(tokens, limits.eos_ids)
    generated = jnp.arange(limits.max_length, dtype=jnp.int32)[None] < lengths[:, None]
    tokens = jnp.where(generated, tokens, limits.pad_id)
    return Generated(tokens, lengths, jnp.where(generated, state.log_probs, 0.0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(model, limits, params, processors, state, stop) -> _State:
    """Generates until there are ``stop`` tokens or every sequence has ended."""
    forward = model.bind(params).cached_forward()
    unembed = model.bind(params).unembed_function(state.tokens.shape[0])
    P = state.tokens.shape[1] - limits.max_length
    # Inside shard_map the loop's values must all vary over the same mesh axes.
    state = jax.tree.map(lambda x: vary_with(x, (params, processors, state)), state)

    def unfinished(state: _State) -> Array:
        return (state.step < stop) & ~jnp.all(state.ended)

    def decoding_step(state: _State) -> _State:
        step, tokens = state.step, state.tokens
        last = jax.lax.dynamic_slice_in_dim(tokens, P - 1 + step, 1, axis=1)
        # Sequences that have ended continue with token 0; their output is padding.
        last = jnp.where(state.ended[:, None], 0, last)
        hidden, cache = forward(last, state.cache, positions=state.position[:, None])
        logits = unembed(hidden[:, 0])
        processed = apply_processors(processors, logits, Context(tokens, P + step, step))
        chosen = _choose(processed, state.keys, step)
        log_prob = _take(logits, chosen) - jax.nn.logsumexp(logits, axis=1, keepdims=True)
        # No token is right if logits are NaN, every token is masked, or several logits are infinite.
        all_masked = jnp.isneginf(_take(processed, chosen))[:, 0]
        several_infinite = jnp.isposinf(processed).sum(1) > 1
        nan = jnp.isnan(log_prob[:, 0]) | jnp.isnan(processed.max(1))
        chosen = jnp.where(nan | all_masked | several_infinite, -1, chosen)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, chosen[:, None], P + step, axis=1)
        log_probs = jax.lax.dynamic_update_slice_in_dim(state.log_probs, log_prob, step, axis=1)
        ended = state.ended | is_eos(chosen, limits.eos_ids)
        return _State(step + 1, tokens, state.position + 1, log_probs, ended, state.keys, cache)

    return jax.lax.while_loop(unfinished, decoding_step, state)


def _choose(logits: Array, keys: Key | None, step: Array) -> Array:
    if keys is None:
        return _argmax(logits)

    def draw(key: Key, logits: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, step), logits)

    return jax.vmap(draw)(keys, logits).astype(jnp.int32)


def _take(x: Array, token: Array) -> Array:  # [B, V], [B] -> [B, 1]
    return jnp.take_along_axis(x, token[:, None], axis=1)


def _argmax(x: Array) -> Array:  # [B, V] -> int32 [B]
    """The first maximum, as ``jnp.argmax``, which XLA does not vectorize on a CPU; it does ``max``."""
    (B, V), n = x.shape, 128
    tiles = -(-V // n)
    x = jnp.pad(x, ((0, 0), (0, tiles * n - V)), constant_values=-jnp.inf).reshape(B, tiles, n)
    tile = jnp.argmax(x.max(-1), axis=-1)
    within = jnp.take_along_axis(x, tile[:, None, None], axis=1)[:, 0]
    return (tile * n + jnp.argmax(within, axis=-1)).astype(jnp.int32)


def _sequence_keys(key: Key, B: int) -> Key:
    """One key per sequence."""
    key = as_key("generate", key, batched=True)
    if key.ndim == 0:
        return jax.random.split(key, B)
    if key.shape != (B,):
        raise ValueError(f"generate: got keys {list(key.shape)}; wanted one key, or one per sequence [{B}].")
    return key
