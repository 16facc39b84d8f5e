"""Mutants of temperature scaling."""

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant


def scale(logits, t):
    return (logits.astype(jnp.float32) / t).astype(logits.dtype)


RIGHT = scale
MUTANTS = {
    "multiplied": Mutant(lambda x, t: scale(x, 1 / t), ["definition", "limits"]),
    "divided twice": Mutant(lambda x, t: scale(scale(x, t), t), ["definition"], "RL-Align/RL-Kernel#81"),
    "probabilities are divided, which normalization undoes": Mutant(
        lambda x, t: jnp.log(scale(jax.nn.softmax(x), t)),
        ["definition", "limits"],
        "google/gemma.cpp#981",
    ),
    "probabilities are divided and returned as logits": Mutant(
        lambda x, t: scale(jax.nn.softmax(x), t),
        ["temperature_1_is_identity", "definition"],
    ),
    "the output is log-probabilities": Mutant(
        lambda x, t: jax.nn.log_softmax(scale(x, t)), ["temperature_1_is_identity"]
    ),
    "an epsilon is added to t": Mutant(
        lambda x, t: scale(x, t + 1e-2), ["temperature_1_is_identity", "temperatures_multiply"]
    ),
    "t is at least 0.6": Mutant(lambda x, t: scale(x, jnp.maximum(t, 0.6)), ["limits", "definition"]),
    "the sign of a negative logit is lost": Mutant(lambda x, t: jnp.abs(scale(x, t)), ["order_is_preserved"]),
    "the output is float32": Mutant(lambda x, t: scale(x.astype(jnp.float32), t), ["dtype_is_preserved"]),
}
