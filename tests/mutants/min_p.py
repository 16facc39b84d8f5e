"""Mutants of min-p."""

import jax
import jax.numpy as jnp

from tests.mutants import _truncation as truncation
from tests.mutants._mutant import Mutant
from tests.mutants._truncation import mask_out


def top(x):
    return x.max(-1, keepdims=True)


def truncate(logits, p):
    probs = jax.nn.softmax(logits.astype(jnp.float32))
    return mask_out(logits, probs >= p * top(probs))


def without_max_subtraction(logits, p):
    e = jnp.exp(logits)
    return mask_out(logits, e >= p * top(e))


def relative_to_the_mean(logits, p):
    unmasked = logits > -jnp.inf
    n = unmasked.sum(-1, keepdims=True, dtype=jnp.float32)
    mean = jnp.where(unmasked, logits, 0).sum(-1, keepdims=True) / n
    return mask_out(logits, logits >= mean + jnp.log(p))


RIGHT = truncate
MUTANTS = {
    "relative to the largest logit, not probability": Mutant(
        lambda x, p: mask_out(x, x >= p * top(x)),
        ["relative_threshold", "shift_invariance"],
        "state-spaces/mamba#1010",
    ),
    "relative to the first token": Mutant(
        lambda x, p: mask_out(x, jax.nn.softmax(x) >= p * jax.nn.softmax(x)[..., :1]),
        ["relative_threshold", "p_1_keeps_the_most_likely"],
        "state-spaces/mamba#1010",
    ),
    "p is an absolute threshold": Mutant(
        lambda x, p: mask_out(x, jax.nn.softmax(x) >= p),
        ["relative_threshold", "most_likely_tokens_are_kept"],
    ),
    "relative to the most likely token of the batch": Mutant(
        lambda x, p: mask_out(x, jax.nn.softmax(x) >= p * jax.nn.softmax(x).max()),
        ["relative_threshold"],
    ),
    "tokens at the threshold are dropped": Mutant(
        lambda x, p: mask_out(x, jax.nn.softmax(x) > p * top(jax.nn.softmax(x))),
        ["p_1_keeps_the_most_likely"],
    ),
    "relative to the mean of the unmasked logits": Mutant(
        relative_to_the_mean, ["idempotent", "relative_threshold"]
    ),
    "the softmax does not subtract the maximum": Mutant(without_max_subtraction, ["large_logits"]),
    **truncation.mutants(truncate),
}
