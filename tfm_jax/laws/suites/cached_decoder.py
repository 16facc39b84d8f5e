"""The laws of KV caches: of a decoder that reads tokens in chunks, ``read(tokens, chunks) -> logits``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.subject import AnyArray, Function, Subject, Unsupported
from tfm_jax.laws.suites.cases.tokens import IDS, TOLERANCE

__all__ = ["CAPACITY", "CacheCase", "CacheSubject", "cached_decoder"]

CAPACITY = 5
"""The number of tokens that a cache must have room for."""
# Sizes of chunks, the simplest first. Few, because each is compiled separately.
SPLITS = ((1,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (2, 3), (3, 2), (1, 3, 1), (2, 1, 1, 1))
OVERFLOWING = ((3, 2, 1), (2, 3, 2), (3, 1, 3), (1, 2, 2, 1))


@dataclasses.dataclass(frozen=True)
class CacheCase:
    """The arguments of one call."""

    tokens: np.ndarray  # int32 [B, T]
    chunks: tuple[int, ...]  # sizes, which sum to T
    seed: int

    def __str__(self) -> str:
        return f"tokens = {self.tokens.tolist()}, in chunks of {', '.join(map(str, self.chunks))}"


@st.composite
def cases(draw, splits: tuple[tuple[int, ...], ...] = SPLITS, batch: int = 1) -> CacheCase:
    """A batch of random tokens, and one of these splits into chunks."""
    chunks = draw(st.sampled_from(splits))
    seed = draw(strategies.seeds())
    return CacheCase(draw(strategies.tokens(batch, sum(chunks), vocab_size=IDS, seed=seed)), chunks, seed)


class CacheSubject(Subject):
    """A decoder with a KV cache, ``function(tokens, chunks)``.

    Args:
      function: takes int32 tokens [B, T] and a tuple of chunk sizes that sum to T, reads the tokens chunk by
        chunk into a new cache, and returns the logits [B, T, V] of all tokens.
      full: ``full(tokens) -> logits``, a forward pass without a cache; None reads all tokens as one chunk.
    """

    def __init__(self, function: Function, *, full: Callable[[Any], Any] | None = None):
        super().__init__(function)
        self.full = full

    def __call__(self, tokens: AnyArray, chunks: tuple[int, ...]) -> np.ndarray:
        """The logits, their shape checked."""
        return self._logits(tokens, lambda tokens: self.function(tokens, chunks))

    def at_once(self, tokens: AnyArray) -> np.ndarray:
        """The logits of a forward pass over all tokens."""
        return self._logits(tokens, self.full or (lambda tokens: self.function(tokens, (tokens.shape[1],))))

    def _logits(self, tokens: AnyArray, read: Callable[[Any], Any]) -> np.ndarray:
        out = self.run(lambda: np.asarray(read(jnp.asarray(tokens))))
        if out.ndim != 3 or out.shape[:2] != tokens.shape:
            raise Violation(f"shape: got {list(out.shape)}; wanted [B, T, V] = [*{list(tokens.shape)}, V]")
        return out


@law(cases())
def chunked_matches_full(read: CacheSubject, x: CacheCase) -> None:
    """Reading tokens in chunks of any size gives the logits of one forward pass."""
    assert_close(read(x.tokens, x.chunks), read.at_once(x.tokens), atol=TOLERANCE, what="logits")


@law(cases())
def token_by_token_matches_full(read: CacheSubject, x: CacheCase) -> None:
    """Reading tokens one at a time gives the logits of one forward pass."""
    got = read(x.tokens, (1,) * x.tokens.shape[1])
    assert_close(got, read.at_once(x.tokens), atol=TOLERANCE, what="logits token by token")


@law(cases(splits=tuple(x for x in SPLITS if len(x) > 1)))
def earlier_chunks_are_cached(read: CacheSubject, x: CacheCase) -> None:
    """Changing a token of an earlier chunk changes the logits of the next chunk."""
    at = x.chunks[0]
    tokens = x.tokens.copy()
    tokens[:, at - 1] = (tokens[:, at - 1] + 1 + x.seed % (IDS - 1)) % IDS
    apart = np.abs(read(tokens, x.chunks)[:, at].astype(np.float64) - read(x.tokens, x.chunks)[:, at]).max(-1)
    if not (apart > 1e-6).all():
        raise Violation(f"logits of {at}, with another token at {at - 1}: got the same; wanted others")


@law(cases(batch=2))
def examples_are_independent(read: CacheSubject, x: CacheCase) -> None:
    """An example gives the same logits in a batch as alone: examples do not share a cache."""
    alone = [read(tokens[None], x.chunks) for tokens in x.tokens]
    assert_close(read(x.tokens, x.chunks), np.concatenate(alone), atol=TOLERANCE, what="logits")


@law(cases())
def cache_starts_empty(read: CacheSubject, x: CacheCase) -> None:
    """Each call starts with an empty cache: tokens of an earlier call change nothing."""
    first = read(x.tokens, x.chunks)
    read((x.tokens + 1) % IDS, x.chunks)
    assert_close(read(x.tokens, x.chunks), first, what="logits of the same tokens, read after others")


@law(cases(splits=OVERFLOWING))
def overflow(read: CacheSubject, x: CacheCase) -> None:
    """More tokens than the cache has room for raise, give NaN, or are cached; none is lost silently."""
    read(x.tokens[:, :1], (1,))  # not supported if the function raises for every input
    try:
        got = read(x.tokens, x.chunks)
    except Unsupported:
        return
    late = got[:, CAPACITY:]
    if np.isnan(late).all():
        return
    try:
        wanted = read.at_once(x.tokens)[:, CAPACITY:]
    except Unsupported as error:
        raise Violation(
            f"logits in chunks: got numbers; wanted an error as for all at once ({error})"
        ) from None
    assert_close(late, wanted, atol=TOLERANCE, what=f"logits from position {CAPACITY} on")


cached_decoder = Suite(
    "cached_decoder",
    f"read(tokens int [B, T], ids from 0 to {IDS - 1}, chunks, a tuple of ints that sum to T) -> logits "
    f"[B, T, V], read chunk by chunk into an empty cache with room for {CAPACITY} tokens per example",
    CacheSubject,
    (
        chunked_matches_full,
        token_by_token_matches_full,
        earlier_chunks_are_cached,
        examples_are_independent,
        cache_starts_empty,
        overflow,
    ),
)
