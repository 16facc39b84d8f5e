"""The laws of what forbids n tokens to come twice: of any ``f(logits, tokens, length, n) -> logits``."""

import itertools
from typing import Any

import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.suites.cases.logits import HOLE, HistoryCase, LogitsSubject, histories

__all__ = ["NgramSubject", "no_repeat_ngram"]

some = histories((2, 1, 3), shapes=((1, 2, 2), (2, 3, 7)))


class NgramSubject(LogitsSubject):
    """What closes tokens that would repeat n tokens in a row, as its laws ask it.

    Args:
      function: takes JAX arrays logits [B, V] and tokens int32 [B, M], an int32 scalar length and an int n;
        gives an array like the logits.
    """

    def of(
        self, x: HistoryCase, tokens: Any = None, length: int | None = None, n: int | None = None
    ) -> np.ndarray:
        """What it makes of a case, of which some parts may be others."""
        tokens = x.tokens if tokens is None else tokens
        length = np.asarray(x.length if length is None else length, np.int32)
        return self(x.logits, tokens, length, x.number if n is None else n)


def grams(row: list[int], n: int) -> list[tuple[int, ...]]:
    """All n entries in a row that there are, holes left out."""
    found = (tuple(row[i : i + n]) for i in range(len(row) - n + 1))
    return [gram for gram in found if HOLE not in gram]


def repeats(row: list[int], token: int, n: int) -> bool:
    """Whether a token after the row would end n that are there already."""
    last = (*row[len(row) - n + 1 :], token)
    return len(row) >= n and last in grams(row, n)


@law(some)
def definition(forbid: NgramSubject, x: HistoryCase) -> None:
    """A token is closed where it would end n tokens in a row that are there already; others stay."""
    closed = [[repeats(row, token, x.number) for token in range(x.V)] for row in x.rows]
    same(forbid.of(x), np.where(closed, -np.inf, x.logits))


@law(some)
def behind_the_length(forbid: NgramSubject, x: HistoryCase) -> None:
    """What stands behind the length is not there."""
    other = x.tokens.copy()
    other[:, x.length :] = x.rng.integers(0, x.V, other[:, x.length :].shape)
    same(forbid.of(x, tokens=other), forbid.of(x), what=f"output with tokens = {other.tolist()}")


@law(some)
def holes_equal_nothing(forbid: NgramSubject, x: HistoryCase) -> None:
    """Among nothing but holes (-1) nothing repeats, and a hole more in front changes nothing."""
    same(forbid.of(x, tokens=np.full_like(x.tokens, HOLE)), x.logits, what="output of holes")
    hole = np.full((len(x.tokens), 1), HOLE, np.int32)
    got = forbid.of(x, tokens=np.concatenate([hole, x.tokens], axis=1), length=x.length + 1)
    same(got, forbid.of(x), what="output with a hole more in front")


@law(some)
def fewer_than_n(forbid: NgramSubject, x: HistoryCase) -> None:
    """Fewer than n tokens repeat nothing."""
    few = min(x.number - 1, x.tokens.shape[1])
    same(forbid.of(x, length=few), x.logits, what=f"output with length = {few}")


@law(some)
def of_1_all_that_is_there(forbid: NgramSubject, x: HistoryCase) -> None:
    """n = 1 closes every token that is there, and no other."""
    same(forbid.of(x, n=1), np.where(x.counts > 0, -np.inf, x.logits), what="output with n = 1")


@law(some)
def longer_closes_less(forbid: NgramSubject, x: HistoryCase) -> None:
    """What would repeat n + 1 tokens would repeat n."""
    closed = [np.isneginf(forbid.of(x, n=n)) for n in (1, 2, 3)]
    for n, (got, longer) in enumerate(itertools.pairwise(closed), start=1):
        if (longer & ~got).any():
            raise Violation(f"closed with n = {n}: {got.tolist()}, with n + 1: {longer.tolist()}")


@law(some)
def nothing_repeats(forbid: NgramSubject, x: HistoryCase) -> None:
    """What is written under it, always the likeliest token, has no n tokens in a row twice."""
    tokens, M = np.full_like(x.tokens, HOLE), x.tokens.shape[1]
    for length in range(M):
        out = forbid.of(x, tokens=tokens, length=length)
        if np.isneginf(out).all(-1).any():
            tokens = tokens[:, :length]  # a row has no token left that repeats nothing
            break
        tokens[:, length] = out.argmax(-1)
    for row in tokens.tolist():
        if len(set(grams(row, x.number))) < len(grams(row, x.number)):
            raise Violation(f"wrote {row} with n = {x.number}")


no_repeat_ngram = Suite(
    "no_repeat_ngram",
    "forbid(logits [B, V], tokens int32 [B, M], length int32, n int) -> [B, V], tokens[:, :length] the rows "
    "so far, -1 in holes",
    NgramSubject,
    (
        definition,
        behind_the_length,
        holes_equal_nothing,
        fewer_than_n,
        of_1_all_that_is_there,
        longer_closes_less,
        nothing_repeats,
    ),
)
