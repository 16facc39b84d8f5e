"""The laws of temperature scaling, ``scale(logits [B, V], t) -> [B, V]``."""

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law, show
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, assert_dtype_preserved, cases, softmax

__all__ = ["temperature"]

any_case = cases(lambda V: (2.0, 0.5, 0.7, 1.3))


@law(any_case)
def definition(scale: LogitsSubject, x: LogitsCase) -> None:
    """Logits are divided by t; masked tokens (-inf) stay masked."""
    for logits in (x.logits, x.some_masked):
        wanted = logits.astype(np.float64) / x.number
        assert_close(scale(logits, x.number), wanted, atol=TOLERANCE, what=f"output of {show(logits)}")


@law(any_case)
def temperature_1_is_identity(scale: LogitsSubject, x: LogitsCase) -> None:
    """Temperature 1 changes nothing, not by one bit."""
    assert_close(scale(x.logits, 1.0), x.logits, what="output at t = 1")


@law(any_case)
def temperatures_multiply(scale: LogitsSubject, x: LogitsCase) -> None:
    """Two temperatures in sequence are their product."""
    other = 1.7
    got, wanted = scale(scale(x.logits, other), x.number), scale(x.logits, other * x.number)
    what = f"output after temperature {other}, compared with that of the product"
    assert_close(got, wanted, atol=TOLERANCE, what=what)


@law(any_case)
def order_is_preserved(scale: LogitsSubject, x: LogitsCase) -> None:
    """A temperature does not change the order of the tokens by probability."""
    got = scale(x.logits, x.number)
    if (got.argsort(-1) != x.logits.argsort(-1)).any():
        raise Violation(f"output of {show(x.logits)}: got {show(got)}; wanted the same order")


@law(any_case)
def limits(scale: LogitsSubject, x: LogitsCase) -> None:
    """Near t = 0 the most likely token gets all the probability; for large t all tokens get the same."""
    cold, hot = (softmax(scale(x.logits, t)) for t in (0.01, 1e4))
    most_likely = x.logits == x.logits.max(-1, keepdims=True)
    assert_close(cold, most_likely, atol=1e-3, what="probabilities at t = 0.01")
    assert_close(hot, 1 / x.logits.shape[-1], atol=1e-3, what="probabilities at t = 10000")


@law(any_case, severity="contract")
def dtype_is_preserved(scale: LogitsSubject, x: LogitsCase) -> None:
    """bfloat16 logits give a bfloat16 output, close to the float32 output."""
    assert_dtype_preserved(scale, x.logits, x.number, atol=2**-7)


temperature = Suite(
    "temperature",
    "scale(logits [B, V], t float) -> [B, V]",
    LogitsSubject,
    (
        definition,
        temperature_1_is_identity,
        temperatures_multiply,
        order_is_preserved,
        limits,
        dtype_is_preserved,
    ),
)
