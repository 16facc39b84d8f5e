"""The laws of encoders, ``encode(tokens, valid) -> vectors``, and of classifiers."""

import functools

import numpy as np

from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.suites.cases.tokens import (
    IDS,
    TOLERANCE,
    ModelSubject,
    TokensCase,
    assert_all_changed,
    cases,
    model_laws,
    padding_laws,
)

__all__ = ["classifier", "encoder", "encoder_without_positions"]

right_padded = functools.partial(cases, padded="right")


@law(right_padded(lambda B, T: T > 1, full=True))
def context_matters(encode: ModelSubject, x: TokensCase) -> None:
    """Changing one token changes the vectors at all other positions, before and after it."""
    at = x.seed % x.tokens.shape[1]
    others = np.arange(x.tokens.shape[1]) != at
    assert_all_changed(
        encode(*x.with_tokens(x.changed_tokens(at)))[:, others],
        encode(*x.arguments)[:, others],
        f"vectors at the other positions, with another token at {at}",
    )


@law(right_padded(lambda B, T: B > 1))
def fully_padded_examples(encode: ModelSubject, x: TokensCase) -> None:
    """An example of nothing but padding gives finite vectors and changes no other example."""
    valid = x.mask & (np.arange(len(x.mask)) > 0)[:, None]
    out = encode(x.tokens, valid)
    at = valid[1:, :, None]
    got, wanted = (np.where(at, y[1:], 0) for y in (out, encode(*x.arguments)))
    assert_close(got, wanted, atol=TOLERANCE, what="vectors of the others, with example 0 all padding")
    if not np.isfinite(out).all():
        n = np.sum(~np.isfinite(out))
        message = f"output with example 0 all padding: got {n} numbers that are not finite; wanted none"
        raise Violation(message, severity="contract")


@law(right_padded(lambda B, T: T > 2, full=True))
def positions_matter(encode: ModelSubject, x: TokensCase) -> None:
    """Exchanging two tokens does not merely exchange their vectors."""
    tokens = x.changed_tokens(1)
    tokens[:, 1] = np.where(tokens[:, 0] == tokens[:, 1], (tokens[:, 0] + 1) % IDS, tokens[:, 1])
    order = np.arange(tokens.shape[1])
    order[:2] = 1, 0
    got, before = encode(tokens[:, order], x.mask), encode(tokens, x.mask)[:, order]
    what = (
        f"vectors of {tokens.tolist()} with the first two tokens exchanged, compared with exchanged vectors"
    )
    assert_all_changed(got[:, :2], before[:, :2], what)


@law(right_padded(lambda B, T: T > 1))
def permutation_equivariance(encode: ModelSubject, x: TokensCase) -> None:
    """Without positions, permuting the tokens permutes the vectors."""
    order = x.rng.permutation(x.tokens.shape[1])
    got = encode(x.tokens[:, order], x.mask[:, order])
    got, wanted = (np.where(x.mask[:, order, None], y, 0) for y in (got, encode(*x.arguments)[:, order]))
    assert_close(got, wanted, atol=TOLERANCE, what=f"vectors of the tokens in the order {order.tolist()}")


@law(right_padded())
def every_token_counts(classify: ModelSubject, x: TokensCase) -> None:
    """Changing any valid token changes the logits."""
    at = x.seed % x.mask.sum(1).min()
    assert_all_changed(
        classify(*x.with_tokens(x.changed_tokens(at))),
        classify(*x.arguments),
        f"logits, with another token at {at}",
    )


SIGNATURE = f"(tokens int [B, T], ids from 0 to {IDS - 1}, valid bool [B, T], False at padding)"
COMMON = (
    context_matters,
    fully_padded_examples,
    *padding_laws("right", right_padded),
    *model_laws(right_padded),
)

encoder = Suite(
    "encoder", f"encode{SIGNATURE} -> vectors [B, T, D]", ModelSubject, (positions_matter, *COMMON)
)

encoder_without_positions = Suite(
    "encoder_without_positions",
    f"encode{SIGNATURE} -> vectors [B, T, D], by a model without positions",
    ModelSubject,
    (permutation_equivariance, *COMMON),
)
"""The laws of an encoder for which the order of the tokens does not matter."""

classifier = Suite(
    "classifier",
    f"classify{SIGNATURE} -> logits [B, C]",
    functools.partial(ModelSubject, per_token=False),
    (every_token_counts, *padding_laws("right", right_padded), *model_laws(right_padded)),
)
