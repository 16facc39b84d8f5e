"""The laws of caches: of any decoder that reads a text in pieces, ``read(tokens, pieces) -> logits``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.subject import Refused, Subject
from tfm_jax.laws.suites.cases.seeded import SEEDS
from tfm_jax.laws.suites.cases.tokens import IDS, TOLERANCE

__all__ = ["CAPACITY", "CacheCase", "CacheSubject", "cached_decoder"]

CAPACITY = 5
"""Tokens that a cache must have room for."""
# Pieces, the simplest first: few lengths, for each is compiled by itself.
SPLITS = ((1,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (2, 3), (3, 2), (1, 3, 1), (2, 1, 1, 1))
TOO_MANY = ((3, 2, 1), (2, 3, 2), (3, 1, 3), (1, 2, 2, 1))


@dataclasses.dataclass(frozen=True)
class CacheCase:
    """Arguments of one call, and what a law wants beside them."""

    tokens: np.ndarray  # int32 [B, T]
    pieces: tuple[int, ...]  # they sum to T
    seed: int

    def __str__(self) -> str:
        return f"tokens = {self.tokens.tolist()}, in pieces of {', '.join(map(str, self.pieces))}"


@st.composite
def cases(draw, splits: tuple[tuple[int, ...], ...] = SPLITS, rows: int = 1) -> CacheCase:
    """So many rows of tokens, read in one of these splits."""
    pieces = draw(st.sampled_from(splits))
    seed = draw(SEEDS)
    tokens = np.random.default_rng(seed).integers(0, IDS, (rows, sum(pieces))).astype(np.int32)
    return CacheCase(tokens, pieces, seed)


class CacheSubject(Subject):
    """A decoder with a cache, asked as the laws of caches ask it.

    Args:
      function: takes int32 tokens [B, T] and a tuple of ints that sum to T, reads so many tokens at a time
        into a cache that was empty, and gives the logits [B, T, V] of all.
      whole: ``whole(tokens) -> logits``, by a forward pass without a cache; None reads one piece.
    """

    def __init__(self, function: Callable[..., Any], *, whole: Callable[[Any], Any] | None = None):
        super().__init__(function)
        self.whole = whole

    def __call__(self, tokens: Any, pieces: tuple[int, ...]) -> np.ndarray:
        """The logits, of the shape that they must have; raises ``Refused`` for what the function raises."""
        return self._logits(tokens, lambda tokens: self.function(tokens, pieces))

    def at_once(self, tokens: Any) -> np.ndarray:
        """The logits of all tokens read at once."""
        return self._logits(tokens, self.whole or (lambda tokens: self.function(tokens, (tokens.shape[1],))))

    def _logits(self, tokens: Any, read: Callable[[Any], Any]) -> np.ndarray:
        out = self.given(lambda: np.asarray(read(jnp.asarray(tokens))))
        if out.ndim != 3 or out.shape[:2] != tokens.shape:
            raise Violation(f"shape: got {list(out.shape)}, wanted [B, T, V] = [*{list(tokens.shape)}, V]")
        return out


@law(cases())
def any_split(read: CacheSubject, x: CacheCase) -> None:
    """Read in pieces, whichever, a text gives the logits that it gives at once."""
    same(read(x.tokens, x.pieces), read.at_once(x.tokens), atol=TOLERANCE, what="logits")


@law(cases())
def one_by_one(read: CacheSubject, x: CacheCase) -> None:
    """Read token by token, a text gives the logits that it gives at once."""
    ones = (1,) * x.tokens.shape[1]
    same(read(x.tokens, ones), read.at_once(x.tokens), atol=TOLERANCE, what="logits token by token")


@law(cases(splits=tuple(x for x in SPLITS if len(x) > 1)))
def earlier_pieces_are_remembered(read: CacheSubject, x: CacheCase) -> None:
    """Another token in an earlier piece changes the logits of the next one."""
    at = x.pieces[0]
    tokens = x.tokens.copy()
    tokens[:, at - 1] = (tokens[:, at - 1] + 1 + x.seed % (IDS - 1)) % IDS
    apart = np.abs(read(tokens, x.pieces)[:, at].astype(np.float64) - read(x.tokens, x.pieces)[:, at]).max(-1)
    if not (apart > 1e-6).all():
        raise Violation(f"with another token at {at - 1}, the logits of {at} are the same")


@law(cases(rows=2))
def rows_of_a_batch(read: CacheSubject, x: CacheCase) -> None:
    """A row of a batch gives the logits that it gives alone: it has a cache of its own."""
    alone = [read(row[None], x.pieces) for row in x.tokens]
    same(read(x.tokens, x.pieces), np.concatenate(alone), atol=TOLERANCE, what="logits")


@law(cases())
def begins_empty(read: CacheSubject, x: CacheCase) -> None:
    """Nothing is remembered of the text before: the second time gives what the first one gave."""
    first = read(x.tokens, x.pieces)
    read((x.tokens + 1) % IDS, x.pieces)
    same(read(x.tokens, x.pieces), first, what="logits of the same text, read after another one")


@law(cases(splits=TOO_MANY))
def overflow(read: CacheSubject, x: CacheCase) -> None:
    """More tokens than there is room for are an error, or nan, or remembered; none is lost in silence."""
    read(x.tokens[:, :1], (1,))  # what refuses everything is not asked
    try:
        got = read(x.tokens, x.pieces)
    except Refused:
        return
    late = got[:, CAPACITY:]
    if np.isnan(late).all():
        return
    try:
        wanted = read.at_once(x.tokens)[:, CAPACITY:]
    except Refused as refused:
        raise Violation(f"all at once they are refused ({refused}), in pieces they give numbers") from None
    same(late, wanted, atol=TOLERANCE, what=f"logits from position {CAPACITY} on")


cached_decoder = Suite(
    "cached_decoder",
    f"read(tokens int [B, T], ids from 0 to {IDS - 1}, pieces, a tuple of ints that sum to T) -> logits "
    f"[B, T, V], read a piece at a time into an empty cache with room for {CAPACITY} tokens a row",
    CacheSubject,
    (any_split, one_by_one, earlier_pieces_are_remembered, rows_of_a_batch, begins_empty, overflow),
)
