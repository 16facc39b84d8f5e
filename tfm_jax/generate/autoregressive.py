"""Autoregressive decoding: greedy, sampling and streaming, in one jitted loop over positions."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import as_key, check_shapes
from tfm_jax.generate._limits import Limits, check_config, is_eos, output_lengths, resolve_limits
from tfm_jax.generate._prefill import InputMasks, check_inputs, prefill_but_last
from tfm_jax.generate.config import GenerationConfig
from tfm_jax.generate.logits_processors import Context, Processor, apply_processors, prepare_processors
from tfm_jax.nn.decoding import Cache, CachedDecoder
from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import vary_with
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key, Params

__all__ = ["Generated", "greedy", "sample", "stream"]


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
    model: Pure[CachedDecoder],
    params: Params,
    inputs: Array,
    config: GenerationConfig,
    *,
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
) -> Generated:
    """Greedy decoding: takes the most likely next token until every sequence has ended.

    Equivalent to::

        while tokens[-1] not in config.eos_ids and len(tokens) < config.max_length:
            tokens.append(argmax(model(source, [config.start_id, *tokens])[-1]))     # an encoder-decoder
            tokens.append(argmax(model([*prompt, *tokens])[-1]))                     # a decoder

    Args:
      model: from ``nn.functionalize``: an ``nn.Decoder`` or an ``nn.EncoderDecoder``.
      params: its parameters.
      inputs: int tokens: the prompt [B, P] of a decoder, or the source [B, S] of an encoder-decoder.
      config: lengths, special tokens and logits processors; without beams, sampling and settings of texts.
      valid: bool [B, P], False at the padding of prompts, on the left or right.
      source_mask: for the encoder, True = may attend; ``masks.padding(valid)`` also masks cross-attention.
      memory_mask: for cross-attention, [..., max_length, S]; required with any other ``source_mask``.

    Returns:
      ``Generated``. Compiled once per model, shape of inputs, and limits.

    Raises:
      ValueError: inputs that are not int [B, length >= 1]; an empty prompt; a setting that greedy decoding
        cannot follow; no ``max_length``; no ``start_id`` for an encoder-decoder, or ``valid`` with one;
        ``max_total`` or ``min_total`` that limit padded prompts differently; more positions than
        ``nn.Learned`` has; a ``source_mask`` that is not padding, without a ``memory_mask``.
    """
    check_config("greedy", config, beams=1, n_best=1, do_sample=False)
    masks = InputMasks(valid, source_mask, memory_mask)
    return _prepare("greedy", model, params, inputs, config, key=None, masks=masks).generate()


def sample(
    model: Pure[CachedDecoder],
    params: Params,
    inputs: Array,
    config: GenerationConfig,
    *,
    key: Key,
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
) -> Generated:
    """Samples each next token from the model's distribution, after the processors.

    Equivalent to::

        keys = jax.random.split(key, B)                      # unless key has shape [B]
        for step in range(config.max_length):
            logits = model(tokens)[-1]
            for processor in config.processors:
                logits = processor(logits, context)
            tokens.append(jax.random.categorical(jax.random.fold_in(keys[b], step), logits))

    Args:
      model, params, inputs: as in ``greedy``.
      config: lengths, special tokens and logits processors, such as ``(Temperature(0.8), TopP(0.95))``;
        without beams and settings of texts.
      key: a PRNG key, consumed; or one per sequence [B], which makes sampling independent of batching. Keys
        of ``jax.random.PRNGKey`` are uint32 [2], or [B, 2].
      valid, source_mask, memory_mask: as in ``greedy``.

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
    check_config("sample", config, beams=1, n_best=1)
    masks = InputMasks(valid, source_mask, memory_mask)
    return _prepare("sample", model, params, inputs, config, key=key, masks=masks).generate()


def stream(
    model: Pure[CachedDecoder],
    params: Params,
    inputs: Array,
    config: GenerationConfig,
    *,
    key: Key | None,
    every: int = 8,
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
) -> Iterator[np.ndarray]:
    """Streams tokens while they are generated.

    Equivalent to::

        tokens = sample(model, params, inputs, config, key=key).tokens       # greedy if key is None
        for start in range(0, config.max_length, every):                     # until all sequences have ended
            yield tokens[:, start : start + every]

    Args:
      model, params, inputs, config: as in ``sample``.
      key: as in ``sample``; None decodes greedily.
      every: tokens per call of the compiled loop, at least 1; fewer tokens cost more calls.
      valid, source_mask, memory_mask: as in ``greedy``.

    Returns:
      An iterator over NumPy int32 [B, n] with n at most ``every``. Generation stops with the iteration.

    Raises:
      ValueError: as in ``sample``; ``every`` is below 1; no key with ``do_sample``.
    """
    check_number("stream", "every", every, SIZE)
    required = {} if key is not None else {"do_sample": False}
    check_config("stream", config, beams=1, n_best=1, **required)
    masks = InputMasks(valid, source_mask, memory_mask)
    return _prepare("stream", model, params, inputs, config, key=key, masks=masks).stream(every)


class _State(NamedTuple):
    """State of the loop before each step."""

    step: Array  # int32 scalar, tokens generated so far
    tokens: Array  # int32 [B, P + max_length], -1 at padding and at positions to come
    position: Array  # int32 [B], of the last token
    log_probs: Array  # float32 [B, max_length]
    ended: Array  # bool [B]
    keys: Key | None  # [B]
    cache: Cache


class _Call(NamedTuple):
    """A call of a public function with checked arguments, and the ways to run its loop."""

    model: Pure[CachedDecoder]
    params: Params
    inputs: Array
    limits: Limits
    processors: tuple[Processor, ...]
    keys: Key | None
    masks: InputMasks

    def generate(self) -> Generated:
        """Generates until every sequence has ended."""
        M = self.limits.max_length
        if M > 0:
            return _output(self.limits, self._decode(self._start(), M))
        empty, lengths = self.inputs[:, :0], jnp.zeros_like(self.inputs[:, 0], jnp.int32)
        return Generated(empty.astype(jnp.int32), lengths, empty.astype(jnp.float32))

    def stream(self, every: int) -> Iterator[np.ndarray]:
        """Generates ``every`` tokens at a time; the prompt is read at once."""
        return self._blocks(self._start(), every) if self.limits.max_length > 0 else iter(())

    def _blocks(self, state: _State, every: int) -> Iterator[np.ndarray]:
        M = self.limits.max_length
        for start in range(0, M, every):
            stop = min(start + every, M)
            state = self._decode(state, stop)
            yield np.asarray(_output(self.limits, state).tokens[:, start:stop])
            if state.ended.all():
                return

    def _start(self) -> _State:
        return _start(self.model, self.limits, self.params, self.inputs, self.keys, self.masks)

    def _decode(self, state: _State, stop: int) -> _State:
        return _decode(self.model, self.limits, self.params, self.processors, state, np.int32(stop))


def _prepare(
    function: str,
    model: Pure[CachedDecoder],
    params: Params,
    inputs: Array,
    config: GenerationConfig,
    *,
    key: Key | None,
    masks: InputMasks,
) -> _Call:
    inputs, valid = check_inputs(function, inputs, masks.valid)
    padded = valid is not None
    limits = resolve_limits(function, model, inputs.shape[1], config, padded=padded)
    processors = prepare_processors(config.processors, min_length=limits.min_length, eos_ids=limits.eos_ids)
    keys = None if key is None else _sequence_keys(function, key, inputs.shape[0])
    return _Call(model, params, inputs, limits, processors, keys, masks._replace(valid=valid))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(
    model: Pure[CachedDecoder],
    limits: Limits,
    params: Params,
    inputs: Array,
    keys: Key | None,
    masks: InputMasks,
) -> _State:
    M = limits.max_length
    prompt, position, cache = prefill_but_last(model.bind(params), inputs, limits, masks)
    tokens = constrain(jnp.pad(prompt, ((0, 0), (0, M)), constant_values=-1), "B ?")
    position = constrain(position, "B")
    log_probs = jnp.zeros_like(tokens[:, -M:], jnp.float32)
    return _State(jnp.int32(0), tokens, position, log_probs, jnp.zeros_like(position, bool), keys, cache)


@functools.partial(jax.jit, static_argnums=0)
def _output(limits: Limits, state: _State) -> Generated:
    tokens = state.tokens[:, -limits.max_length :]
    lengths = output_lengths(tokens, limits.eos_ids)
    generated = jnp.arange(limits.max_length, dtype=jnp.int32)[None] < lengths[:, None]
    tokens = jnp.where(generated, tokens, limits.pad_id)
    return Generated(tokens, lengths, jnp.where(generated, state.log_probs, 0.0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(
    model: Pure[CachedDecoder],
    limits: Limits,
    params: Params,
    processors: tuple[Processor, ...],
    state: _State,
    stop: Array | np.int32,
) -> _State:
    """Generates until there are ``stop`` tokens or every sequence has ended."""
    decoder = model.bind(params)
    forward, unembed = decoder.cached_forward(), decoder.unembed_function(state.tokens.shape[0])
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


def _sequence_keys(function: str, key: Key, B: int) -> Key:
    """One key per sequence."""
    key = as_key(function, key, batched=True)
    if key.ndim == 0:
        return jax.random.split(key, B)
    check_shapes(function, key=(key, "B"), sizes={"B": B}, fix="Pass one key, or one per sequence.")
    return key
