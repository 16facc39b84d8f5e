"""Mutants of RMS norm."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant

EPS = 1e-6


def mean_square(x):
    return jnp.square(x).mean(-1, keepdims=True)


def divide(x, mean_square):
    return x / jnp.sqrt(mean_square + EPS)


def norm(x, *, mean_square=mean_square, divide=divide):
    wide = x.astype(jnp.float32)
    return divide(wide, mean_square(wide)).astype(x.dtype)


def variant(**parts):
    return functools.partial(norm, **parts)


def over(axis):
    return variant(mean_square=lambda x: jnp.square(x).mean(axis, keepdims=True))


RIGHT = norm
MUTANTS = {
    "the mean is subtracted": Mutant(
        lambda x: norm(x - x.mean(-1, keepdims=True)),
        ["mean_is_not_subtracted", "definition"],
    ),
    "the variance instead of the mean square": Mutant(
        variant(mean_square=lambda x: x.var(-1, keepdims=True)),
        ["mean_square_is_one", "definition"],
    ),
    "the sum of squares": Mutant(
        variant(mean_square=lambda x: mean_square(x) * x.shape[-1]),
        ["mean_square_is_one", "mean_is_not_subtracted"],
    ),
    "eps is added to the square root": Mutant(
        variant(divide=lambda x, mean_square: x / (jnp.sqrt(mean_square) + EPS)),
        ["definition", "gradient_at_zero_vectors"],
    ),
    "eps is a minimum": Mutant(
        variant(divide=lambda x, mean_square: x / jnp.sqrt(jnp.maximum(mean_square, EPS))),
        ["definition"],
    ),
    "no eps": Mutant(
        variant(divide=lambda x, mean_square: x / jnp.sqrt(mean_square)), ["zero_vectors", "definition"]
    ),
    "divided by the mean square": Mutant(
        variant(divide=lambda x, mean_square: x / (mean_square + EPS)),
        ["scale_invariance", "mean_square_is_one"],
    ),
    "the squares in float16": Mutant(
        variant(mean_square=lambda x: mean_square(x.astype(jnp.float16)).astype(jnp.float32)),
        ["statistics_are_float32"],
    ),
    "over the positions": Mutant(over(1), ["vectors_are_independent", "mean_square_is_one"]),
    "over the batch": Mutant(over(0), ["vectors_are_independent", "compiled_matches_eager"]),
    "after an activation": Mutant(lambda x: norm(jax.nn.gelu(x)), ["sign_equivariance", "definition"]),
    "the mean square has no gradient": Mutant(
        variant(mean_square=lambda x: jax.lax.stop_gradient(mean_square(x))), ["gradients"]
    ),
    "the output is float32": Mutant(lambda x: norm(x.astype(jnp.float32)), ["dtype_is_preserved"]),
}
