"""Wrong temperatures."""

import jax
import jax.numpy as jnp

from tests.mutants.mutant import Mutant


def scaled(logits, t):
    return (logits.astype(jnp.float32) / t).astype(logits.dtype)


RIGHT = scaled
MUTANTS = {
    "multiplied": (
        lambda x, t: scaled(x, 1 / t),
        ["definition", "cold_and_hot"],
    ),
    "divided twice": Mutant(lambda x, t: scaled(scaled(x, t), t), ["definition"], "RL-Align/RL-Kernel#81"),
    "the probabilities are divided, which a sum takes back": Mutant(
        lambda x, t: jnp.log(scaled(jax.nn.softmax(x), t)),
        ["definition", "cold_and_hot"],
        "google/gemma.cpp#981",
    ),
    "the probabilities are divided, and taken for logits": (
        lambda x, t: scaled(jax.nn.softmax(x), t),
        ["at_1_nothing_changes", "definition"],
    ),
    "log-probabilities come out": (
        lambda x, t: jax.nn.log_softmax(scaled(x, t)),
        ["at_1_nothing_changes"],
    ),
    "what is added to t against a division by 0": (
        lambda x, t: scaled(x, t + 1e-2),
        ["at_1_nothing_changes", "one_after_the_other"],
    ),
    "a temperature is at least 0.6": (
        lambda x, t: scaled(x, jnp.maximum(t, 0.6)),
        ["cold_and_hot", "definition"],
    ),
    "the sign of a negative logit is lost": (
        lambda x, t: jnp.abs(scaled(x, t)),
        ["the_likeliest_stays"],
    ),
    "another dtype comes out": (lambda x, t: scaled(x.astype(jnp.float32), t), ["dtype_is_kept"]),
}
