"""Logits processors: temperature, truncation sampling, penalties, minimum length.

A processor is a pytree. Its numbers are leaves: they may be arrays or traced, and change without a new
compilation. Its sizes and ids are static.
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
    "check_processors",
    "prepare_processors",
]


class Context(NamedTuple):
    """The sequences so far, as a processor sees them.

    Attributes:
      tokens: int32 [..., M], prompt and generated tokens; -1 at the prompt's padding and at positions to
        come.
      length: int32 scalar, positions so far, padding included; the same for all sequences.
      step: int32 scalar, tokens generated so far, 0 for the first choice.
    """

    tokens: Array
    length: Array
    step: Array


Processor = Callable[[Array, Context], Array]
"""A function from logits [..., V] and their context to logits [..., V]."""


def apply_processors(processors: Sequence[Processor], logits: Array, context: Context) -> Array:
    """Applies logits processors in order.

    Equivalent to::

        for processor in processors:
            logits = processor(logits, context)

    Args:
      processors: callables of (logits, context).
      logits: [..., V] float.
      context: of the same sequences.

    Returns:
      [..., V] in the logits' dtype; all -inf for a sequence whose every token is masked.
    """
    for processor in processors:
        logits = processor(logits, context)
    return logits


def prepare_processors(
    processors: Sequence[Processor], *, min_length: int, eos_ids: tuple[int, ...]
) -> tuple[Processor, ...]:
    """Processors as arguments of a jitted function, after the one for the minimum length.

    ``MinLength`` comes first: truncation sampling must not keep only EOS tokens that it would mask.
    """
    first = (MinLength(min_length, eos_ids),) if min_length > 1 and eos_ids else ()

    def as_pytree(processor: Processor) -> Processor:
        is_function = jax.tree_util.all_leaves([processor])
        return jax.tree_util.Partial(processor) if is_function else processor

    return (*first, *map(as_pytree, check_processors(processors)))


def check_processors(processors: Sequence[Processor]) -> Sequence[Processor]:
    """Raises a ValueError for a single processor instead of a sequence."""
    if callable(processors):
        raise ValueError(
            f"processors: got {processors}; wanted a sequence. Put it into a tuple: ({processors},)."
        )
    return processors


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Temperature:
    """Temperature: divides logits by t, ``ops.temperature``.

    Args:
      t: above 0, a number, or one per sequence [...]; may be traced.

    Raises:
      ValueError: t, if concrete, is not above 0 and finite.
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
    """Top-k sampling: keeps the k most likely tokens, ``ops.top_k``.

    Args:
      k: from 1 to V, which is checked with the logits; static.

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
    """Top-p (nucleus) sampling: keeps the fewest most likely tokens with total probability p, ``ops.top_p``.

    Args:
      p: in (0, 1], a number, or one per sequence [...]; may be traced.

    Raises:
      ValueError: p, if concrete, is outside (0, 1].
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
    """Min-p sampling: keeps the tokens at least p times as likely as the most likely one, ``ops.min_p``.

    Args:
      p: in (0, 1], a number, or one per sequence [...]; may be traced.

    Raises:
      ValueError: p, if concrete, is outside (0, 1].
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
    """Repetition penalty on all tokens of the sequence, prompt included: ``ops.repetition_penalty``.

    Args:
      penalty: above 0, a number, or one per sequence [...]; 1 changes nothing; may be traced.

    Raises:
      ValueError: ``penalty``, if concrete, is not above 0 and finite.
    """

    penalty: float | Array

    def __post_init__(self):
        check_each("RepetitionPenalty", "penalty", self.penalty, POSITIVE)

    def __call__(self, logits: Array, context: Context) -> Array:
        return sampling.repetition_penalty(logits, _counts(logits, context) > 0, self.penalty)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class FrequencyPenalty:
    """Frequency penalty: ``penalty`` less per occurrence, prompt included, ``ops.frequency_penalty``.

    Args:
      penalty: finite, a number, or one per sequence [...]; 0 changes nothing; may be traced.

    Raises:
      ValueError: ``penalty``, if concrete, is not finite.
    """

    penalty: float | Array

    def __post_init__(self):
        check_each("FrequencyPenalty", "penalty", self.penalty, FINITE)

    def __call__(self, logits: Array, context: Context) -> Array:
        return sampling.frequency_penalty(logits, _counts(logits, context), self.penalty)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class NoRepeatNgram:
    """Masks tokens that would repeat an n-gram, prompt included: ``ops.no_repeat_ngram``.

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
    """Minimum length: masks EOS tokens until the output has n tokens, EOS included, without the prompt.

    EOS is the n-th token at the earliest, chosen at step n - 1. n of 0 or 1 masks nothing.

    Args:
      n: at least 0; static.
      eos_ids: a tuple of ids below V, which is checked with the logits; static.

    Raises:
      ValueError: n is not a Python integer of at least 0, or ``eos_ids`` is not a tuple of such.
    """

    n: int = pytrees.static()
    eos_ids: tuple[int, ...] = pytrees.static()

    def __post_init__(self):
        check_number("MinLength", "n", self.n, COUNT)
        if not isinstance(self.eos_ids, tuple):
            raise ValueError(f"MinLength: got eos_ids={self.eos_ids!r}; wanted a tuple of ids, such as (2,).")
        for token in self.eos_ids:
            check_number("MinLength", "an EOS id", token, COUNT)

    def __call__(self, logits: Array, context: Context) -> Array:
        V = logits.shape[-1]
        if max(self.eos_ids, default=0) >= V:
            raise ValueError(f"MinLength: got eos_ids={self.eos_ids}; wanted ids below V = {V}.")
        is_eos = np.isin(np.arange(V), self.eos_ids)
        return sampling.mask_tokens(
            logits, jnp.broadcast_to(is_eos & (context.step + 1 < self.n), logits.shape)
        )


def _counts(logits: Array, context: Context) -> Array:
    """Occurrences of each token in the sequences so far: int32 [..., V]."""
    tokens = context.tokens
    present = jnp.broadcast_to(jnp.arange(tokens.shape[-1], dtype=jnp.int32) < context.length, tokens.shape)
    return sampling.token_counts(jnp.where(present, tokens, -1), logits.shape[-1])
