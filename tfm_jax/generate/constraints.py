"""Constrained decoding: logits processors that forbid or force tokens, as generation configs require."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.generate.logits_processors import Context
from tfm_jax.ops import sampling
from tfm_jax.ranges import COUNT, check_number
from tfm_jax.types import Array

__all__ = [
    "BadWords",
    "ForceFirst",
    "ForceLast",
    "Renormalize",
    "Suppress",
    "SuppressFirst",
    "SuppressFrom",
]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Suppress:
    """Masks tokens at every step.

    Args:
      ids: a tuple of ids below V, which is checked with the logits; static.

    Raises:
      ValueError: ``ids`` is not a tuple of Python integers of at least 0.
    """

    ids: tuple[int, ...] = pytrees.static()

    def __post_init__(self):
        _check_ids(self, "ids")

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return sampling.mask_tokens(logits, jnp.broadcast_to(_multi_hot(self.ids, logits), logits.shape))


@pytrees.register
@dataclasses.dataclass(frozen=True)
class SuppressFrom:
    """Masks all ids from n on: those of a model that its tokenizer does not have.

    Args:
      n: at least 0; static.
    """

    n: int = pytrees.static()

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        unknown = jnp.arange(logits.shape[-1]) >= self.n
        return sampling.mask_tokens(logits, jnp.broadcast_to(unknown, logits.shape))


@pytrees.register
@dataclasses.dataclass(frozen=True)
class SuppressFirst:
    """Masks tokens at the first step.

    Args:
      ids: as in ``Suppress``.
      after_forced: if the prompt is one token, mask at the second step instead: the one after a
        ``ForceFirst``; static.

    Raises:
      ValueError: as in ``Suppress``.
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
        masked = _at(first == context.step, _multi_hot(self.ids, logits), logits)
        return sampling.mask_tokens(logits, masked)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class ForceFirst:
    """Forces the token after a sequence of one token, such as the target language of an encoder-decoder.

    Args:
      id: below V; its logit becomes 0, all others -inf; static.

    Raises:
      ValueError: ``id`` is not a Python integer of at least 0.
    """

    id: int = pytrees.static()

    def __post_init__(self):
        check_number("ForceFirst", "id", self.id, COUNT)

    def __call__(self, logits: Array, context: Context) -> Array:
        return _force((self.id,), _lengths(context) == 1, logits)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class ForceLast:
    """Forces one of some tokens, such as EOS, at ``max_length``.

    Args:
      ids: as in ``Suppress``; their logits become 0, all others -inf.

    Raises:
      ValueError: as in ``Suppress``.
    """

    ids: tuple[int, ...] = pytrees.static()

    def __post_init__(self):
        _check_ids(self, "ids")

    def __call__(self, logits: Array, context: Context) -> Array:
        # Context.tokens ends at max_length.
        last = context.length == context.tokens.shape[-1] - 1
        return _force(self.ids, jnp.broadcast_to(last, logits.shape[:-1]), logits)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class BadWords:
    """Bans token sequences: masks the last token of each after the others.

    Args:
      words: a tuple of non-empty tuples of ids below V; static. A word of n tokens applies to sequences of
        at least n tokens.

    Raises:
      ValueError: ``words`` is not such a tuple.
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
        single = tuple(word[0] for word in self.words if len(word) == 1)
        masked = jnp.broadcast_to(_multi_hot(single, logits), logits.shape)
        lengths = _lengths(context)
        for word in (word for word in self.words if len(word) > 1):
            *before, last = word
            matches = lengths >= len(word)
            for back, token in enumerate(reversed(before), start=1):
                at = jnp.maximum(context.length - back, 0)
                matches &= jax.lax.dynamic_index_in_dim(context.tokens, at, -1, keepdims=False) == token
            masked |= _at(matches, _multi_hot((last,), logits), logits)
        return sampling.mask_tokens(logits, masked)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Renormalize:
    """Log-probabilities over the tokens that the previous processors left unmasked."""

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        return jax.nn.log_softmax(logits)


def _check_ids(processor: object, name: str) -> None:
    kind, ids = type(processor).__name__, getattr(processor, name)
    if not isinstance(ids, tuple):
        raise ValueError(f"{kind}: got {name}={ids!r}; wanted a tuple of ids, such as (2,).")
    for token in ids:
        check_number(kind, "an id", token, COUNT)


def _multi_hot(ids: tuple[int, ...], logits: Array) -> np.ndarray:
    """Whether each token of the vocabulary is in ids: bool [V]. Raises for an id outside it."""
    V = logits.shape[-1]
    if max(ids, default=0) >= V:
        raise ValueError(f"processors: got the ids {ids}; wanted ids below V = {V}.")
    return np.isin(np.arange(V), ids)


def _at(sequences: Array, tokens: np.ndarray, logits: Array) -> Array:
    """The outer product of bool sequences [...] and bool tokens [V], in the shape of logits."""
    sequences = jnp.broadcast_to(jnp.asarray(sequences)[..., None], logits.shape)
    return sequences & jnp.broadcast_to(tokens, logits.shape)


def _lengths(context: Context) -> Array:
    """Tokens of each sequence so far, prompt included, without padding: int32 [...]."""
    present = jnp.arange(context.tokens.shape[-1], dtype=jnp.int32) < context.length
    present = jnp.broadcast_to(present, context.tokens.shape)
    return jnp.sum((context.tokens >= 0) & present, axis=-1, dtype=jnp.int32)


def _force(ids: tuple[int, ...], sequences: Array, logits: Array) -> Array:
    """Logits 0 for the ids and -inf for all others, in the sequences that are True."""
    tokens = _multi_hot(ids, logits)
    forced = sampling.mask_tokens(jnp.zeros_like(logits), jnp.broadcast_to(~tokens, logits.shape))
    return jnp.where(jnp.asarray(sequences)[..., None], forced, logits)
