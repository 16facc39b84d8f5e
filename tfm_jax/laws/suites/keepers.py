"""What functions have in common that keep the likelier tokens of a row and close the others."""

import numpy as np
from hypothesis.strategies import SearchStrategy

from tfm_jax.laws.law import Law, Violation, law, same, show
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, dtype_stays

__all__ = ["kept", "large_logits", "laws_of_keepers", "same_kept"]


def kept(out: np.ndarray) -> np.ndarray:
    """Which tokens are open, bool [B, V]."""
    return out != -np.inf


def same_kept(out: np.ndarray, wanted: np.ndarray, what: str = "output") -> None:
    """Raises ``Violation`` where other tokens are open than are wanted (bool, as the output)."""
    if (kept(out) != wanted).any():
        raise Violation(f"{what}: kept {_places(kept(out))}, wanted {_places(wanted)}")


def _places(opened: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in opened]


def laws_of_keepers(cases: SearchStrategy[LogitsCase]) -> tuple[Law, ...]:
    """The laws that all of them have, tried on these cases."""

    @law(cases)
    def kept_as_it_is(keep: LogitsSubject, x: LogitsCase) -> None:
        """A token keeps its logit, to the bit, or is closed by -inf."""
        got = keep(x.logits, x.number)
        same(got, np.where(kept(got), x.logits, -np.inf))

    @law(cases)
    def the_likeliest(keep: LogitsSubject, x: LogitsCase) -> None:
        """The likeliest token is kept, and none is that is less likely than one that is closed."""
        opened = kept(keep(x.logits, x.number))
        least = np.where(opened, x.logits, np.inf).min(-1, keepdims=True)
        if not opened.any(-1).all() or (~opened & (x.logits > least)).any():
            raise Violation(f"kept {_places(opened)} of {show(x.logits)}")

    @law(cases)
    def ties(keep: LogitsSubject, x: LogitsCase) -> None:
        """Of tokens that are equally likely all are kept, or none."""
        opened = kept(keep(x.tied, x.number))
        alike = x.tied[:, None, :] == x.tied[:, :, None]
        if (alike & (opened[:, None, :] != opened[:, :, None])).any():
            raise Violation(f"kept {_places(opened)} of {show(x.tied)}")

    @law(cases)
    def shift(keep: LogitsSubject, x: LogitsCase) -> None:
        """One number added to all logits of a row keeps the same tokens."""
        far = np.float32(x.rng.choice([-64, 16]))
        same_kept(keep(x.logits + far, x.number), kept(keep(x.logits, x.number)), f"output of x + {far:g}")

    @law(cases)
    def closed_tokens_count_for_nothing(keep: LogitsSubject, x: LogitsCase) -> None:
        """A closed token (-inf) more in the vocabulary stays closed, and changes nothing for the others."""
        closed = np.full((len(x.logits), 1), -np.inf, np.float32)
        got = keep(np.concatenate([closed, x.logits], axis=1), x.number)
        same(got, np.concatenate([closed, keep(x.logits, x.number)], axis=1), what="output of one token more")

    @law(cases)
    def dtype_is_kept(keep: LogitsSubject, x: LogitsCase) -> None:
        """bfloat16 in is bfloat16 out, and the tokens are those that float32 keeps."""
        dtype_stays(keep, x.logits, x.number)

    return kept_as_it_is, the_likeliest, ties, shift, closed_tokens_count_for_nothing, dtype_is_kept


def large_logits(cases: SearchStrategy[LogitsCase]) -> Law:
    """A law of those that keep tokens by their probability, tried on these cases."""

    @law(cases)
    def large_logits(keep: LogitsSubject, x: LogitsCase) -> None:
        """Logits of ten thousands overflow nothing: the likeliest has all the probability."""
        logits = x.logits * np.float32(20_000)
        same_kept(keep(logits, x.number), logits == logits.max(-1, keepdims=True), "output of 20000 x")

    return large_logits
