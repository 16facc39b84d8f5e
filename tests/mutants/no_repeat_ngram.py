"""Mutants of the n-gram ban."""

import functools

import numpy as np

from tests.mutants._mutant import Mutant

JIT = False


def so_far(buffer, length):
    return buffer[:length]


def last_tokens(tokens, buffer, n):
    return tokens[len(tokens) - n + 1 :]


def starts(tokens, n):
    return range(len(tokens) - n + 1)


def matches(ngram, last):
    return min(ngram) >= 0 and ngram[:-1] == last


def ban(
    logits,
    tokens,
    length,
    n,
    *,
    so_far=so_far,
    last_tokens=last_tokens,
    starts=starts,
    matches=matches,
    banned=lambda ngram: ngram[-1],
):
    out = np.array(logits)
    for row, buffer in zip(out, np.asarray(tokens).tolist(), strict=True):
        sequence = so_far(buffer, int(length))
        last = last_tokens(sequence, buffer, n)
        for i in starts(sequence, n):
            ngram = sequence[i : i + n]
            if matches(ngram, last):
                row[banned(ngram)] = -np.inf
    return out


def variant(**parts):
    return functools.partial(ban, **parts)


RIGHT = ban
MUTANTS = {
    "the last tokens are those of the buffer": Mutant(
        variant(last_tokens=lambda tokens, buffer, n: buffer[len(buffer) - n + 1 :]),
        ["generation_never_repeats", "definition", "tokens_after_length_are_ignored"],
        "facebookresearch/fairseq#5206",
    ),
    "tokens past the length are searched": Mutant(
        variant(so_far=lambda buffer, length: buffer), ["tokens_after_length_are_ignored"]
    ),
    "padding is searched": Mutant(
        variant(
            matches=lambda ngram, last: ngram[:-1] == last,
            banned=lambda ngram: max(ngram[-1], 0),
        ),
        ["padding_is_ignored"],
    ),
    "the last n-gram is not searched": Mutant(
        variant(starts=lambda tokens, n: range(len(tokens) - n)),
        ["definition", "n_1_bans_seen_tokens"],
    ),
    "n + 1 instead of n": Mutant(
        lambda x, tokens, length, n: ban(x, tokens, length, n + 1),
        ["generation_never_repeats", "n_1_bans_seen_tokens"],
    ),
    "n - 1 instead of n": Mutant(
        lambda x, tokens, length, n: ban(x, tokens, length, max(n - 1, 1)),
        ["fewer_than_n_tokens", "definition"],
    ),
    "the first token of the n-gram is banned": Mutant(
        variant(banned=lambda ngram: ngram[0]),
        ["generation_never_repeats", "longer_ngrams_ban_fewer_tokens"],
    ),
    "a sequence shorter than n bans its tokens": Mutant(
        lambda x, tokens, length, n: ban(x, tokens, length, min(n, max(int(length), 1))),
        ["fewer_than_n_tokens"],
    ),
    "a low logit instead of -inf": Mutant(
        lambda *args: np.maximum(ban(*args), np.float32(-1e4)), ["definition"]
    ),
}
