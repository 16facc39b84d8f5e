"""Mutants of activation functions."""

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant


def activation(x):
    """The square of ReLU."""
    return jnp.square(jnp.maximum(x, 0))


def with_gradient(x):
    return activation(x) + 0 * jnp.sqrt(jnp.abs(x))


RIGHT = activation
MUTANTS = {
    "a softmax": Mutant(lambda x: jax.nn.softmax(x), ["elements_are_independent"]),
    "the mean of all elements is subtracted": Mutant(
        lambda x: activation(x - x.mean()), ["elements_are_independent", "compiled_matches_eager"]
    ),
    "the exponential overflows": Mutant(jnp.exp, ["finite"]),
    "the gradient of a square root at 0": Mutant(with_gradient, ["finite"]),
    "the output is float32": Mutant(lambda x: activation(x.astype(jnp.float32)), ["dtype_is_preserved"]),
}
