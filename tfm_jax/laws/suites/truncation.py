"""The laws of truncation sampling: top-k, top-p (nucleus) and min-p.

Each takes logits [B, V] and a number, and returns the logits with the truncated tokens masked by -inf.
"""

import numpy as np
from hypothesis.strategies import SearchStrategy

from tfm_jax.laws.law import Law, Suite, Violation, assert_close, law, show
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, assert_dtype_preserved, cases, softmax

__all__ = ["min_p", "top_k", "top_p"]

MARGIN = 1e-4
"""Closer to p than this, rounding may decide whether a token is kept."""


def kept(out: np.ndarray) -> np.ndarray:
    """Which tokens are kept, bool [B, V]."""
    return out != -np.inf


def assert_kept(out: np.ndarray, wanted: np.ndarray, what: str = "output") -> None:
    """Raises ``Violation`` where the kept tokens are not the wanted ones, bool [B, V]."""
    if (kept(out) != wanted).any():
        raise Violation(f"{what}: got tokens {_ids(kept(out))} kept; wanted {_ids(wanted)}")


def _ids(keep: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(example).tolist() for example in keep]


def truncation_laws(cases: SearchStrategy[LogitsCase]) -> tuple[Law, ...]:
    """The laws of all truncation samplers, with these cases."""

    @law(cases)
    def kept_logits_are_unchanged(truncate: LogitsSubject, x: LogitsCase) -> None:
        """Each logit is unchanged, to the bit, or -inf."""
        got = truncate(x.logits, x.number)
        assert_close(got, np.where(kept(got), x.logits, -np.inf))

    @law(cases)
    def most_likely_tokens_are_kept(truncate: LogitsSubject, x: LogitsCase) -> None:
        """The most likely token is kept, and no masked token is more likely than a kept one."""
        keep = kept(truncate(x.logits, x.number))
        least = np.where(keep, x.logits, np.inf).min(-1, keepdims=True)
        if not keep.any(-1).all() or (~keep & (x.logits > least)).any():
            raise Violation(f"output: got tokens {_ids(keep)} of {show(x.logits)}; wanted the most likely")

    @law(cases, severity="contract")
    def ties_are_kept_together(truncate: LogitsSubject, x: LogitsCase) -> None:
        """Of equally likely tokens, all are kept or none."""
        keep = kept(truncate(x.tied, x.number))
        equal = x.tied[:, None, :] == x.tied[:, :, None]
        if (equal & (keep[:, None, :] != keep[:, :, None])).any():
            raise Violation(
                f"output: got tokens {_ids(keep)} of {show(x.tied)}; wanted all of a tie, or none"
            )

    @law(cases)
    def shift_invariance(truncate: LogitsSubject, x: LogitsCase) -> None:
        """Adding a number to all logits keeps the same tokens."""
        shift = np.float32(x.rng.choice([-64, 16]))
        wanted = kept(truncate(x.logits, x.number))
        assert_kept(truncate(x.logits + shift, x.number), wanted, f"output of x + {shift:g}")

    @law(cases)
    def masked_tokens_are_ignored(truncate: LogitsSubject, x: LogitsCase) -> None:
        """An additional masked token (-inf) stays masked and does not change the output of the others."""
        masked = np.full((len(x.logits), 1), -np.inf, np.float32)
        got = truncate(np.concatenate([masked, x.logits], axis=1), x.number)
        wanted = np.concatenate([masked, truncate(x.logits, x.number)], axis=1)
        assert_close(got, wanted, what="output with a masked token more")

    @law(cases, severity="contract")
    def dtype_is_preserved(truncate: LogitsSubject, x: LogitsCase) -> None:
        """bfloat16 logits give bfloat16, and keep the same tokens as in float32."""
        assert_dtype_preserved(truncate, x.logits, x.number)

    return (
        kept_logits_are_unchanged,
        most_likely_tokens_are_kept,
        ties_are_kept_together,
        shift_invariance,
        masked_tokens_are_ignored,
        dtype_is_preserved,
    )


def large_logits(cases: SearchStrategy[LogitsCase]) -> Law:
    """A law of samplers that truncate by probability, with these cases."""

    @law(cases)
    def large_logits(truncate: LogitsSubject, x: LogitsCase) -> None:
        """Logits of tens of thousands do not overflow: only the most likely token is kept."""
        logits = x.logits * np.float32(20_000)
        assert_kept(truncate(logits, x.number), logits == logits.max(-1, keepdims=True), "output of 20000 x")

    return large_logits


# Top-k


def _ks(V: int) -> list[int]:
    return sorted({1, 2, V - 1, V})


_top_k_cases = cases(_ks)


@law(_top_k_cases)
def keeps_the_k_most_likely(truncate: LogitsSubject, x: LogitsCase) -> None:
    """A token is kept if fewer than k tokens are more likely."""
    for logits in (x.logits, x.tied):
        n_likelier = (logits[:, None, :] > logits[:, :, None]).sum(-1)
        assert_kept(truncate(logits, x.number), n_likelier < x.number)


@law(_top_k_cases)
def exactly_k(truncate: LogitsSubject, x: LogitsCase) -> None:
    """Without ties, exactly k tokens are kept, or all unmasked ones if there are fewer."""
    for logits in (x.logits, x.some_masked):
        got = kept(truncate(logits, x.number)).sum(-1)
        wanted = np.minimum(x.number, kept(logits).sum(-1))
        if (got != wanted).any():
            raise Violation(f"number of kept tokens: got {got.tolist()}; wanted {wanted.tolist()}")


@law(_top_k_cases)
def k_of_all_is_identity(truncate: LogitsSubject, x: LogitsCase) -> None:
    """A k as large as the vocabulary changes nothing."""
    for logits in (x.logits, x.some_masked):
        assert_close(truncate(logits, logits.shape[-1]), logits, what="output with k = V")


@law(_top_k_cases)
def composes_to_the_smaller_k(truncate: LogitsSubject, x: LogitsCase) -> None:
    """Top-j followed by top-k is top-min(j, k)."""
    for j in (x.number, int(x.rng.choice(_ks(x.logits.shape[-1])))):
        got, wanted = truncate(truncate(x.logits, j), x.number), truncate(x.logits, min(j, x.number))
        assert_close(got, wanted, what=f"output after top-{j}")


# Top-p


def _clear_of_p(x: LogitsCase) -> bool:
    """Whether no cumulative probability is within the margin of p."""
    sums = np.cumsum(-np.sort(-softmax(x.logits), axis=-1), axis=-1)
    return bool((abs(sums - x.number) > MARGIN).all())


_top_p_cases = cases(lambda V: (0.5, 0.05, 0.3, 0.75, 0.9, 0.99)).filter(_clear_of_p)


@law(_top_p_cases)
def reaches_p(truncate: LogitsSubject, x: LogitsCase) -> None:
    """The kept tokens have at least probability p together: the token that crosses p is kept."""
    got = (softmax(x.logits) * kept(truncate(x.logits, x.number))).sum(-1)
    if (got < x.number).any():
        raise Violation(f"kept probability: got {got.round(4).tolist()}; wanted at least {x.number}")


@law(_top_p_cases)
def smallest_set(truncate: LogitsSubject, x: LogitsCase) -> None:
    """The kept tokens, without the least likely of them, have less than probability p together."""
    probabilities = softmax(x.logits) * kept(truncate(x.logits, x.number))
    rest = probabilities.sum(-1) - np.where(probabilities > 0, probabilities, np.inf).min(-1)
    if (rest >= x.number).any():
        got = rest.round(4).tolist()
        raise Violation(f"kept probability without the last token: got {got}; wanted less than {x.number}")


@law(_top_p_cases)
def at_least_one_token(truncate: LogitsSubject, x: LogitsCase) -> None:
    """For p near 0, only the most likely token is kept."""
    for p in (1e-3, 1e-9):
        wanted = x.logits == x.logits.max(-1, keepdims=True)
        assert_kept(truncate(x.logits, p), wanted, f"output with p = {p}")


@law(_top_p_cases)
def p_1_is_identity(truncate: LogitsSubject, x: LogitsCase) -> None:
    """p = 1 keeps every token, however unlikely."""
    for logits in (x.logits, 100 * x.logits, x.some_masked):
        assert_close(truncate(logits, 1.0), logits, what="output with p = 1")


@law(_top_p_cases)
def monotone_in_p(truncate: LogitsSubject, x: LogitsCase) -> None:
    """A larger p keeps all tokens that a smaller one keeps."""
    smaller = kept(truncate(x.logits, x.number / 2))
    got = truncate(x.logits, x.number)
    assert_kept(got, kept(got) | smaller, f"output, compared with that with p = {x.number / 2}")


# Min-p


def _relative_probabilities(logits: np.ndarray) -> np.ndarray:
    probabilities = softmax(logits)
    return probabilities / probabilities.max(-1, keepdims=True)


def _clear_of_min_p(x: LogitsCase) -> bool:
    """Whether no relative probability is within the margin of p."""
    return bool((abs(_relative_probabilities(x.logits) - x.number) > MARGIN).all())


_min_p_cases = cases(lambda V: (0.5, 0.02, 0.1, 0.3)).filter(_clear_of_min_p)


@law(_min_p_cases)
def relative_threshold(truncate: LogitsSubject, x: LogitsCase) -> None:
    """A token is kept if it is at least p times as likely as the most likely one."""
    for logits in (x.logits, x.some_masked):
        assert_kept(truncate(logits, x.number), _relative_probabilities(logits) >= x.number)


@law(_min_p_cases)
def p_1_keeps_the_most_likely(truncate: LogitsSubject, x: LogitsCase) -> None:
    """p = 1 keeps the most likely token, and its ties, only."""
    for logits in (x.logits, x.tied):
        wanted = logits == logits.max(-1, keepdims=True)
        assert_kept(truncate(logits, 1.0), wanted, "output with p = 1")


@law(_min_p_cases)
def idempotent(truncate: LogitsSubject, x: LogitsCase) -> None:
    """Truncating again with the same p, or a smaller one, changes nothing."""
    once = truncate(x.logits, x.number)
    for p in (x.number, x.number / 2):
        assert_close(truncate(once, p), once, what=f"output of the output, with p = {p}")


top_k = Suite(
    "top_k",
    "truncate(logits [B, V], k int) -> [B, V], -inf for truncated tokens; ties with the k-th token are kept",
    LogitsSubject,
    (
        keeps_the_k_most_likely,
        exactly_k,
        k_of_all_is_identity,
        composes_to_the_smaller_k,
        *truncation_laws(_top_k_cases),
    ),
)

top_p = Suite(
    "top_p",
    "truncate(logits [B, V], p float in (0, 1]) -> [B, V], -inf for truncated tokens; ties with the least "
    "likely token that is needed are kept",
    LogitsSubject,
    (
        reaches_p,
        smallest_set,
        at_least_one_token,
        p_1_is_identity,
        monotone_in_p,
        large_logits(_top_p_cases),
        *truncation_laws(_top_p_cases),
    ),
)

min_p = Suite(
    "min_p",
    "truncate(logits [B, V], p float in (0, 1]) -> [B, V], -inf for truncated tokens",
    LogitsSubject,
    (
        relative_threshold,
        p_1_keeps_the_most_likely,
        idempotent,
        large_logits(_min_p_cases),
        *truncation_laws(_min_p_cases),
    ),
)
