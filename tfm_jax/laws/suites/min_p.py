"""The laws of min-p: of any ``f(logits [B, V], p) -> [B, V]``."""

import numpy as np

from tfm_jax.laws.law import Suite, law, same
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, cases, probabilities
from tfm_jax.laws.suites.keepers import large_logits, laws_of_keepers, same_kept

__all__ = ["min_p"]

NEAR = 1e-4
"""So near to p, rounding may decide whether a token is kept."""


def beside_the_likeliest(logits: np.ndarray) -> np.ndarray:
    share = probabilities(logits)
    return share / share.max(-1, keepdims=True)


def clear(x: LogitsCase) -> bool:
    """Whether no token is all but exactly p times as likely as the likeliest."""
    return bool((abs(beside_the_likeliest(x.logits) - x.number) > NEAR).all())


some = cases(lambda V: (0.5, 0.02, 0.1, 0.3)).filter(clear)


@law(some)
def definition(keep: LogitsSubject, x: LogitsCase) -> None:
    """A token is kept that is at least p times as likely as the likeliest, whatever the others are."""
    for logits in (x.logits, x.some_closed):
        same_kept(keep(logits, x.number), beside_the_likeliest(logits) >= x.number)


@law(some)
def at_1_the_likeliest(keep: LogitsSubject, x: LogitsCase) -> None:
    """p = 1 keeps the likeliest token, and those that equal it."""
    for logits in (x.logits, x.tied):
        same_kept(keep(logits, 1.0), logits == logits.max(-1, keepdims=True), "output with p = 1")


@law(some)
def again(keep: LogitsSubject, x: LogitsCase) -> None:
    """Once more with the same p, or with a smaller one, changes nothing: the likeliest is the same."""
    once = keep(x.logits, x.number)
    for p in (x.number, x.number / 2):
        same(keep(once, p), once, what=f"output after that, with p = {p}")


min_p = Suite(
    "min_p",
    "keep(logits [B, V], p float in (0, 1]) -> [B, V], -inf what is not kept",
    LogitsSubject,
    (definition, at_1_the_likeliest, again, large_logits(some), *laws_of_keepers(some)),
)
