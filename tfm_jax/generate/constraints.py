"""Tokens that must or must not stand at some place: what checkpoints ask of decoding, as processors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.generate.logits_processors import Context
from tfm_jax.ops import sampling
from tfm_jax.ranges import COUNT, check_number
from tfm_jax.types import Array

__all__ = ["BadWords", "ForceFirst", "ForceLast", "Renormalize", "Suppress", "SuppressFirst"]


def _check_ids(processor: object, name: str) -> None:
    kind, ids = type(processor).__name__, getattr(processor, name)
    if not isinstance(ids, tuple):
        raise ValueError(f"{kind}: got {name}={ids!r}; wanted a tuple of ids, such as (2,).")
    for token in ids:
        check_number(kind, "an id", token, COUNT)


def _among(ids: tuple[int, ...], logits: Array) -> np.ndarray:
    """Which of the vocabulary the ids are, bool [V]; a ValueError for those beyond it."""
    V = logits.shape[-1]
    if max(ids, default=0) >= V:
        raise ValueError(f"got the ids {ids}; wanted ids below V = {V}")
    return np.isin(np.arange(V), ids)


def _where(rows: Array, tokens: np.ndarray, logits: Array) -> Array:
    """These tokens of these rows: bool, as the logits."""
    rows = jnp.broadcast_to(jnp.asarray(rows)[..., None], logits.shape)
    return rows & jnp.broadcast_to(tokens, logits.shape)


def _lengths(context: Context) -> Array:
    """Tokens of each row so far, its prompt's counted, holes not: int32 [...]."""
    there = jnp.arange(context.tokens.shape[-1], dtype=jnp.int32) < context.length
    there = jnp.broadcast_to(there, context.tokens.shape)
    return jnp.sum((context.tokens >= 0) & there, axis=-1, dtype=jnp.int32)


def _only(ids: tuple[int, ...], rows: Array, logits: Array) -> Array:
    """In these rows 0 for the ids and -inf for the others."""
    tokens = _among(ids, logits)
    forced = sampling.mask_tokens(jnp.zeros_like(logits), jnp.broadcast_to(~tokens, logits.shape))
    return jnp.where(jnp.asarray(rows)[..., None], forced, logits)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Suppress:
    """Tokens that are never chosen.

    Args:
      ids: a tuple of ids within the vocabulary, which is checked when the logits are there; static.

    Raises:
      ValueError: ``ids`` is not a tuple of Python integers of at least 0.
    """

    ids: tuple[int, ...] = pytrees.static()

    def __post_init__(self):
        _check_ids(self, "ids")

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return sampling.mask_tokens(logits, jnp.broadcast_to(_among(self.ids, logits), logits.shape))


@pytrees.register
@dataclasses.dataclass(frozen=True)
class SuppressFirst:
    """Tokens that are not chosen first.

    Args:
      ids: as ``Suppress`` takes them.
      after_forced: of a row whose prompt is one token, the first is the one after a ``ForceFirst``; static.

    Raises:
      ValueError: as ``Suppress``.
    """

    ids: tuple[int, ...] = pytrees.static()
    after_forced: bool = pytrees.static(default=False)

    def __post_init__(self):
        _check_ids(self, "ids")
        if not isinstance(self.after_forced, bool):
            raise ValueError(f"SuppressFirst: got after_forced={self.after_forced!r}; wanted True or False.")

    def __call__(self, logits: Array, context: Context) -> Array:
        prompt = _lengths(context) - context.step
        first = jnp.where(prompt == 1, 1, 0) if self.after_forced else jnp.zeros_like(prompt)
        rows = first == context.step
        return sampling.mask_tokens(logits, _where(rows, _among(self.ids, logits), logits))


@pytrees.register
@dataclasses.dataclass(frozen=True)
class ForceFirst:
    """The token that must follow a row of one token, such as the language after an encoder-decoder's start.

    Args:
      id: within the vocabulary; its logit becomes 0, and that of all others -inf; static.

    Raises:
      ValueError: ``id`` is not a Python integer of at least 0.
    """

    id: int = pytrees.static()

    def __post_init__(self):
        check_number("ForceFirst", "id", self.id, COUNT)

    def __call__(self, logits: Array, context: Context) -> Array:
        return _only((self.id,), _lengths(context) == 1, logits)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class ForceLast:
    """The tokens of which one must stand at ``max_length``.

    Args:
      ids: as ``Suppress`` takes them; their logits become 0, and those of all others -inf.

    Raises:
      ValueError: as ``Suppress``.
    """

    ids: tuple[int, ...] = pytrees.static()

    def __post_init__(self):
        _check_ids(self, "ids")

    def __call__(self, logits: Array, context: Context) -> Array:
        # There are as many entries as the longest output needs.
        last = context.length == context.tokens.shape[-1] - 1
        return _only(self.ids, jnp.broadcast_to(last, logits.shape[:-1]), logits)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class BadWords:
    """Sequences of tokens that are never written: the last token of each is closed after the others.

    Args:
      words: a tuple of tuples of ids within the vocabulary, none empty. A word of several tokens is
        looked for in rows that have at least as many; static.

    Raises:
      ValueError: ``words`` is not a tuple of such.
    """

    words: tuple[tuple[int, ...], ...] = pytrees.static()

    def __post_init__(self):
        wanted = isinstance(self.words, tuple) and all(isinstance(w, tuple) and w for w in self.words)
        if not wanted:
            raise ValueError(
                f"BadWords: got words={self.words!r}; wanted tuples of ids, such as ((5,), (3, 4))."
            )
        for token in (token for word in self.words for token in word):
            check_number("BadWords", "an id", token, COUNT)

    def __call__(self, logits: Array, context: Context) -> Array:
        alone = tuple(word[0] for word in self.words if len(word) == 1)
        closed = jnp.broadcast_to(_among(alone, logits), logits.shape)
        lengths = _lengths(context)
        for word in (word for word in self.words if len(word) > 1):
            *before, last = word
            rows = lengths >= len(word)
            for back, token in enumerate(reversed(before), start=1):
                at = jnp.maximum(context.length - back, 0)
                rows &= jax.lax.dynamic_index_in_dim(context.tokens, at, -1, keepdims=False) == token
            closed |= _where(rows, _among((last,), logits), logits)
        return sampling.mask_tokens(logits, closed)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Renormalize:
    """The logits as log-probabilities of what the processors before it have left open."""

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return jax.nn.log_softmax(logits)
