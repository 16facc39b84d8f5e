"""What is done to the logits before a token is chosen, as values that compose.

A value is a pytree: its numbers may be arrays or be traced, and change without a new compilation; its sizes
and ids are part of what is compiled.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.ops import sampling
from tfm_jax.ranges import COUNT, FINITE, POSITIVE, SHARE, SIZE, check_each, check_number
from tfm_jax.types import Array

__all__ = [
    "Context",
    "FrequencyPenalty",
    "MinLength",
    "MinP",
    "NoRepeatNgram",
    "Processor",
    "RepetitionPenalty",
    "Temperature",
    "TopK",
    "TopP",
    "apply_processors",
]


class Context(NamedTuple):
    """What a processor may know of the rows besides their logits.

    Attributes:
      tokens: int32 [..., M], the rows so far: the prompt, then what was generated; -1 in holes (the padding
        of a prompt) and where nothing stands yet.
      length: int32 scalar, how many entries of M there are so far, holes counted; the same for all rows.
      step: int32 scalar, how many tokens were generated so far, 0 for the first choice.
    """

    tokens: Array
    length: Array
    step: Array


Processor = Callable[[Array, Context], Array]
"""From logits [..., V] and the context of the same rows to logits [..., V]."""


def apply_processors(processors: Sequence[Processor], logits: Array, context: Context) -> Array:
    """Applies processors in the order given.

    Equivalent to::

        for processor in processors:
            logits = processor(logits, context)

    Args:
      processors: callables of (logits, context), those of this module or others.
      logits: [..., V] float.
      context: of the same rows.

    Returns:
      [..., V] in the logits' dtype; without processors the logits themselves. Where the processors together
      close every token of a row it is -inf throughout.
    """
    for processor in processors:
        logits = processor(logits, context)
    return logits


def as_pytrees(
    processors: Sequence[Processor], min_length: int, ends: tuple[int, ...]
) -> tuple[Processor, ...]:
    """Processors to pass to ``jit``, plain functions too; before them what the shortest length closes, so
    that those that keep the likeliest tokens keep some that are open."""
    shortest = (MinLength(min_length, ends),) if min_length > 1 and ends else ()
    wrap = lambda f: jax.tree_util.Partial(f) if jax.tree_util.all_leaves([f]) else f
    return (*shortest, *map(wrap, several(processors)))


def several(processors: Sequence[Processor]) -> Sequence[Processor]:
    """The processors; a ValueError for one in the place of a sequence."""
    if callable(processors):
        raise ValueError(
            f"processors: got {processors}; wanted several. Put it into a tuple: ({processors},)."
        )
    return processors


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Temperature:
    """Logits divided by t: ``ops.temperature``.

    Args:
      t: above 0, one number or one a row [...]; may be traced.

    Raises:
      ValueError: t, where it is known before tracing, is not above 0 and finite.
    """

    t: float | Array

    def __post_init__(self):
        check_each("Temperature", "t", self.t, POSITIVE)

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return sampling.temperature(logits, self.t)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class TopK:
    """The k likeliest tokens only: ``ops.top_k``.

    Args:
      k: at least 1, and at most the vocabulary's size, which is checked when the logits are there; static.

    Raises:
      ValueError: k is not a Python integer of at least 1.
    """

    k: int = pytrees.static()

    def __post_init__(self):
        check_number("TopK", "k", self.k, SIZE)

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return sampling.top_k(logits, self.k)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class TopP:
    """The fewest most likely tokens that together have probability p (nucleus sampling): ``ops.top_p``.

    Args:
      p: in (0, 1], one number or one a row [...]; may be traced.

    Raises:
      ValueError: p, where it is known before tracing, is outside (0, 1].
    """

    p: float | Array

    def __post_init__(self):
        check_each("TopP", "p", self.p, SHARE)

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return sampling.top_p(logits, self.p)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class MinP:
    """The tokens at least p times as likely as the likeliest: ``ops.min_p``.

    Args:
      p: in (0, 1], one number or one a row [...]; may be traced.

    Raises:
      ValueError: p, where it is known before tracing, is outside (0, 1].
    """

    p: float | Array

    def __post_init__(self):
        check_each("MinP", "p", self.p, SHARE)

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return sampling.min_p(logits, self.p)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Tokens of the row so far, the prompt's too, made less likely by a factor: ``ops.repetition_penalty``.

    Args:
      penalty: above 0, one number or one a row [...]; 1 changes nothing; may be traced.

    Raises:
      ValueError: ``penalty``, where it is known before tracing, is not above 0 and finite.
    """

    penalty: float | Array

    def __post_init__(self):
        check_each("RepetitionPenalty", "penalty", self.penalty, POSITIVE)

    def __call__(self, logits: Array, context: Context) -> Array:
        return sampling.repetition_penalty(logits, _counts(logits, context) > 0, self.penalty)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class FrequencyPenalty:
    """Less ``penalty`` for each time a token is in the row so far, prompt and all: ``ops.frequency_penalty``.

    Args:
      penalty: finite, one number or one a row [...]; 0 changes nothing; may be traced.

    Raises:
      ValueError: ``penalty``, where it is known before tracing, is not finite.
    """

    penalty: float | Array

    def __post_init__(self):
        check_each("FrequencyPenalty", "penalty", self.penalty, FINITE)

    def __call__(self, logits: Array, context: Context) -> Array:
        return sampling.frequency_penalty(logits, _counts(logits, context), self.penalty)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class NoRepeatNgram:
    """No n tokens twice in a row of tokens, the prompt's counted: ``ops.no_repeat_ngram``.

    Args:
      n: at least 1; static.

    Raises:
      ValueError: n is not a Python integer of at least 1.
    """

    n: int = pytrees.static()

    def __post_init__(self):
        check_number("NoRepeatNgram", "n", self.n, SIZE)

    def __call__(self, logits: Array, context: Context) -> Array:
        return sampling.no_repeat_ngram(logits, context.tokens, context.length, self.n)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class MinLength:
    """Closes the end tokens until what is generated has n tokens, the end token counted, the prompt not.

    The end may thus be the n-th token generated at the earliest, chosen at step n - 1: with n = 3, two other
    tokens come before it. n of 0 or 1 closes nothing.

    Args:
      n: at least 0; static.
      end_ids: a tuple of the ids that end a row, each within the vocabulary, which is checked when the logits
        are there; of none, nothing is closed; static.

    Raises:
      ValueError: n is not a Python integer of at least 0, or ``end_ids`` is not a tuple of such.
    """

    n: int = pytrees.static()
    end_ids: tuple[int, ...] = pytrees.static()

    def __post_init__(self):
        check_number("MinLength", "n", self.n, COUNT)
        if not isinstance(self.end_ids, tuple):
            raise ValueError(f"MinLength: got end_ids={self.end_ids!r}; wanted a tuple of ids, such as (2,).")
        for token in self.end_ids:
            check_number("MinLength", "an end id", token, COUNT)

    def __call__(self, logits: Array, context: Context) -> Array:
        V = logits.shape[-1]
        if max(self.end_ids, default=0) >= V:
            raise ValueError(f"MinLength: got end_ids={self.end_ids}; wanted ids below V = {V}.")
        ends = np.isin(np.arange(V), self.end_ids)
        return sampling.mask_tokens(
            logits, jnp.broadcast_to(ends & (context.step + 1 < self.n), logits.shape)
        )


def _counts(logits: Array, context: Context) -> Array:
    """How often each token is among the entries that there are so far."""
    tokens = context.tokens
    there = jnp.broadcast_to(jnp.arange(tokens.shape[-1], dtype=jnp.int32) < context.length, tokens.shape)
    return sampling.token_counts(jnp.where(there, tokens, -1), logits.shape[-1])
