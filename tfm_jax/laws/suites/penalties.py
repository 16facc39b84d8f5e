"""The laws of penalties on the tokens that a row has already: of any ``f(logits, tokens, penalty)``."""

import numpy as np
from hypothesis.strategies import SearchStrategy

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, law, same, show
from tfm_jax.laws.suites.cases.logits import HOLE, HistoryCase, LogitsSubject, dtype_stays, histories

__all__ = ["frequency_penalty", "repetition_penalty"]

SIGNATURE = "penalised(logits [B, V], tokens int [B, M], penalty float) -> [B, V], tokens -1 in holes"
factors = histories((2.0, 1.2, 0.8))
amounts = histories((1.0, 0.3, -0.5))


def laws_of_both(cases: SearchStrategy[HistoryCase], nothing: float) -> tuple[Law, ...]:
    """The laws that both penalties have, tried on these cases; ``nothing`` is the penalty that is none."""

    @law(cases)
    def others_stay(penalised: LogitsSubject, x: HistoryCase) -> None:
        """A token that is not there keeps its logit, to the bit."""
        got, others = penalised(x.logits, x.tokens, x.number), x.counts == 0
        same(got[others], x.logits[others], what="output of the tokens that are not there")

    @law(cases)
    def holes_are_no_tokens(penalised: LogitsSubject, x: HistoryCase) -> None:
        """A hole (-1) stands for no token, not for the last of the vocabulary."""
        same(penalised(x.logits, np.full_like(x.tokens, HOLE), x.number), x.logits, what="output of holes")

    @law(cases)
    def order_does_not_matter(penalised: LogitsSubject, x: HistoryCase) -> None:
        """Where in its row a token stands does not matter."""
        other = x.rng.permuted(x.tokens, axis=1)
        got, wanted = penalised(x.logits, other, x.number), penalised(x.logits, x.tokens, x.number)
        same(got, wanted, what=f"output with tokens = {other.tolist()}")

    @law(cases)
    def no_penalty(penalised: LogitsSubject, x: HistoryCase) -> None:
        """The penalty that is none changes nothing, and what is closed (-inf) stays so at any."""
        same(penalised(x.logits, x.tokens, nothing), x.logits, what=f"output with penalty = {nothing}")
        closed = np.full_like(x.logits, -np.inf)
        same(penalised(closed, x.tokens, x.number), closed, what="output of closed tokens")

    @law(cases)
    def dtype_is_kept(penalised: LogitsSubject, x: HistoryCase) -> None:
        """bfloat16 in is bfloat16 out, and near the output in float32."""
        dtype_stays(penalised, x.logits, x.tokens, x.number, atol=2**-7)

    return others_stay, holes_are_no_tokens, order_does_not_matter, no_penalty, dtype_is_kept


@law(factors)
def divided_or_multiplied(penalised: LogitsSubject, x: HistoryCase) -> None:
    """A logit above 0 of a token that is there is divided by the penalty, one below 0 multiplied."""
    wide = x.logits.astype(np.float64)
    wanted = np.where(x.counts > 0, np.where(wide > 0, wide / x.number, wide * x.number), wide)
    same(penalised(x.logits, x.tokens, x.number), wanted, atol=TOLERANCE)


@law(factors)
def never_likelier(penalised: LogitsSubject, x: HistoryCase) -> None:
    """A penalty above 1 makes no logit larger, of whatever sign it is."""
    for logits in (x.logits, x.logits - 8):
        got = penalised(logits, x.tokens, 1.5)
        if (got > logits).any():
            raise Violation(
                f"output with penalty = 1.5: got {show(got)} of {show(logits)}, wanted none larger"
            )


@law(factors)
def once_a_token(penalised: LogitsSubject, x: HistoryCase) -> None:
    """A token is penalised once, however often it is there."""
    twice = np.concatenate([x.tokens, x.tokens], axis=1)
    got, wanted = penalised(x.logits, twice, x.number), penalised(x.logits, x.tokens, x.number)
    same(got, wanted, what="output with all tokens there twice")


@law(factors)
def there_and_back(penalised: LogitsSubject, x: HistoryCase) -> None:
    """1 / penalty after the penalty gives the logits back."""
    got = penalised(penalised(x.logits, x.tokens, x.number), x.tokens, 1 / x.number)
    same(got, x.logits, atol=TOLERANCE, what="output of the output with 1 / penalty")


@law(amounts)
def as_often_as_it_is_there(penalised: LogitsSubject, x: HistoryCase) -> None:
    """From a token's logit the penalty is taken as often as the token is there."""
    wanted = x.logits.astype(np.float64) - x.number * x.counts
    same(penalised(x.logits, x.tokens, x.number), wanted, atol=TOLERANCE)


@law(amounts)
def every_time(penalised: LogitsSubject, x: HistoryCase) -> None:
    """All tokens there twice cost twice as much."""
    twice = np.concatenate([x.tokens, x.tokens], axis=1)
    got, wanted = (
        penalised(x.logits, tokens, penalty)
        for tokens, penalty in ((twice, x.number), (x.tokens, 2 * x.number))
    )
    same(got, wanted, atol=TOLERANCE, what="output with all tokens there twice")


@law(amounts)
def shift(penalised: LogitsSubject, x: HistoryCase) -> None:
    """One number added to all logits is added to the output: the probabilities are the same."""
    far = np.float32(x.rng.choice([-64, 16]))
    got = penalised(x.logits + far, x.tokens, x.number)
    wanted = penalised(x.logits, x.tokens, x.number) + far
    same(got, wanted, atol=TOLERANCE, what=f"output of x + {far:g}")


repetition_penalty = Suite(
    "repetition_penalty",
    SIGNATURE,
    LogitsSubject,
    (divided_or_multiplied, never_likelier, once_a_token, there_and_back, *laws_of_both(factors, 1.0)),
)

frequency_penalty = Suite(
    "frequency_penalty",
    SIGNATURE,
    LogitsSubject,
    (as_often_as_it_is_there, every_time, shift, *laws_of_both(amounts, 0.0)),
)
