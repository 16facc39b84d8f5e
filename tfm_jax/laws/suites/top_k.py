"""The laws of top-k: of any ``f(logits [B, V], k) -> [B, V]`` that closes all but the k likeliest."""

import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.suites.cases.logits import LogitsCase, LogitsSubject, cases
from tfm_jax.laws.suites.keepers import kept, laws_of_keepers, same_kept

__all__ = ["top_k"]


def ks(V: int) -> list[int]:
    return sorted({1, 2, V - 1, V})


some = cases(ks)


@law(some)
def definition(keep: LogitsSubject, x: LogitsCase) -> None:
    """A token is kept where fewer than k are likelier."""
    for logits in (x.logits, x.tied):
        likelier = (logits[:, None, :] > logits[:, :, None]).sum(-1)
        same_kept(keep(logits, x.number), likelier < x.number)


@law(some)
def exactly_k(keep: LogitsSubject, x: LogitsCase) -> None:
    """Without ties exactly k tokens are kept, of which there are so many open."""
    for logits in (x.logits, x.some_closed):
        got = kept(keep(logits, x.number)).sum(-1)
        wanted = np.minimum(x.number, kept(logits).sum(-1))
        if (got != wanted).any():
            raise Violation(f"kept {got.tolist()} tokens, wanted {wanted.tolist()}")


@law(some)
def all_are_all(keep: LogitsSubject, x: LogitsCase) -> None:
    """A k as large as the vocabulary changes nothing."""
    for logits in (x.logits, x.some_closed):
        same(keep(logits, logits.shape[-1]), logits, what="output with k = V")


@law(some)
def again(keep: LogitsSubject, x: LogitsCase) -> None:
    """k of the j likeliest are the smaller number of the likeliest: again with the same k is once."""
    for j in (x.number, int(x.rng.choice(ks(x.logits.shape[-1])))):
        got, wanted = keep(keep(x.logits, j), x.number), keep(x.logits, min(j, x.number))
        same(got, wanted, what=f"output after that with k = {j}")


top_k = Suite(
    "top_k",
    "keep(logits [B, V], k int) -> [B, V], -inf what is not kept; tokens equal to the k-th are kept with it",
    LogitsSubject,
    (definition, exactly_k, all_are_all, again, *laws_of_keepers(some)),
)
