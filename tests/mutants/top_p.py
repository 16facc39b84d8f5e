"""Mutants of top-p (nucleus) sampling."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import _truncation as truncation
from tests.mutants._mutant import Mutant
from tests.mutants._truncation import mask_out


def probabilities(ordered):
    return jax.nn.softmax(ordered)


def mass_before(probs):
    """The probability of all more likely tokens."""
    return jnp.cumsum(probs, -1) - probs


def needed(probs, p):
    return (mass_before(probs) < p) | (p >= 1)


def truncate(logits, p, *, probabilities=probabilities, needed=needed):
    ordered = jnp.sort(logits.astype(jnp.float32), descending=True)
    threshold = jnp.where(needed(probabilities(ordered), p), ordered, jnp.inf).min(-1, keepdims=True)
    return mask_out(logits, logits >= threshold.astype(logits.dtype))


def variant(**parts):
    return functools.partial(truncate, **parts)


def without_the_crossing_token(probs, p):
    return jnp.cumsum(probs, -1) <= p


def one_more(probs, p):
    first = jnp.ones_like(probs[..., :1], bool)
    return jnp.concatenate([first, needed(probs, p)[..., :-1]], -1)


def by_tail(probs, p):
    """Masks a tail of probability up to 1 - p, summed from the least likely token on."""
    tail = jnp.cumsum(probs[..., ::-1], -1)[..., ::-1]
    return tail > 1 - p


def p_1_is_greedy(probs, p):
    return jnp.where(p >= 1, probs >= probs.max(-1, keepdims=True), mass_before(probs) < p)


RIGHT = truncate
MUTANTS = {
    "the token that crosses p is dropped": Mutant(
        variant(needed=lambda probs, p: without_the_crossing_token(probs, p).at[..., 0].set(True)),
        ["reaches_p"],
        "rasbt/reasoning-from-scratch#164",
    ),
    "the token that crosses p is dropped, even the first": Mutant(
        variant(needed=without_the_crossing_token),
        ["reaches_p", "at_least_one_token", "most_likely_tokens_are_kept"],
        "fishaudio/fish-speech#1171",
    ),
    "one token more than needed": Mutant(variant(needed=one_more), ["smallest_set"]),
    "1 - p is rounded to 1, and all tokens are masked": Mutant(
        variant(needed=by_tail), ["at_least_one_token"], "ml-explore/mlx-lm#1912"
    ),
    "p = 1 keeps only the most likely token": Mutant(
        variant(needed=p_1_is_greedy), ["p_1_is_identity"], "BlinkDL/ChatRWKV#170"
    ),
    "tokens with a probability of at least 1 - p": Mutant(
        variant(needed=lambda probs, p: (probs >= 1 - p).at[..., 0].set(True)), ["reaches_p"]
    ),
    "1 - p instead of p": Mutant(
        variant(needed=lambda probs, p: needed(probs, 1 - p)), ["monotone_in_p", "at_least_one_token"]
    ),
    "probabilities are not normalized": Mutant(
        variant(probabilities=lambda ordered: jnp.exp(ordered - ordered.max(-1, keepdims=True))),
        ["reaches_p"],
    ),
    "the softmax does not subtract the maximum": Mutant(
        variant(probabilities=lambda ordered: jnp.exp(ordered) / jnp.exp(ordered).sum(-1, keepdims=True)),
        ["large_logits"],
    ),
    "probabilities are normalized over the batch": Mutant(
        variant(probabilities=lambda ordered: probabilities(ordered) / len(ordered)), ["smallest_set"]
    ),
    **truncation.mutants(truncate),
}
