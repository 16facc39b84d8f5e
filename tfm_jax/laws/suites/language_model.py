"""The laws of language models: of any ``model(tokens) -> logits``."""

import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.suites.cases.tokens import (
    IDS,
    LONGER,
    TOLERANCE,
    ModelSubject,
    TokensCase,
    cases,
    changed,
    of_every_model,
    of_padding,
)

__all__ = ["language_model", "padded_decoder"]


@law(cases())
def logits(model: ModelSubject, x: TokensCase) -> None:
    """Every position gives a finite number for each token of the vocabulary, in float32."""
    out = model(*x.arguments)
    if out.dtype != np.float32 or out.shape[-1] < IDS or not np.isfinite(out).all():
        got = f"{out.dtype} [..., {out.shape[-1]}]"
        raise Violation(f"got {got}, wanted finite float32 [..., V], V at least {IDS}")


@law(cases(lambda B, T: T > 1))
def causality(model: ModelSubject, x: TokensCase) -> None:
    """What comes after a token does not change its logits by one bit."""
    at = 1 + x.seed % (x.tokens.shape[1] - 1)
    same(
        model(x.another(slice(at, None)))[:, :at],
        model(x.tokens)[:, :at],
        what=f"logits before position {at}, with other tokens from there on",
    )


@law(cases())
def itself(model: ModelSubject, x: TokensCase) -> None:
    """A position sees its own token: another one gives other logits."""
    at = x.seed % x.tokens.shape[1]
    what = f"logits of position {at}, with another token"
    changed(model(x.another(at))[:, at], model(x.tokens)[:, at], what)


@law(cases(lambda B, T: T > 1))
def context(model: ModelSubject, x: TokensCase) -> None:
    """The same token after another one gives other logits."""
    at = 1 + x.seed % (x.tokens.shape[1] - 1)
    changed(
        model(x.another(at - 1))[:, at],
        model(x.tokens)[:, at],
        f"logits of position {at}, with another token before it",
    )


@law(cases(lambda B, T: T > 2))
def order_matters(model: ModelSubject, x: TokensCase) -> None:
    """Two earlier tokens in the other order give other logits."""
    at = 2 + x.seed % (x.tokens.shape[1] - 2)
    tokens = x.tokens.copy()
    tokens[:, at - 1] = (tokens[:, at - 2] + 1 + x.seed % (IDS - 1)) % IDS
    swapped = tokens.copy()
    swapped[:, [at - 2, at - 1]] = tokens[:, [at - 1, at - 2]]
    what = f"logits of position {at} of {tokens.tolist()}, with the two before it exchanged"
    changed(model(swapped)[:, at], model(tokens)[:, at], what)


@law(cases(lambda B, T: B == 1 and T > 1))
def prefix(model: ModelSubject, x: TokensCase) -> None:
    """The beginning of a text gives the logits that it gives within the whole."""
    lengths = [n for n in LONGER if n < x.tokens.shape[1]]
    n = lengths[x.seed % len(lengths)]
    same(
        model(x.tokens[:, :n]),
        model(x.tokens)[:, :n],
        atol=TOLERANCE,
        what=f"logits of the first {n} alone",
    )


language_model = Suite(
    "language_model",
    f"model(tokens int [B, T], ids from 0 to {IDS - 1}) -> float32 logits [B, T, V]",
    ModelSubject,
    (logits, causality, itself, context, order_matters, prefix, *of_every_model(cases)),
)


def _left(*args, **options):
    return cases(*args, padded="left", **options)


padded_decoder = Suite(
    "padded_decoder",
    f"model(tokens int [B, T], ids from 0 to {IDS - 1}, valid bool [B, T], False at padding, which stands "
    "left) -> logits [B, T, V]",
    ModelSubject,
    (*of_padding("left", _left), *of_every_model(_left)),
)
"""The laws of decoders that read prompts padded on the left, as for ``generate``."""
