"""Wrong bans of n tokens that come twice."""

import functools

import numpy as np

from tests.mutants.mutant import Mutant

JIT = False


def so_far(row, length):
    return row[:length]


def last_of(row, whole, n):
    return row[len(row) - n + 1 :]


def starts(row, n):
    return range(len(row) - n + 1)


def fits(gram, last):
    return min(gram) >= 0 and gram[:-1] == last


def forbid(
    logits,
    tokens,
    length,
    n,
    *,
    so_far=so_far,
    last_of=last_of,
    starts=starts,
    fits=fits,
    closed=lambda gram: gram[-1],
):
    out = np.array(logits)
    for new, whole in zip(out, np.asarray(tokens).tolist(), strict=True):
        row = so_far(whole, int(length))
        last = last_of(row, whole, n)
        for i in starts(row, n):
            gram = row[i : i + n]
            if fits(gram, last):
                new[closed(gram)] = -np.inf
    return out


def part(**parts):
    return functools.partial(forbid, **parts)


RIGHT = forbid
MUTANTS = {
    "the last tokens are those of the whole buffer": Mutant(
        part(last_of=lambda row, whole, n: whole[len(whole) - n + 1 :]),
        ["nothing_repeats", "definition", "behind_the_length"],
        "facebookresearch/fairseq#5206",
    ),
    "what stands behind the length is searched": (
        part(so_far=lambda row, length: row, last_of=lambda row, whole, n: row[len(row) - n + 1 :]),
        ["behind_the_length"],
    ),
    "padding is searched": (
        part(
            fits=lambda gram, last: gram[:-1] == last,
            closed=lambda gram: max(gram[-1], 0),
        ),
        ["holes_equal_nothing"],
    ),
    "the last n tokens are not searched": (
        part(starts=lambda row, n: range(len(row) - n)),
        ["definition", "of_1_all_that_is_there"],
    ),
    "one token more may repeat": (
        lambda x, tokens, length, n: forbid(x, tokens, length, n + 1),
        ["nothing_repeats", "of_1_all_that_is_there"],
    ),
    "one token less may repeat": (
        lambda x, tokens, length, n: forbid(x, tokens, length, max(n - 1, 1)),
        ["fewer_than_n", "definition"],
    ),
    "the first of the n is closed": (
        part(closed=lambda gram: gram[0]),
        ["nothing_repeats", "longer_closes_less"],
    ),
    "a row that is too short closes its tokens": (
        lambda x, tokens, length, n: forbid(x, tokens, length, min(n, max(int(length), 1))),
        ["fewer_than_n"],
    ),
    "a low logit instead of -inf": (
        lambda *args: np.maximum(forbid(*args), np.float32(-1e4)),
        ["definition"],
    ),
}
