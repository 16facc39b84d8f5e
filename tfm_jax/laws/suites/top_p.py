"""The laws of top-p, nucleus sampling: of any ``f(logits [B, V], p) -> [B, V]``."""

import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, cases, probabilities
from tfm_jax.laws.suites.keepers import kept, large_logits, laws_of_keepers, same_kept

__all__ = ["top_p"]

NEAR = 1e-4
"""So near to p, rounding may decide whether a token is kept."""


def clear(x: LogitsCase) -> bool:
    """Whether no number of the likeliest tokens has all but exactly p."""
    sums = np.cumsum(-np.sort(-probabilities(x.logits), axis=-1), axis=-1)
    return bool((abs(sums - x.number) > NEAR).all())


some = cases(lambda V: (0.5, 0.05, 0.3, 0.75, 0.9, 0.99)).filter(clear)


@law(some)
def reaches_p(keep: LogitsSubject, x: LogitsCase) -> None:
    """What is kept has at least probability p: the token that crosses p is among them."""
    got = (probabilities(x.logits) * kept(keep(x.logits, x.number))).sum(-1)
    if (got < x.number).any():
        raise Violation(f"kept probability {got.round(4).tolist()}, wanted at least {x.number}")


@law(some)
def no_more_than_needed(keep: LogitsSubject, x: LogitsCase) -> None:
    """Without the least likely of what is kept, the rest has less than p."""
    share = probabilities(x.logits) * kept(keep(x.logits, x.number))
    rest = share.sum(-1) - np.where(share > 0, share, np.inf).min(-1)
    if (rest >= x.number).any():
        raise Violation(f"kept, but for the last, {rest.round(4).tolist()}, wanted less than {x.number}")


@law(some)
def one_stays(keep: LogitsSubject, x: LogitsCase) -> None:
    """However small p is, the likeliest token is kept, and then it alone."""
    for p in (1e-3, 1e-9):
        same_kept(keep(x.logits, p), x.logits == x.logits.max(-1, keepdims=True), f"output with p = {p}")


@law(some)
def at_1_nothing_changes(keep: LogitsSubject, x: LogitsCase) -> None:
    """p = 1 keeps every token, however unlikely."""
    for logits in (x.logits, 100 * x.logits, x.some_closed):
        same(keep(logits, 1.0), logits, what="output with p = 1")


@law(some)
def wider(keep: LogitsSubject, x: LogitsCase) -> None:
    """A larger p keeps all that a smaller one keeps."""
    little = kept(keep(x.logits, x.number / 2))
    got = keep(x.logits, x.number)
    same_kept(got, kept(got) | little, f"output, beside that with p = {x.number / 2}")


top_p = Suite(
    "top_p",
    "keep(logits [B, V], p float in (0, 1]) -> [B, V], -inf what is not kept; tokens equal to the least "
    "likely that is needed are kept with it",
    LogitsSubject,
    (
        reaches_p,
        no_more_than_needed,
        one_stays,
        at_1_nothing_changes,
        wider,
        large_logits(some),
        *laws_of_keepers(some),
    ),
)
