"""The laws of encoders and of classifiers: of any ``encode(tokens, valid) -> vectors``."""

import functools

import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.suites.cases.tokens import (
    IDS,
    TOLERANCE,
    ModelSubject,
    TokensCase,
    cases,
    changed,
    of_every_model,
    of_padding,
)

__all__ = ["classifier", "encoder", "encoder_without_positions"]

right = functools.partial(cases, padded="right")


@law(right(lambda B, T: T > 1, full=True))
def context(encode: ModelSubject, x: TokensCase) -> None:
    """The same token in another context gets another vector, whether the others stand before or after it."""
    at = x.seed % x.tokens.shape[1]
    others = np.arange(x.tokens.shape[1]) != at
    changed(
        encode(*x.with_tokens(x.another(at)))[:, others],
        encode(*x.arguments)[:, others],
        f"vectors of the others, with another token at {at}",
    )


@law(right(lambda B, T: B > 1))
def a_row_of_padding(encode: ModelSubject, x: TokensCase) -> None:
    """A row of nothing but padding is finite, and spoils no other row."""
    valid = x.valid & (np.arange(len(x.valid)) > 0)[:, None]
    out = encode(x.tokens, valid)
    if not np.isfinite(out).all():
        raise Violation(f"row 0 is padding: {np.sum(~np.isfinite(out))} numbers of the output are not finite")
    at = valid[1:, :, None]
    got, wanted = (np.where(at, y[1:], 0) for y in (out, encode(*x.arguments)))
    same(got, wanted, atol=TOLERANCE, what="vectors of the other rows, where row 0 is padding")


@law(right(lambda B, T: T > 2, full=True))
def positions_matter(encode: ModelSubject, x: TokensCase) -> None:
    """Two tokens exchanged do not merely exchange their vectors."""
    tokens = x.another(1)
    tokens[:, 1] = np.where(tokens[:, 0] == tokens[:, 1], (tokens[:, 0] + 1) % IDS, tokens[:, 1])
    order = np.arange(tokens.shape[1])
    order[:2] = 1, 0
    got, before = encode(tokens[:, order], x.valid), encode(tokens, x.valid)[:, order]
    what = f"vectors of {tokens.tolist()}, the first two tokens exchanged, beside those exchanged"
    changed(got[:, :2], before[:, :2], what)


@law(right(lambda B, T: T > 1))
def order_of_tokens(encode: ModelSubject, x: TokensCase) -> None:
    """Without positions, tokens in another order give their vectors in that order: it is a set."""
    order = x.rng.permutation(x.tokens.shape[1])
    got = encode(x.tokens[:, order], x.valid[:, order])
    got, wanted = (np.where(x.valid[:, order, None], y, 0) for y in (got, encode(*x.arguments)[:, order]))
    same(got, wanted, atol=TOLERANCE, what=f"vectors of the tokens in the order {order.tolist()}")


@law(right())
def every_token_counts(classify: ModelSubject, x: TokensCase) -> None:
    """Another token, wherever it is valid, gives other logits."""
    at = x.seed % x.valid.sum(1).min()
    changed(
        classify(*x.with_tokens(x.another(at))), classify(*x.arguments), f"logits, with another token at {at}"
    )


SIGNATURE = f"(tokens int [B, T], ids from 0 to {IDS - 1}, valid bool [B, T], False at padding)"
COMMON = (context, a_row_of_padding, *of_padding("right", right), *of_every_model(right))

encoder = Suite(
    "encoder", f"encode{SIGNATURE} -> vectors [B, T, D]", ModelSubject, (positions_matter, *COMMON)
)

encoder_without_positions = Suite(
    "encoder_without_positions",
    f"encode{SIGNATURE} -> vectors [B, T, D], by a model that is told no positions",
    ModelSubject,
    (order_of_tokens, *COMMON),
)
"""The laws of an encoder for which the order does not matter."""

classifier = Suite(
    "classifier",
    f"classify{SIGNATURE} -> logits [B, C]",
    functools.partial(ModelSubject, per_token=False),
    (every_token_counts, *of_padding("right", right), *of_every_model(right)),
)
