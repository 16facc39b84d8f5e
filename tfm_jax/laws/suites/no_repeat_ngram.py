"""The laws of the n-gram ban, ``ban(logits, tokens, length, n) -> logits``."""

import itertools

import numpy as np

from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.subject import AnyArray
from tfm_jax.laws.suites.cases.logits import PADDING, HistoryCase, LogitsSubject, histories

__all__ = ["NgramSubject", "no_repeat_ngram"]

any_case = histories((2, 1, 3), shapes=((1, 2, 2), (2, 3, 7)))


class NgramSubject(LogitsSubject):
    """A ban of tokens that would repeat an n-gram, ``function(logits, tokens, length, n)``.

    Args:
      function: takes JAX arrays logits [B, V] and tokens int32 [B, M], an int32 scalar length and an int n;
        returns an array like the logits.
    """

    def of(
        self, x: HistoryCase, tokens: AnyArray | None = None, length: int | None = None, n: int | None = None
    ) -> np.ndarray:
        """The output for a case, with some of its arguments changed."""
        tokens = x.tokens if tokens is None else tokens
        n_tokens = np.asarray(x.length if length is None else length, np.int32)
        return self(x.logits, tokens, n_tokens, x.number if n is None else n)


def ngrams(sequence: list[int], n: int) -> list[tuple[int, ...]]:
    """All n-grams of a sequence without padding in them."""
    found = (tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1))
    return [ngram for ngram in found if PADDING not in ngram]


def repeats(sequence: list[int], token: int, n: int) -> bool:
    """Whether a token after the sequence would repeat one of its n-grams."""
    last = (*sequence[len(sequence) - n + 1 :], token)
    return len(sequence) >= n and last in ngrams(sequence, n)


@law(any_case)
def definition(ban: NgramSubject, x: HistoryCase) -> None:
    """A token is masked if it would repeat an n-gram of the sequence; other logits are unchanged."""
    banned = [[repeats(tokens, token, x.number) for token in range(x.V)] for tokens in x.sequences]
    assert_close(ban.of(x), np.where(banned, -np.inf, x.logits))


@law(any_case)
def tokens_after_length_are_ignored(ban: NgramSubject, x: HistoryCase) -> None:
    """Tokens past the length change nothing."""
    other = x.tokens.copy()
    other[:, x.length :] = x.rng.integers(0, x.V, other[:, x.length :].shape)
    assert_close(ban.of(x, tokens=other), ban.of(x), what=f"output with tokens = {other.tolist()}")


@law(any_case)
def padding_is_ignored(ban: NgramSubject, x: HistoryCase) -> None:
    """Padding (-1) is part of no n-gram, and more left padding changes nothing."""
    assert_close(
        ban.of(x, tokens=np.full_like(x.tokens, PADDING)), x.logits, what="output after padding only"
    )
    padding = np.full((len(x.tokens), 1), PADDING, np.int32)
    got = ban.of(x, tokens=np.concatenate([padding, x.tokens], axis=1), length=x.length + 1)
    assert_close(got, ban.of(x), what="output with one more position of padding")


@law(any_case)
def fewer_than_n_tokens(ban: NgramSubject, x: HistoryCase) -> None:
    """After fewer than n tokens, no token is banned."""
    few = min(x.number - 1, x.tokens.shape[1])
    assert_close(ban.of(x, length=few), x.logits, what=f"output with length = {few}")


@law(any_case)
def n_1_bans_seen_tokens(ban: NgramSubject, x: HistoryCase) -> None:
    """n = 1 bans the tokens of the sequence, and no others."""
    assert_close(ban.of(x, n=1), np.where(x.counts > 0, -np.inf, x.logits), what="output with n = 1")


@law(any_case)
def longer_ngrams_ban_fewer_tokens(ban: NgramSubject, x: HistoryCase) -> None:
    """A token banned for n + 1 is banned for n."""
    banned = [np.isneginf(ban.of(x, n=n)) for n in (1, 2, 3)]
    for n, (shorter, longer) in enumerate(itertools.pairwise(banned), start=1):
        if (longer & ~shorter).any():
            raise Violation(
                f"banned with n = {n + 1}: got {longer.tolist()}; wanted a part of those with n = {n}, "
                f"{shorter.tolist()}"
            )


@law(any_case)
def generation_never_repeats(ban: NgramSubject, x: HistoryCase) -> None:
    """Greedy decoding under the ban generates no n-gram twice."""
    tokens, M = np.full_like(x.tokens, PADDING), x.tokens.shape[1]
    for length in range(M):
        out = ban.of(x, tokens=tokens, length=length)
        if np.isneginf(out).all(-1).any():
            tokens = tokens[:, :length]  # all tokens of an example are banned
            break
        tokens[:, length] = out.argmax(-1)
    for sequence in tokens.tolist():
        found = ngrams(sequence, x.number)
        if len(set(found)) < len(found):
            raise Violation(f"generated: got {sequence} with n = {x.number}; wanted each n-gram once")


no_repeat_ngram = Suite(
    "no_repeat_ngram",
    "ban(logits [B, V], tokens int32 [B, M], length int32, n int) -> [B, V]; tokens[:, :length] are the "
    "tokens so far, -1 at padding",
    NgramSubject,
    (
        definition,
        tokens_after_length_are_ignored,
        padding_is_ignored,
        fewer_than_n_tokens,
        n_1_bans_seen_tokens,
        longer_ngrams_ban_fewer_tokens,
        generation_never_repeats,
    ),
)
