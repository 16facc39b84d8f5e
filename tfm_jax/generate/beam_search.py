"""Beam search: the best of many continuations, in one jitted loop."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import as_array
from tfm_jax.generate.autoregressive import Ends, lengths_of
from tfm_jax.generate.logits_processors import Context, Processor, apply_processors, as_pytrees
from tfm_jax.generate.prefill import Limits, begin, check_inputs, check_limits, check_valid, is_end
from tfm_jax.nn.decoding import Cache
from tfm_jax.nn.functional import Pure
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.masks.leaves import Padding
from tfm_jax.ops.tracing import is_concrete, vary_with
from tfm_jax.ranges import FINITE, SIZE, check_number, check_numbers
from tfm_jax.types import Array, Params

__all__ = ["Beams", "Penalty", "Stopping", "beam_search"]

Penalty = float | Callable[[Array], Array]
Stopping = Literal["exact", "heuristic", "first"]


@pytrees.register_named_tuple
class Beams(NamedTuple):
    """The best outputs of each row of the batch, the best first.

    Args:
      tokens: int32 [B, n_best, max_length], without the prompt; pad after the end token. All -1 where the
        logits of a row were not numbers; all pad where there are fewer outputs than were asked for.
      lengths: int32 [B, n_best], the end token counted.
      log_probs: float32 [B, n_best], of the whole output: the sum over its tokens.
      scores: float32 [B, n_best], ``log_probs`` divided by the length penalty; -inf where there is none.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array


def beam_search(
    model: Pure,
    params: Params,
    inputs: Array,
    *,
    beams: int = 4,
    length_penalty: Penalty = 0.6,
    n_best: int = 1,
    max_length: int,
    min_length: int = 0,
    stopping: Stopping = "exact",
    eos_id: Ends = 2,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    valid: Array | None = None,
    source_mask: Mask | Array | None = None,
    memory_mask: Mask | None = None,
    bos_id: int = 1,
) -> Beams:
    """Keeps the best ``beams`` unfinished outputs at every length, and returns the best finished ones.

    Equivalent to::

        live, finished = [[]], []
        for length in range(1, max_length + 1):
            best = nlargest(beams, [[*y, token] for y in live for token in range(V)], key=log_prob)
            finished += [y for y in best if y[-1] == eos_id]
            live = the ``beams`` likeliest that have not ended
        return nlargest(n_best, finished + live, key=lambda y: log_prob(y) / penalty(len(y)))

    Early stopping is exact by default: a row is done when its ``n_best`` finished outputs have scores that no
    unfinished one can exceed, as its log-probability only falls and the penalty is at most the largest of
    those to come.

    Args:
      model, params, inputs: as ``greedy`` takes them.
      beams: how many outputs are kept at every length, at least 1. With more than there are outputs of a
        length, the rest stay empty; with as many as there are outputs at all, the search is exhaustive.
      length_penalty: alpha of ``((5 + length) / 6) ** alpha``, by which log-probabilities are divided (0.6 in
        the paper; 0 is none); or a function of int32 lengths that gives positive float32 divisors.
      n_best: how many outputs to return, from 1 to ``beams``.
      stopping: when a row is done: ``"exact"``; ``"heuristic"``, when ``beams`` outputs have finished, and no
        unfinished one would exceed the worst of them if it ended at its present length; ``"first"``, when so
        many have finished.
      max_length, min_length, eos_id, pad_id: as ``greedy``. What has not ended at ``max_length`` is cut there
        and counts as finished.
      processors: change the log-probabilities, one after the other; what they raise above 0 is 0.
      valid, source_mask, bos_id: as ``greedy``.
      memory_mask: of cross-attention: ``masks.padding(valid)``, which is the same for every target token.

    Returns:
      ``Beams``. It is compiled once for a model, a shape of inputs and its lengths.

    Raises:
      ValueError: as ``greedy``; for ``beams`` below 1, ``n_best`` outside [1, beams], an unknown
        ``stopping``, another mask of memory.

    Vaswani et al. 2017, section 6.1 (beam 4, alpha 0.6); the penalty: Wu et al. 2016, "Google's Neural
    Machine Translation System", equation 14.
    """
    check_numbers("beam_search", SIZE, beams=beams, n_best=n_best)
    if n_best > beams:
        raise ValueError(f"beam_search: got n_best={n_best} with beams={beams}; wanted no more than that.")
    if stopping not in get_args(Stopping):
        raise ValueError(
            f"beam_search: got stopping={stopping!r}; wanted one of {', '.join(get_args(Stopping))}."
        )
    limits = check_limits(
        "beam_search",
        max_length=max_length,
        min_length=min_length,
        eos_id=eos_id,
        pad_id=pad_id,
        bos_id=bos_id,
    )
    if memory_mask is not None and not isinstance(memory_mask, Padding):
        raise ValueError(
            f"beams read several tokens of one position: memory_mask must be masks.padding(valid), got "
            f"{memory_mask!r}"
        )
    inputs, valid = as_array("generate", "inputs", inputs), check_valid(valid)
    if max_length == 0:
        return _nothing(check_inputs(model, params, inputs), n_best)
    options = {"valid": valid, "source_mask": source_mask, "memory_mask": memory_mask}
    processors = as_pytrees(processors, min_length, limits.ends)
    penalties = _penalties(length_penalty, max_length)
    return _search(
        model, _Sizes(beams, n_best, limits, stopping), params, inputs, penalties, processors, **options
    )


def _nothing(inputs: Array, n_best: int) -> Beams:
    """What is written in no step: of each sequence one output, of no token."""
    zeros = jnp.zeros_like(inputs[:, :1], jnp.float32)
    pad = lambda x, value: jnp.pad(x, ((0, 0), (0, n_best - 1)), constant_values=value)
    tokens = jnp.broadcast_to(zeros[:, :, None][..., :0].astype(jnp.int32), (inputs.shape[0], n_best, 0))
    return Beams(tokens, pad(zeros, 0.0).astype(jnp.int32), pad(zeros, -jnp.inf), pad(zeros, -jnp.inf))


class _Sizes(NamedTuple):
    beams: int
    n_best: int
    limits: Limits
    stopping: Stopping


class _Finished(NamedTuple):
    """The best outputs that have ended, the best first."""

    tokens: Array  # int32 [B, beams, max_length]
    log_probs: Array  # float32 [B, beams]
    scores: Array  # float32 [B, beams]

    def add(self, tokens: Array, log_probs: Array, scores: Array) -> "_Finished":
        """The best of these and of others [B, n, ...]."""
        others = (tokens, log_probs, scores)
        pool = [jnp.concatenate(pair, axis=1) for pair in zip(self, others, strict=True)]
        best = jax.lax.top_k(pool[2], self.scores.shape[1])[1]
        return _Finished(*(_pick(x, best) for x in pool))


class _State(NamedTuple):
    """Of the search, before each step."""

    step: Array  # int32 scalar, how many tokens the live outputs have
    tokens: Array  # int32 [B, beams, P + max_length], -1 where nothing stands
    position: Array  # int32 [B], of the last token
    log_probs: Array  # float32 [B, beams], -inf where a beam is empty
    own: Array  # bool [B, beams, S], which slots of the cache hold this beam's tokens
    cache: Cache
    finished: _Finished
    done: Array  # bool [B], nothing more is looked for
    broken: Array  # bool [B], the logits were not numbers


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(model, sizes, params, inputs, penalties, processors, **options) -> Beams:
    read = model.apply(params, method="cached_forward")
    window = model.apply(params, method="decoder_stack").config.window
    M = sizes.limits.max_length

    def unfinished(state: _State) -> Array:
        return (state.step < M) & ~jnp.all(state.done | state.broken)

    def grow(state: _State) -> _State:
        hidden, own, cache = _read(read, state, sizes, window)
        chances = jax.nn.log_softmax(unembed(hidden))
        context = Context(state.tokens, _length(state, sizes), state.step)
        chances = jnp.minimum(apply_processors(processors, chances, context), 0.0)
        state = _keep_best(state._replace(own=own, cache=cache), chances, penalties[state.step], sizes)
        return state._replace(done=state.done | _is_done(state, penalties, sizes))

    state = _start(model, params, inputs, sizes, **options)
    unembed = model.apply(params, math.prod(state.log_probs.shape), method="unembed_function")
    # Inside shard_map all that meets in the loop differs on the same devices.
    state = jax.tree.map(lambda x: vary_with(x, (params, processors, penalties, state)), state)
    return _output(jax.lax.while_loop(unfinished, grow, state), penalties[-1], sizes)


def _start(model, params, inputs, sizes, **options) -> _State:
    k, M = sizes.beams, sizes.limits.max_length
    begun = begin(model, params, inputs, M, bos_id=sizes.limits.bos_id, width=k, **options)
    each = lambda x: jnp.repeat(x[:, None], k, axis=1)
    tokens = jnp.pad(each(begun.prompt), ((0, 0), (0, 0), (0, M)), constant_values=-1)
    nothing = jnp.full_like(tokens[:, :, 0], -jnp.inf, dtype=jnp.float32)
    return _State(
        step=jnp.int32(0),
        tokens=tokens,
        position=begun.positions,
        # All beams begin alike: the first alone counts, or all would go on alike.
        log_probs=nothing.at[:, 0].set(0.0),
        own=each(begun.cache.slots.positions >= 0),
        cache=begun.cache,
        finished=_Finished(tokens[:, :, -M:], nothing, nothing),
        done=jnp.zeros_like(begun.positions, bool),
        broken=jnp.zeros_like(begun.positions, bool),
    )


def _length(state: _State, sizes: _Sizes) -> Array:
    """Tokens of a row so far, the prompt's counted."""
    return state.tokens.shape[-1] - sizes.limits.max_length + state.step


def _read(read, state: _State, sizes: _Sizes, window: int | None) -> tuple[Array, Array, Cache]:
    """Reads the last token of every beam. Each stands in a slot of its own, seen by those who go on from it:
    when beams are exchanged, keys and values stay where they are."""
    slots, k = state.cache.slots, sizes.beams
    at = _length(state, sizes) - 1
    last = jax.lax.dynamic_index_in_dim(state.tokens, at, axis=2, keepdims=False)
    S = slots.positions.shape[-1]
    each, beam = jnp.arange(S, dtype=jnp.int32)[None], jnp.arange(k, dtype=jnp.int32)[:, None]
    new = each == slots.length + beam  # [beams, S]
    own = state.own | new[None]
    positions = jnp.repeat(state.position[:, None], k, axis=1)
    seen = own
    if window is not None:
        near = state.position[:, None] - slots.positions < window
        seen = own & (near[:, None] | new[None])
    last = jnp.where(jnp.isneginf(state.log_probs), 0, last)  # an empty beam reads some token
    hidden, cache = read(last, state.cache, positions=positions, mask=masks.dense(seen))
    return hidden, own, cache


def _keep_best(state: _State, chances: Array, penalty: Array, sizes: _Sizes) -> _State:
    """The best continuations, by chances [B, beams, V]: those that end are finished, the others stay live."""
    B, k, V = chances.shape
    live = ~jnp.isinf(state.log_probs)  # an empty beam says nothing
    broken = state.broken | (jnp.isnan(chances).any(-1) & live).any(-1)
    sums = jnp.where(live[..., None], state.log_probs[..., None] + chances, -jnp.inf).reshape(B, k * V)
    # So many that k are left when all the ends of all beams are among them.
    n = min(k * (1 + len(sizes.limits.ends)), k * V)
    log_probs, best = jax.lax.top_k(sums, n)
    parent, token = best // V, (best % V).astype(jnp.int32)
    at = _length(state, sizes)
    tokens = jax.lax.dynamic_update_slice_in_dim(_pick(state.tokens, parent), token[..., None], at, axis=2)
    ended = is_end(token, sizes.limits.ends)
    # An output ends where its end is among the k best continuations.
    counts = ended & (jnp.arange(n) < k)[None] & ~state.done[:, None]
    ends_here = jnp.where(counts, log_probs, -jnp.inf)
    finished = state.finished.add(tokens[:, :, -sizes.limits.max_length :], ends_here, ends_here / penalty)
    log_probs, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, log_probs), k)
    return _State(
        step=state.step + 1,
        tokens=_pick(tokens, chosen),
        position=state.position + 1,
        log_probs=log_probs,
        own=_pick(state.own, _pick(parent, chosen)),
        cache=state.cache,
        finished=finished,
        done=state.done,
        broken=broken,
    )


def _is_done(state: _State, penalties: Array, sizes: _Sizes) -> Array:
    """Which rows look for nothing more."""
    scores, live = state.finished.scores, state.log_probs.max(1)
    if sizes.stopping == "exact":
        # Of the lengths that a live output can still have. Its log-probability only falls.
        largest = jax.lax.cummax(penalties, reverse=True)[state.step]
        return scores[:, sizes.n_best - 1] >= live / largest
    full = ~jnp.isneginf(scores[:, -1])
    return full if sizes.stopping == "first" else full & (scores[:, -1] >= live / penalties[state.step - 1])


def _output(state: _State, penalty: Array, sizes: _Sizes) -> Beams:
    """The best finished outputs; those that are live at ``max_length`` are cut there."""
    M = sizes.limits.max_length
    cut = jnp.where((state.step == M) & ~state.done[:, None], state.log_probs, -jnp.inf)
    finished = state.finished.add(state.tokens[:, :, -M:], cut, cut / penalty)
    tokens, log_probs, scores = (x[:, : sizes.n_best] for x in finished)
    found = ~jnp.isinf(scores)
    lengths = jnp.where(found, lengths_of(tokens, sizes.limits.ends), 0)
    tokens = jnp.where(
        jnp.arange(M, dtype=jnp.int32)[None, None] < lengths[..., None], tokens, sizes.limits.pad_id
    )
    broken = state.broken[:, None]
    return Beams(
        jnp.where(broken[..., None], -1, tokens),
        jnp.where(broken, M, lengths),
        jnp.where(broken, jnp.nan, log_probs),
        jnp.where(broken, jnp.nan, scores),
    )


def _penalties(length_penalty: Penalty, max_length: int) -> Array:
    """The divisor of every length from 1: float32 [max_length]."""
    lengths = jnp.arange(1, max_length + 1, dtype=jnp.int32)
    if not callable(length_penalty):
        check_number("beam_search", "length_penalty", length_penalty, FINITE)
        length_penalty = functools.partial(_paper_penalty, length_penalty)
    penalties = jnp.asarray(length_penalty(lengths), jnp.float32)
    if penalties.shape != lengths.shape:
        raise ValueError(f"length_penalty must give {lengths.shape} divisors, got {penalties.shape}")
    if is_concrete(penalties):
        good = np.isfinite(penalties) & (np.asarray(penalties) > 0)
        if not good.all():
            first = int(good.argmin())
            raise ValueError(
                f"beam_search: got a length_penalty that gives {penalties[first]} for outputs of length "
                f"{first + 1}; wanted positive, finite divisors. As a number it is usually from 0 to 2."
            )
    return penalties


def _paper_penalty(alpha: float | Array, lengths: Array) -> Array:
    return ((5.0 + lengths.astype(jnp.float32)) / 6.0) ** jnp.asarray(alpha, jnp.float32)


def _pick(x: Array, rows: Array) -> Array:
    """Rows [B, n] of x [B, k, ...]."""
    return jnp.take_along_axis(x, rows.reshape(*rows.shape, *(1,) * (x.ndim - 2)), axis=1)
