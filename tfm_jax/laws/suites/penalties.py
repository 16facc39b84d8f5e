"""The laws of the repetition and frequency penalties, ``penalize(logits, tokens, penalty) -> logits``."""

import numpy as np
from hypothesis.strategies import SearchStrategy

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, assert_close, law, show
from tfm_jax.laws.suites.cases.logits import (
    PADDING,
    HistoryCase,
    LogitsSubject,
    assert_dtype_preserved,
    histories,
)

__all__ = ["frequency_penalty", "repetition_penalty"]

SIGNATURE = "penalize(logits [B, V], tokens int [B, M], penalty float) -> [B, V]; tokens are -1 at padding"
repetition_cases = histories((2.0, 1.2, 0.8))
frequency_cases = histories((1.0, 0.3, -0.5))


def penalty_laws(cases: SearchStrategy[HistoryCase], neutral: float) -> tuple[Law, ...]:
    """The laws of both penalties, with these cases; ``neutral`` is the penalty that changes nothing."""

    @law(cases)
    def unseen_tokens_are_unchanged(penalize: LogitsSubject, x: HistoryCase) -> None:
        """The logit of a token that has not occurred is unchanged, to the bit."""
        got, unseen = penalize(x.logits, x.tokens, x.number), x.counts == 0
        assert_close(got[unseen], x.logits[unseen], what="output at tokens that have not occurred")

    @law(cases)
    def padding_is_ignored(penalize: LogitsSubject, x: HistoryCase) -> None:
        """Padding (-1) is no token, in particular not the last one of the vocabulary."""
        got = penalize(x.logits, np.full_like(x.tokens, PADDING), x.number)
        assert_close(got, x.logits, what="output after padding only")

    @law(cases)
    def permutation_invariance(penalize: LogitsSubject, x: HistoryCase) -> None:
        """The order of the tokens does not matter."""
        other = x.rng.permuted(x.tokens, axis=1)
        got, wanted = penalize(x.logits, other, x.number), penalize(x.logits, x.tokens, x.number)
        assert_close(got, wanted, what=f"output with tokens = {other.tolist()}")

    @law(cases)
    def neutral_penalty_is_identity(penalize: LogitsSubject, x: HistoryCase) -> None:
        """The neutral penalty changes nothing, and masked tokens (-inf) stay masked with any penalty."""
        got = penalize(x.logits, x.tokens, neutral)
        assert_close(got, x.logits, what=f"output with penalty = {neutral}")
        masked = np.full_like(x.logits, -np.inf)
        assert_close(penalize(masked, x.tokens, x.number), masked, what="output of masked tokens")

    @law(cases, severity="contract")
    def dtype_is_preserved(penalize: LogitsSubject, x: HistoryCase) -> None:
        """bfloat16 logits give a bfloat16 output, close to the float32 output."""
        assert_dtype_preserved(penalize, x.logits, x.tokens, x.number, atol=2**-7)

    return (
        unseen_tokens_are_unchanged,
        padding_is_ignored,
        permutation_invariance,
        neutral_penalty_is_identity,
        dtype_is_preserved,
    )


@law(repetition_cases)
def divided_or_multiplied(penalize: LogitsSubject, x: HistoryCase) -> None:
    """The logit of a token that has occurred is divided by the penalty if positive, else multiplied by it."""
    wide = x.logits.astype(np.float64)
    wanted = np.where(x.counts > 0, np.where(wide > 0, wide / x.number, wide * x.number), wide)
    assert_close(penalize(x.logits, x.tokens, x.number), wanted, atol=TOLERANCE)


@law(repetition_cases)
def never_increases_logits(penalize: LogitsSubject, x: HistoryCase) -> None:
    """A penalty above 1 increases no logit, positive or negative."""
    for logits in (x.logits, x.logits - 8):
        got = penalize(logits, x.tokens, 1.5)
        if (got > logits).any():
            raise Violation(
                f"output of {show(logits)} with penalty = 1.5: got {show(got)}; wanted none larger"
            )


@law(repetition_cases)
def applied_once_per_token(penalize: LogitsSubject, x: HistoryCase) -> None:
    """A token is penalized once, however often it has occurred."""
    twice = np.concatenate([x.tokens, x.tokens], axis=1)
    got, wanted = penalize(x.logits, twice, x.number), penalize(x.logits, x.tokens, x.number)
    assert_close(got, wanted, what="output with all tokens twice")


@law(repetition_cases)
def inverse_penalty_restores_logits(penalize: LogitsSubject, x: HistoryCase) -> None:
    """Applying 1 / penalty after the penalty restores the logits."""
    got = penalize(penalize(x.logits, x.tokens, x.number), x.tokens, 1 / x.number)
    assert_close(got, x.logits, atol=TOLERANCE, what="output of the output with 1 / penalty")


@law(frequency_cases)
def penalty_times_count_is_subtracted(penalize: LogitsSubject, x: HistoryCase) -> None:
    """The penalty, times the number of occurrences, is subtracted from a token's logit."""
    wanted = x.logits.astype(np.float64) - x.number * x.counts
    assert_close(penalize(x.logits, x.tokens, x.number), wanted, atol=TOLERANCE)


@law(frequency_cases)
def proportional_to_count(penalize: LogitsSubject, x: HistoryCase) -> None:
    """Doubling all occurrences is the same as doubling the penalty."""
    twice = np.concatenate([x.tokens, x.tokens], axis=1)
    got, wanted = penalize(x.logits, twice, x.number), penalize(x.logits, x.tokens, 2 * x.number)
    assert_close(got, wanted, atol=TOLERANCE, what="output with all tokens twice")


@law(frequency_cases)
def shift_equivariance(penalize: LogitsSubject, x: HistoryCase) -> None:
    """Adding a number to all logits adds it to the output, which leaves the probabilities unchanged."""
    shift = np.float32(x.rng.choice([-64, 16]))
    got = penalize(x.logits + shift, x.tokens, x.number)
    wanted = penalize(x.logits, x.tokens, x.number) + shift
    assert_close(got, wanted, atol=TOLERANCE, what=f"output of x + {shift:g}")


repetition_penalty = Suite(
    "repetition_penalty",
    SIGNATURE,
    LogitsSubject,
    (
        divided_or_multiplied,
        never_increases_logits,
        applied_once_per_token,
        inverse_penalty_restores_logits,
        *penalty_laws(repetition_cases, neutral=1.0),
    ),
)

frequency_penalty = Suite(
    "frequency_penalty",
    SIGNATURE,
    LogitsSubject,
    (
        penalty_times_count_is_subtracted,
        proportional_to_count,
        shift_equivariance,
        *penalty_laws(frequency_cases, neutral=0.0),
    ),
)
