"""Bugs of what keeps the likelier tokens and closes the others, whichever it is."""

import jax.numpy as jnp
import numpy as np

from tests.mutants.mutant import Mutant


def shut(logits, keep):
    return jnp.where(keep, logits, -jnp.inf)


def opened(out):
    return out > -jnp.inf


def mutants(right):
    """By name the wrong functions that are made of a right one, ``right(logits, number)``."""

    def cut_by_rank(logits, number):
        out = right(logits, number)
        again = (out[..., None, :] == out[..., None]) & np.tri(out.shape[-1], k=-1, dtype=bool)[None]
        return shut(out, ~again.any(-1))

    return {
        "what is closed gets a low logit instead": (
            lambda x, number: jnp.maximum(right(x, number), -1e4),
            ["kept_as_it_is"],
        ),
        "what is kept is normalised": (
            lambda x, number: right(x, number) - jnp.log(jnp.exp(right(x, number)).sum(-1, keepdims=True)),
            ["kept_as_it_is"],
        ),
        "the least likely are kept": (
            lambda x, number: shut(x, opened(right(-x, number))),
            ["the_likeliest"],
        ),
        "the sign of a logit is lost": (
            lambda x, number: shut(x, opened(right(jnp.abs(x), number))),
            ["the_likeliest", "shift"],
        ),
        "equal tokens are cut by their number": Mutant(cut_by_rank, ["ties"], "sgl-project/sglang#33539"),
        "a closed token is taken for a logit of 0": (
            lambda x, number: right(jnp.where(x == -jnp.inf, 0, x), number),
            ["closed_tokens_count_for_nothing"],
        ),
        "another dtype comes out": (
            lambda x, number: right(x.astype(jnp.float32), number),
            ["dtype_is_kept"],
        ),
    }
