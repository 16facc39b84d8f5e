"""Beam search in one jitted loop."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import check_shapes
from tfm_jax.generate._limits import Limits, check_config, is_eos, output_lengths, resolve_limits
from tfm_jax.generate._prefill import InputMasks, check_inputs, prefill_but_last
from tfm_jax.generate.config import GenerationConfig, LengthPenalty, Stopping
from tfm_jax.generate.logits_processors import Context, Processor, apply_processors, prepare_processors
from tfm_jax.nn.decoding import Cache, CachedDecoder, CachedForward
from tfm_jax.nn.functional import Pure
from tfm_jax.ops.masks import Mask, dense
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.tracing import is_concrete, vary_with
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Params

__all__ = ["Beams", "beam_search"]


@pytrees.register_named_tuple
class Beams(NamedTuple):
    """The outputs of a beam search, the best first.

    Args:
      tokens: int32 [B, n_best, max_length], without the prompt; pad after EOS. All -1 if the logits of a
        sequence were NaN; all pad beyond the number of outputs found.
      lengths: int32 [B, n_best], tokens of each output, EOS included.
      log_probs: float32 [B, n_best], summed over the tokens of an output.
      scores: float32 [B, n_best], ``log_probs`` divided by the length penalty; -inf for no output.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array


def beam_search(
    model: Pure[CachedDecoder],
    params: Params,
    inputs: Array,
    config: GenerationConfig,
    *,
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | None = None,
) -> Beams:
    """Beam search: keeps the ``config.beams`` best unfinished outputs at every length.

    Equivalent to::

        live, finished = [[]], []
        for length in range(1, max_length + 1):
            best = nlargest(beams, [[*y, token] for y in live for token in range(V)], key=log_prob)
            finished += [y for y in best if y[-1] in eos_ids]
            live = the ``beams`` most likely without EOS
        return nlargest(n_best, finished + live, key=lambda y: log_prob(y) / penalty(len(y)))

    Early stopping is exact by default: a sequence is done when no unfinished output can still exceed the
    scores of its ``n_best`` finished ones. The bound is the log-probability so far, which only falls, divided
    by the largest penalty to come.

    Args:
      model, params, inputs: as in ``greedy``.
      config: lengths, special tokens, ``beams``, ``n_best``, ``length_penalty``, ``stopping`` and logits
        processors, which get log-probabilities (results above 0 are clipped to 0); without sampling and
        settings of texts. An output without EOS at ``max_length`` counts as finished.
      valid, source_mask: as in ``greedy``.
      memory_mask: for cross-attention: ``masks.padding(valid)``, the same for every target token.

    Returns:
      ``Beams``. Compiled once per model, shape of inputs, limits, ``beams``, ``n_best`` and ``stopping``.

    Raises:
      ValueError: as in ``greedy``; a ``length_penalty`` that returns a divisor that is not positive;
        ``memory_mask`` is another mask.

    Vaswani et al. 2017, section 6.1 (beam 4, alpha 0.6); the penalty: Wu et al. 2016, "Google's Neural
    Machine Translation System", equation 14.
    """
    check_config("beam_search", config, do_sample=False)
    if memory_mask is not None and not isinstance(memory_mask, Padding):
        got = memory_mask.expression() if isinstance(memory_mask, Mask) else "an array"
        raise ValueError(
            f"beam_search: got memory_mask={got}; wanted masks.padding(valid). All beams share a "
            "position, so the mask must be the same for every target token."
        )
    inputs, valid = check_inputs("beam_search", inputs, valid)
    limits = resolve_limits("beam_search", model, inputs.shape[1], config, padded=valid is not None)
    if limits.max_length == 0:
        return _empty_outputs(inputs, config.n_best)
    settings = _Settings(config.beams, config.n_best, limits, config.stopping)
    penalties = _penalties(config.length_penalty, limits.max_length)
    processors = prepare_processors(config.processors, min_length=limits.min_length, eos_ids=limits.eos_ids)
    masks = InputMasks(valid, source_mask, memory_mask)
    return _search(model, settings, params, inputs, penalties, processors, masks)


class _Settings(NamedTuple):
    """The static settings of a beam search."""

    beams: int
    n_best: int
    limits: Limits
    stopping: Stopping


def _empty_outputs(inputs: Array, n_best: int) -> Beams:
    """The result for ``max_length=0``: one output of no tokens per sequence."""
    zeros = jnp.zeros_like(inputs[:, :1], jnp.float32)
    tokens = jnp.broadcast_to(zeros[:, :, None][..., :0].astype(jnp.int32), (inputs.shape[0], n_best, 0))
    lengths = jnp.pad(zeros, ((0, 0), (0, n_best - 1))).astype(jnp.int32)
    scores = jnp.pad(zeros, ((0, 0), (0, n_best - 1)), constant_values=-jnp.inf)
    return Beams(tokens, lengths, scores, scores)


class _Finished(NamedTuple):
    """The best finished outputs, the best first."""

    tokens: Array  # int32 [B, beams, max_length]
    log_probs: Array  # float32 [B, beams]
    scores: Array  # float32 [B, beams]

    def add(self, tokens: Array, log_probs: Array, scores: Array) -> "_Finished":
        """The best of these and of new ones [B, n, ...]."""
        new = (tokens, log_probs, scores)
        candidates = [jnp.concatenate(pair, axis=1) for pair in zip(self, new, strict=True)]
        best = jax.lax.top_k(candidates[2], self.scores.shape[1])[1]
        return _Finished(*(_gather(x, best) for x in candidates))


class _State(NamedTuple):
    """State of the search before each step."""

    step: Array  # int32 scalar, tokens of the live outputs
    tokens: Array  # int32 [B, beams, P + max_length], -1 at padding and at positions to come
    position: Array  # int32 [B], of the last token
    log_probs: Array  # float32 [B, beams], -inf for an empty beam
    visible: Array  # bool [B, beams, S], the cache slots with the tokens of each beam
    cache: Cache
    finished: _Finished
    done: Array  # bool [B], the search has ended
    invalid: Array  # bool [B], the logits were NaN


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(
    model: Pure[CachedDecoder],
    settings: _Settings,
    params: Params,
    inputs: Array,
    penalties: Array,
    processors: tuple[Processor, ...],
    masks: InputMasks,
) -> Beams:
    decoder = model.bind(params)
    forward, window = decoder.cached_forward(), decoder.decoder_stack().config.window
    M = settings.limits.max_length

    def unfinished(state: _State) -> Array:
        return (state.step < M) & ~jnp.all(state.done | state.invalid)

    def search_step(state: _State) -> _State:
        hidden, visible, cache = _forward_last(forward, state, settings, window)
        log_probs = jax.nn.log_softmax(unembed(hidden))
        context = Context(state.tokens, _length(state, settings), state.step)
        log_probs = jnp.minimum(apply_processors(processors, log_probs, context), 0.0)
        state = state._replace(visible=visible, cache=cache)
        state = _keep_best(state, log_probs, penalties[state.step], settings)
        return state._replace(done=state.done | _is_done(state, penalties, settings))

    state = _start(decoder, inputs, settings, masks)
    unembed = decoder.unembed_function(math.prod(state.log_probs.shape))
    # Inside shard_map the loop's values must all vary over the same mesh axes.
    state = jax.tree.map(lambda x: vary_with(x, (params, processors, penalties, state)), state)
    return _output(jax.lax.while_loop(unfinished, search_step, state), penalties[-1], settings)


def _start(decoder: CachedDecoder, inputs: Array, settings: _Settings, masks: InputMasks) -> _State:
    k, M = settings.beams, settings.limits.max_length
    prompt, position, cache = prefill_but_last(decoder, inputs, settings.limits, masks, beams=k)
    tokens = jnp.pad(jnp.repeat(prompt[:, None], k, axis=1), ((0, 0), (0, 0), (0, M)), constant_values=-1)
    tokens, position = constrain(tokens, "B ? ?"), constrain(position, "B")
    minus_infinity = jnp.full_like(tokens[:, :, 0], -jnp.inf, dtype=jnp.float32)
    return _State(
        step=jnp.int32(0),
        tokens=tokens,
        position=position,
        # All beams start equal, so only the first is live; else all would hold the same output.
        log_probs=minus_infinity.at[:, 0].set(0.0),
        visible=jnp.repeat((cache.slots.positions >= 0)[:, None], k, axis=1),
        cache=cache,
        finished=_Finished(tokens[:, :, -M:], minus_infinity, minus_infinity),
        done=jnp.zeros_like(position, bool),
        invalid=jnp.zeros_like(position, bool),
    )


def _length(state: _State, settings: _Settings) -> Array:
    """Tokens of a sequence so far, prompt included."""
    return state.tokens.shape[-1] - settings.limits.max_length + state.step


def _forward_last(
    forward: CachedForward, state: _State, settings: _Settings, window: int | None
) -> tuple[Array, Array, Cache]:
    """Reads the last token of every beam, each into its own cache slot.

    A mask of visible slots per beam follows the beams when they are reordered; keys and values never move.
    """
    slots, k = state.cache.slots, settings.beams
    last = _length(state, settings) - 1
    tokens = jax.lax.dynamic_index_in_dim(state.tokens, last, axis=2, keepdims=False)
    S = slots.positions.shape[-1]
    slot, beam = jnp.arange(S, dtype=jnp.int32)[None], jnp.arange(k, dtype=jnp.int32)[:, None]
    new = slot == slots.length + beam  # [beams, S]
    visible = state.visible | new[None]
    positions = jnp.repeat(state.position[:, None], k, axis=1)
    attended = visible
    if window is not None:
        near = state.position[:, None] - slots.positions < window
        attended = visible & (near[:, None] | new[None])
    tokens = jnp.where(jnp.isneginf(state.log_probs), 0, tokens)  # an empty beam reads token 0
    hidden, cache = forward(tokens, state.cache, positions=positions, mask=dense(attended))
    return hidden, visible, cache


def _keep_best(state: _State, log_probs: Array, penalty: Array, settings: _Settings) -> _State:
    """Keeps the best continuations by log_probs [B, beams, V]: with EOS as finished, the others as live."""
    limits = settings.limits
    B, k, V = log_probs.shape
    live = ~jnp.isinf(state.log_probs)
    invalid = state.invalid | (jnp.isnan(log_probs).any(-1) & live).any(-1)
    sums = jnp.where(live[..., None], state.log_probs[..., None] + log_probs, -jnp.inf).reshape(B, k * V)
    # Enough candidates that k are live even if every EOS of every beam is among them.
    n = min(k * (1 + len(limits.eos_ids)), k * V)
    sums, best = jax.lax.top_k(sums, n)
    parent, token = best // V, (best % V).astype(jnp.int32)
    tokens = jax.lax.dynamic_update_slice_in_dim(
        _gather(state.tokens, parent), token[..., None], _length(state, settings), axis=2
    )
    ended = is_eos(token, limits.eos_ids)
    # An output finishes only if it is among the k best continuations.
    finishes = ended & (jnp.arange(n) < k)[None] & ~state.done[:, None]
    finished_sums = jnp.where(finishes, sums, -jnp.inf)
    finished = state.finished.add(tokens[:, :, -limits.max_length :], finished_sums, finished_sums / penalty)
    live_sums, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, sums), k)
    return _State(
        step=state.step + 1,
        tokens=_gather(tokens, chosen),
        position=state.position + 1,
        log_probs=live_sums,
        visible=_gather(state.visible, _gather(parent, chosen)),
        cache=state.cache,
        finished=finished,
        done=state.done,
        invalid=invalid,
    )


def _is_done(state: _State, penalties: Array, settings: _Settings) -> Array:
    """Whether the search of each sequence has ended: bool [B]."""
    scores, live = state.finished.scores, state.log_probs.max(1)
    if settings.stopping == "exact":
        # A live log-probability only falls: the largest penalty to come bounds its score.
        largest = jax.lax.cummax(penalties, reverse=True)[state.step]
        return scores[:, settings.n_best - 1] >= live / largest
    full = ~jnp.isneginf(scores[:, -1])
    if settings.stopping == "first":
        return full
    return full & (scores[:, -1] >= live / penalties[state.step - 1])


def _output(state: _State, penalty: Array, settings: _Settings) -> Beams:
    """The best finished outputs; live ones at ``max_length`` count as finished."""
    limits, M = settings.limits, settings.limits.max_length
    live = jnp.where((state.step == M) & ~state.done[:, None], state.log_probs, -jnp.inf)
    finished = state.finished.add(state.tokens[:, :, -M:], live, live / penalty)
    tokens, log_probs, scores = (x[:, : settings.n_best] for x in finished)
    lengths = jnp.where(jnp.isinf(scores), 0, output_lengths(tokens, limits.eos_ids))
    generated = jnp.arange(M, dtype=jnp.int32)[None, None] < lengths[..., None]
    tokens = jnp.where(generated, tokens, limits.pad_id)
    invalid = state.invalid[:, None]
    return Beams(
        jnp.where(invalid[..., None], -1, tokens),
        jnp.where(invalid, M, lengths),
        jnp.where(invalid, jnp.nan, log_probs),
        jnp.where(invalid, jnp.nan, scores),
    )


def _penalties(length_penalty: LengthPenalty, max_length: int) -> Array:
    """The divisors of lengths 1 .. max_length: float32 [max_length]."""
    lengths = jnp.arange(1, max_length + 1, dtype=jnp.int32)
    if not callable(length_penalty):
        length_penalty = functools.partial(_paper_penalty, length_penalty)
    penalties = jnp.asarray(length_penalty(lengths), jnp.float32)
    check_shapes(
        "beam_search",
        length_penalty=(penalties, "M"),
        sizes={"M": max_length},
        fix="It maps lengths to divisors.",
    )
    if is_concrete(penalties):
        good = np.isfinite(penalties) & (np.asarray(penalties) > 0)
        if not good.all():
            first = int(good.argmin())
            raise ValueError(
                f"beam_search: got a length_penalty that returns {penalties[first]} for outputs of length "
                f"{first + 1}; wanted positive, finite divisors. As a number it is usually from 0 to 2."
            )
    return penalties


def _paper_penalty(alpha: float | Array, lengths: Array) -> Array:
    return ((5.0 + lengths.astype(jnp.float32)) / 6.0) ** jnp.asarray(alpha, jnp.float32)


def _gather(x: Array, indices: Array) -> Array:
    """Gathers [B, n, ...] from x [B, k, ...] at indices [B, n]."""
    return jnp.take_along_axis(x, indices.reshape(*indices.shape, *(1,) * (x.ndim - 2)), axis=1)
