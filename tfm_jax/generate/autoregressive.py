"""Greedy decoding and sampling: one jitted loop over positions, no Python per token."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import as_array, as_key
from tfm_jax.generate.logits_processors import Context, Processor, apply_processors, as_pytrees
from tfm_jax.generate.prefill import Limits, begin, check_inputs, check_limits, check_valid, is_end
from tfm_jax.nn.decoding import Cache
from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import vary_with
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Array, Key, Params

__all__ = ["Generated", "greedy", "sample", "stream"]

Ends = int | Sequence[int] | None


@pytrees.register_named_tuple
class Generated(NamedTuple):
    """What was written, for each row of the batch.

    Args:
      tokens: int32 [B, max_length], without the prompt; pad after the end token. -1 where there was no token
        to choose, and from there on: the logits were not numbers (an id outside the vocabulary, parameters
        that are not finite), the processors closed every token, or they made several infinite, as a
        temperature near 0 does.
      lengths: int32 [B], how many tokens that is, the end token counted.
      log_probs: float32 [B, max_length], the model's own log-probability of each token, before any processor;
        0 after the end token.
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
    eos_id: Ends = 2,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
    bos_id: int = 1,
) -> Generated:
    """The likeliest next token, again and again, until every row has ended.

    Equivalent to::

        while tokens[-1] != eos_id and len(tokens) < max_length:
            tokens.append(argmax(model(source, [bos_id, *tokens])[-1]))      # an encoder-decoder
            tokens.append(argmax(model([*prompt, *tokens])[-1]))             # a decoder

    Args:
      model: from ``nn.functionalize``: an ``nn.Decoder`` or an ``nn.EncoderDecoder``.
      params: its parameters.
      inputs: int tokens: the prompt [B, P] of a decoder, or the source [B, S] of an encoder-decoder.
      max_length: the longest output, in tokens, the end token counted; 0 writes nothing.
      min_length: the shortest; before it no row ends.
      eos_id: what ends a row: one id, several, or None for no end.
      pad_id: what fills a row that has ended.
      processors: change the logits before the choice, one after the other, such as ``NoRepeatNgram(3)``.
      valid: bool [B, P], True for a token of a prompt that is not padding, which may stand left or right.
      source_mask: of the encoder, True = may attend; ``masks.padding(valid)`` serves cross-attention too.
      memory_mask: of cross-attention, [..., max_length, S]; needed beside any other ``source_mask``.
      bos_id: what an encoder-decoder's output starts from.

    Returns:
      ``Generated``. It is compiled once for a model, a shape of inputs and its lengths.

    Raises:
      ValueError: for inputs that are not int [B, length >= 1], an empty prompt, a ``max_length`` below 0 or
        below ``min_length``, a length or an id that is no whole number, a negative id, more positions than
        ``nn.Learned`` has, a ``source_mask`` that says nothing of cross-attention without a ``memory_mask``.
    """
    limits = check_limits(
        "greedy", max_length=max_length, min_length=min_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id
    )
    loop = _Loop(model, params, limits, as_pytrees(processors, min_length, limits.ends))
    return loop.whole(inputs, None, valid=valid, source_mask=source_mask, memory_mask=memory_mask)


def sample(
    model: Pure,
    params: Params,
    inputs: Array,
    *,
    key: Key,
    max_length: int,
    min_length: int = 0,
    eos_id: Ends = None,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
    bos_id: int = 1,
) -> Generated:
    """Draws each next token from the model's distribution, changed by processors.

    Equivalent to::

        keys = jax.random.split(key, B)                      # unless they are given
        for step in range(max_length):
            logits = apply_processors(processors, model(tokens)[-1])
            tokens.append(jax.random.categorical(jax.random.fold_in(keys[row], step), logits))

    Args:
      model, params, inputs: as ``greedy`` takes them.
      key: consumed: one key, or one a row [B], with which a row is the same in every batch. Of the keys of
        ``jax.random.PRNGKey`` one is uint32 [2], and one a row is uint32 [B, 2].
      max_length, min_length, eos_id, pad_id: as ``greedy``, but for no end.
      processors: such as ``(Temperature(0.8), TopP(0.95))``, one after the other.
      valid, source_mask, memory_mask, bos_id: as ``greedy``.

    Returns:
      ``Generated``.

    Raises:
      ValueError: as ``greedy``; for no key, and for keys that are neither one nor B.
    """
    if key is None:
        raise ValueError(
            "sample: got key=None; wanted a PRNG key, such as jax.random.key(0). For the likeliest tokens "
            "call greedy."
        )
    limits = check_limits(
        "sample", max_length=max_length, min_length=min_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id
    )
    loop = _Loop(model, params, limits, as_pytrees(processors, min_length, limits.ends))
    return loop.whole(inputs, key, valid=valid, source_mask=source_mask, memory_mask=memory_mask)


def stream(
    model: Pure,
    params: Params,
    inputs: Array,
    *,
    key: Key | None,
    max_length: int,
    every: int = 8,
    min_length: int = 0,
    eos_id: Ends = None,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | Array | None = None,
    bos_id: int = 1,
) -> Iterator[np.ndarray]:
    """Gives the tokens while they are written.

    Equivalent to::

        tokens = sample(model, params, inputs, key=key, ...).tokens          # greedy where key is None
        for start in range(0, max_length, every):                            # until all rows have ended
            yield tokens[:, start : start + every]

    Args:
      model, params, inputs: as ``greedy`` takes them.
      key: as ``sample`` takes it; None is the likeliest token.
      max_length, min_length, eos_id, pad_id, processors: as ``sample``.
      every: how many tokens are written between two looks, by one call of one compiled loop: the fewer, the
        more the calls cost.
      valid, source_mask, memory_mask, bos_id: as ``greedy``.

    Returns:
      An iterator over int32 [B, n] of NumPy, n at most ``every``. One that is not asked for more stops there.

    Raises:
      ValueError: as ``sample``; for ``every`` below 1.
    """
    check_number("stream", "every", every, SIZE)
    limits = check_limits(
        "stream", max_length=max_length, min_length=min_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id
    )
    loop = _Loop(model, params, limits, as_pytrees(processors, min_length, limits.ends))
    if max_length == 0:
        return iter(())
    state = loop.start(inputs, key, valid=valid, source_mask=source_mask, memory_mask=memory_mask)
    return loop.blocks(state, every)


class _State(NamedTuple):
    """Of a loop, before each step."""

    step: Array  # int32 scalar, how many tokens were written
    tokens: Array  # int32 [B, P + max_length], -1 where nothing stands
    position: Array  # int32 [B], of the last token
    log_probs: Array  # float32 [B, max_length]
    ended: Array  # bool [B]
    keys: Key | None  # [B]
    cache: Cache


class _Loop(NamedTuple):
    """What does not change while tokens are written."""

    model: Pure
    params: Params
    limits: Limits
    processors: tuple[Processor, ...]

    def start(self, inputs: Array, key: Key | None, *, valid: Array | None, **masks) -> _State:
        inputs, valid = as_array("generate", "inputs", inputs), check_valid(valid)
        B = inputs.shape[0] if inputs.ndim else 1  # of no axes it is refused below
        keys = None if key is None else _row_keys(key, B)
        return _start(self.model, self.limits, self.params, inputs, keys, valid=valid, **masks)

    def whole(self, inputs: Array, key: Key | None, **masks) -> Generated:
        M = self.limits.max_length
        if M > 0:
            return self.output(self.run(self.start(inputs, key, **masks), M))
        inputs = check_inputs(self.model, self.params, inputs)
        nothing = inputs[:, :0]
        lengths = jnp.zeros_like(inputs[:, 0], jnp.int32)
        return Generated(nothing.astype(jnp.int32), lengths, nothing.astype(jnp.float32))

    def run(self, state: _State, until: int) -> _State:
        return _run(self.model, self.limits, self.params, self.processors, state, jnp.int32(until))

    def output(self, state: _State) -> Generated:
        return _output(self.limits, state)

    def blocks(self, state: _State, every: int) -> Iterator[np.ndarray]:
        M = self.limits.max_length
        for begun in range(0, M, every):
            until = min(begun + every, M)
            state = self.run(state, until)
            yield np.asarray(self.output(state).tokens[:, begun:until])
            if state.ended.all():
                return


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(model, limits, params, inputs, keys, **options) -> _State:
    M = limits.max_length
    prompt, position, cache = begin(model, params, inputs, M, bos_id=limits.bos_id, **options)
    tokens = jnp.pad(prompt, ((0, 0), (0, M)), constant_values=-1)
    nothing = jnp.zeros_like(tokens[:, -M:], jnp.float32)
    return _State(jnp.int32(0), tokens, position, nothing, jnp.zeros_like(position, bool), keys, cache)


@functools.partial(jax.jit, static_argnums=0)
def _output(limits, state) -> Generated:
    tokens = state.tokens[:, -limits.max_length :]
    lengths = lengths_of(tokens, limits.ends)
    written = jnp.arange(limits.max_length, dtype=jnp.int32)[None] < lengths[:, None]
    tokens = jnp.where(written, tokens, limits.pad_id)
    return Generated(tokens, lengths, jnp.where(written, state.log_probs, 0.0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(model, limits, params, processors, state, until) -> _State:
    """Writes until ``until`` tokens are there, or every row has ended."""
    read = model.apply(params, method="cached_forward")
    unembed = model.apply(params, state.tokens.shape[0], method="unembed_function")
    P = state.tokens.shape[1] - limits.max_length
    # Inside shard_map all that meets in the loop differs on the same devices.
    state = jax.tree.map(lambda x: vary_with(x, (params, processors, state)), state)

    def unfinished(state: _State) -> Array:
        return (state.step < until) & ~jnp.all(state.ended)

    def write(state: _State) -> _State:
        step, tokens = state.step, state.tokens
        last = jax.lax.dynamic_slice_in_dim(tokens, P - 1 + step, 1, axis=1)
        # A row that has ended goes on, unseen, with some token.
        last = jnp.where(state.ended[:, None], 0, last)
        hidden, cache = read(last, state.cache, positions=state.position[:, None])
        logits = unembed(hidden[:, 0])
        changed = apply_processors(processors, logits, Context(tokens, P + step, step))
        chosen = _choose(changed, state.keys, step)
        at_chosen = lambda x: jnp.take_along_axis(x, chosen[:, None], axis=1)
        chance = at_chosen(logits) - jax.nn.logsumexp(logits, axis=1, keepdims=True)
        # Logits that are no numbers, or processors that closed every token or made several infinite: none is
        # the right one.
        closed, several = jnp.isneginf(at_chosen(changed))[:, 0], jnp.isposinf(changed).sum(1) > 1
        wrong = jnp.isnan(chance[:, 0]) | closed | several | jnp.isnan(changed.max(1))
        chosen = jnp.where(wrong, -1, chosen)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, chosen[:, None], P + step, axis=1)
        log_probs = jax.lax.dynamic_update_slice_in_dim(state.log_probs, chance, step, axis=1)
        ended = state.ended | is_end(chosen, limits.ends)
        return _State(step + 1, tokens, state.position + 1, log_probs, ended, state.keys, cache)

    return jax.lax.while_loop(unfinished, write, state)


def _choose(logits: Array, keys: Key | None, step: Array) -> Array:
    if keys is None:
        return _argmax(logits)
    draw = lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row)
    return jax.vmap(draw)(keys, logits).astype(jnp.int32)


def _argmax(x: Array) -> Array:  # [B, V] -> int32 [B]
    """The first of the largest. XLA's own goes entry by entry on a CPU, and a maximum many at a time."""
    (B, V), n = x.shape, 128
    tiles = -(-V // n)
    x = jnp.pad(x, ((0, 0), (0, tiles * n - V)), constant_values=-jnp.inf).reshape(B, tiles, n)
    part = jnp.argmax(x.max(-1), axis=-1)
    within = jnp.take_along_axis(x, part[:, None, None], axis=1)[:, 0]
    return (part * n + jnp.argmax(within, axis=-1)).astype(jnp.int32)


def _row_keys(key: Key, B: int) -> Key:
    key = as_key("generate", key, several=True)
    if key.ndim == 0:
        return jax.random.split(key, B)
    if key.shape != (B,):
        raise ValueError(f"key must be one key, or one a row [{B}], got {list(key.shape)}")
    return key


def lengths_of(tokens: Array, ends: tuple[int, ...]) -> Array:
    """How many tokens [..., max_length] come before each row is over, its end token counted."""
    over = is_end(tokens, ends)
    first = jnp.argmax(over, axis=-1).astype(jnp.int32) + 1
    return jnp.where(over.any(-1), first, tokens.shape[-1])
