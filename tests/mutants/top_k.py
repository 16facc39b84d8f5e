"""Mutants of top-k."""

import jax.numpy as jnp

from tests.mutants import _truncation as truncation
from tests.mutants._mutant import Mutant
from tests.mutants._truncation import mask_out

JIT = False  # k is a Python number


def threshold(logits, k):
    return jnp.sort(logits)[..., logits.shape[-1] - k, None]


def truncate(logits, k):
    return mask_out(logits, logits >= threshold(logits, k))


def unmasks_with_k_of_all(logits, k):
    out = truncate(logits, k)
    return jnp.nan_to_num(out, neginf=-1e4) if k == logits.shape[-1] else out


def counts_masked_tokens(logits, k):
    large = jnp.nan_to_num(logits, neginf=9.0)
    return mask_out(logits, large >= threshold(large, k))


RIGHT = truncate
MUTANTS = {
    "the k-th token is dropped": Mutant(
        lambda x, k: mask_out(x, x > threshold(x, k)),
        ["exactly_k", "keeps_the_k_most_likely", "most_likely_tokens_are_kept"],
    ),
    "one token more than k": Mutant(
        lambda x, k: truncate(x, min(k + 1, x.shape[-1])),
        ["exactly_k", "keeps_the_k_most_likely"],
    ),
    "at most V - 1 tokens": Mutant(
        lambda x, k: truncate(x, min(k, x.shape[-1] - 1)), ["k_of_all_is_identity", "exactly_k"]
    ),
    "k = V unmasks masked tokens": Mutant(unmasks_with_k_of_all, ["k_of_all_is_identity"]),
    "the threshold of the first example serves all": Mutant(
        lambda x, k: mask_out(x, x >= threshold(x, k)[:1]),
        ["exactly_k", "keeps_the_k_most_likely"],
    ),
    "masked tokens count in k": Mutant(counts_masked_tokens, ["exactly_k", "composes_to_the_smaller_k"]),
    "k is less than the number of unmasked tokens": Mutant(
        lambda x, k: truncate(x, min(k, max(1, int((x > -jnp.inf).sum(-1).min()) - 1))),
        ["composes_to_the_smaller_k"],
    ),
    **truncation.mutants(truncate),
}
