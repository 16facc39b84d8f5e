"""Wrong min-p."""

import jax
import jax.numpy as jnp

from tests.mutants import keepers
from tests.mutants.keepers import shut
from tests.mutants.mutant import Mutant


def top(x):
    return x.max(-1, keepdims=True)


def keep(logits, p):
    share = jax.nn.softmax(logits.astype(jnp.float32))
    return shut(logits, share >= p * top(share))


def without_the_largest_taken_off(logits, p):
    mass = jnp.exp(logits)
    return shut(logits, mass >= p * top(mass))


def beside_the_mean(logits, p):
    opened = logits > -jnp.inf
    mean = jnp.where(opened, logits, 0).sum(-1, keepdims=True) / opened.sum(
        -1, keepdims=True, dtype=jnp.float32
    )
    return shut(logits, logits >= mean + jnp.log(p))


RIGHT = keep
MUTANTS = {
    "beside the largest logit, not the probability": Mutant(
        lambda x, p: shut(x, x >= p * top(x)), ["definition", "shift"], "state-spaces/mamba#1010"
    ),
    "the first token is taken for the likeliest": Mutant(
        lambda x, p: shut(x, jax.nn.softmax(x) >= p * jax.nn.softmax(x)[..., :1]),
        ["definition", "at_1_the_likeliest"],
        "state-spaces/mamba#1010",
    ),
    "p itself is the border": (
        lambda x, p: shut(x, jax.nn.softmax(x) >= p),
        ["definition", "the_likeliest"],
    ),
    "the likeliest of the batch": (
        lambda x, p: shut(x, jax.nn.softmax(x) >= p * jax.nn.softmax(x).max()),
        ["definition"],
    ),
    "what equals the border is dropped": (
        lambda x, p: shut(x, jax.nn.softmax(x) > p * top(jax.nn.softmax(x))),
        ["at_1_the_likeliest"],
    ),
    "beside the mean of the logits that are open": (beside_the_mean, ["again", "definition"]),
    "exp without the largest taken off": (without_the_largest_taken_off, ["large_logits"]),
    **keepers.mutants(keep),
}
