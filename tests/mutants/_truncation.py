"""Bugs of any truncation sampler."""

import jax.numpy as jnp
import numpy as np

from tests.mutants._mutant import Mutant


def mask_out(logits, keep):
    return jnp.where(keep, logits, -jnp.inf)


def kept(out):
    return out > -jnp.inf


def mutants(right):
    """Mutants of a correct sampler ``right(logits, number)``."""

    def keep_one_of_a_tie(logits, number):
        out = right(logits, number)
        repeated = (out[..., None, :] == out[..., None]) & np.tri(out.shape[-1], k=-1, dtype=bool)[None]
        return mask_out(out, ~repeated.any(-1))

    return {
        "truncated tokens get a low logit instead of -inf": Mutant(
            lambda x, number: jnp.maximum(right(x, number), -1e4),
            ["kept_logits_are_unchanged"],
        ),
        "kept logits are normalized": Mutant(
            lambda x, number: right(x, number) - jnp.log(jnp.exp(right(x, number)).sum(-1, keepdims=True)),
            ["kept_logits_are_unchanged"],
        ),
        "the least likely tokens are kept": Mutant(
            lambda x, number: mask_out(x, kept(right(-x, number))),
            ["most_likely_tokens_are_kept"],
        ),
        "the sign of a logit is lost": Mutant(
            lambda x, number: mask_out(x, kept(right(jnp.abs(x), number))),
            ["most_likely_tokens_are_kept", "shift_invariance"],
        ),
        "ties are cut by rank": Mutant(
            keep_one_of_a_tie, ["ties_are_kept_together"], "sgl-project/sglang#33539"
        ),
        "a masked token counts as a logit of 0": Mutant(
            lambda x, number: right(jnp.where(x == -jnp.inf, 0, x), number),
            ["masked_tokens_are_ignored"],
        ),
        "the output is float32": Mutant(
            lambda x, number: right(x.astype(jnp.float32), number),
            ["dtype_is_preserved"],
        ),
    }
