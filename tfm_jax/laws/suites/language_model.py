"""The laws of language models, ``model(tokens) -> logits``."""

import functools

import numpy as np

from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.suites.cases.tokens import (
    COMPILED_LENGTHS,
    IDS,
    TOLERANCE,
    ModelSubject,
    TokensCase,
    assert_all_changed,
    cases,
    model_laws,
    padding_laws,
)

__all__ = ["language_model", "padded_decoder"]


@law(cases())
def logits_are_finite_float32(model: ModelSubject, x: TokensCase) -> None:
    """Each position gives one finite float32 logit per token of the vocabulary."""
    out = model(*x.arguments)
    if out.dtype != np.float32 or out.shape[-1] < IDS or not np.isfinite(out).all():
        got = f"{out.dtype} [..., {out.shape[-1]}]"
        raise Violation(f"logits: got {got}; wanted finite float32 [..., V], V at least {IDS}")


@law(cases(lambda B, T: T > 1))
def causality(model: ModelSubject, x: TokensCase) -> None:
    """Later tokens do not change the logits of a position by one bit."""
    at = 1 + x.seed % (x.tokens.shape[1] - 1)
    assert_close(
        model(x.changed_tokens(slice(at, None)))[:, :at],
        model(x.tokens)[:, :at],
        what=f"logits before position {at}, with other tokens from there on",
    )


@law(cases())
def own_token_matters(model: ModelSubject, x: TokensCase) -> None:
    """Changing a token changes the logits at its position."""
    at = x.seed % x.tokens.shape[1]
    what = f"logits of position {at}, with another token there"
    assert_all_changed(model(x.changed_tokens(at))[:, at], model(x.tokens)[:, at], what)


@law(cases(lambda B, T: T > 1))
def previous_token_matters(model: ModelSubject, x: TokensCase) -> None:
    """Changing a token changes the logits at the next position."""
    at = 1 + x.seed % (x.tokens.shape[1] - 1)
    assert_all_changed(
        model(x.changed_tokens(at - 1))[:, at],
        model(x.tokens)[:, at],
        f"logits of position {at}, with another token before it",
    )


@law(cases(lambda B, T: T > 2))
def order_matters(model: ModelSubject, x: TokensCase) -> None:
    """Exchanging two earlier tokens changes the logits."""
    at = 2 + x.seed % (x.tokens.shape[1] - 2)
    tokens = x.tokens.copy()
    tokens[:, at - 1] = (tokens[:, at - 2] + 1 + x.seed % (IDS - 1)) % IDS
    swapped = tokens.copy()
    swapped[:, [at - 2, at - 1]] = tokens[:, [at - 1, at - 2]]
    what = f"logits of position {at} of {tokens.tolist()}, with the two tokens before it exchanged"
    assert_all_changed(model(swapped)[:, at], model(tokens)[:, at], what)


@law(cases(lambda B, T: B == 1 and T > 1))
def prefix_consistency(model: ModelSubject, x: TokensCase) -> None:
    """A prefix alone gives the logits that it gives within the whole sequence."""
    lengths = [n for n in COMPILED_LENGTHS if n < x.tokens.shape[1]]
    n = lengths[x.seed % len(lengths)]
    got, wanted = model(x.tokens[:, :n]), model(x.tokens)[:, :n]
    assert_close(got, wanted, atol=TOLERANCE, what=f"logits of the first {n} tokens alone")


language_model = Suite(
    "language_model",
    f"model(tokens int [B, T], ids from 0 to {IDS - 1}) -> float32 logits [B, T, V]",
    ModelSubject,
    (
        logits_are_finite_float32,
        causality,
        own_token_matters,
        previous_token_matters,
        order_matters,
        prefix_consistency,
        *model_laws(cases),
    ),
)

_left_padded = functools.partial(cases, padded="left")

padded_decoder = Suite(
    "padded_decoder",
    f"model(tokens int [B, T], ids from 0 to {IDS - 1}, valid bool [B, T], False at left padding) -> "
    "logits [B, T, V]",
    ModelSubject,
    (*padding_laws("left", _left_padded), *model_laws(_left_padded)),
)
"""The laws of decoders that take left-padded prompts, as for batched generation."""
