"""The laws of a temperature: of any ``f(logits [B, V], t) -> [B, V]``."""

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same, show
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, cases, dtype_stays, probabilities

__all__ = ["temperature"]

some = cases(lambda V: (2.0, 0.5, 0.7, 1.3))


@law(some)
def definition(scaled: LogitsSubject, x: LogitsCase) -> None:
    """The logits are divided by t; one that is closed (-inf) stays so."""
    for logits in (x.logits, x.some_closed):
        wanted = logits.astype(np.float64) / x.number
        same(scaled(logits, x.number), wanted, atol=TOLERANCE, what=f"output of {show(logits)}")


@law(some)
def at_1_nothing_changes(scaled: LogitsSubject, x: LogitsCase) -> None:
    """A temperature of 1 changes nothing, not one bit."""
    same(scaled(x.logits, 1.0), x.logits, what="output at t = 1")


@law(some)
def one_after_the_other(scaled: LogitsSubject, x: LogitsCase) -> None:
    """A temperature after another is their product."""
    other = 1.7
    got, wanted = scaled(scaled(x.logits, other), x.number), scaled(x.logits, other * x.number)
    same(got, wanted, atol=TOLERANCE, what=f"output after that of {other}, beside that of the product")


@law(some)
def the_likeliest_stays(scaled: LogitsSubject, x: LogitsCase) -> None:
    """Tokens keep their order: at no temperature does a less likely one become the likelier."""
    got = scaled(x.logits, x.number)
    if (got.argsort(-1) != x.logits.argsort(-1)).any():
        raise Violation(f"output: got {show(got)} of {show(x.logits)}, wanted it in the same order")


@law(some)
def cold_and_hot(scaled: LogitsSubject, x: LogitsCase) -> None:
    """Near 0 the likeliest token gets all the probability, at a high temperature all get the same."""
    cold, hot = (probabilities(scaled(x.logits, t)) for t in (0.01, 1e4))
    likeliest = x.logits == x.logits.max(-1, keepdims=True)
    same(cold, likeliest, atol=1e-3, what="probabilities at t = 0.01")
    same(hot, 1 / x.logits.shape[-1], atol=1e-3, what="probabilities at t = 10000")


@law(some)
def dtype_is_kept(scaled: LogitsSubject, x: LogitsCase) -> None:
    """bfloat16 in is bfloat16 out, and near the output in float32."""
    dtype_stays(scaled, x.logits, x.number, atol=2**-7)


temperature = Suite(
    "temperature",
    "scaled(logits [B, V], t float) -> [B, V]",
    LogitsSubject,
    (
        definition,
        at_1_nothing_changes,
        one_after_the_other,
        the_likeliest_stays,
        cold_and_hot,
        dtype_is_kept,
    ),
)
