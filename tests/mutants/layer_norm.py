"""Mutants of layer norm."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant

EPS = 1e-5


def mean(x):
    return x.mean(-1, keepdims=True)


def variance(x, centered):
    return mean(jnp.square(centered))


def divide(centered, variance):
    return centered / jnp.sqrt(variance + EPS)


def norm(x, *, mean=mean, variance=variance, divide=divide):
    dtype = x.dtype
    x = x.astype(jnp.float32)
    centered = x - mean(x)
    return divide(centered, variance(x, centered)).astype(dtype)


def variant(**parts):
    return functools.partial(norm, **parts)


def over(*axes):
    def average(x):
        return x.mean(axes, keepdims=True)

    return variant(mean=average, variance=lambda x, centered: average(jnp.square(centered)))


def in_input_dtype(x):
    def rounded(y):  # explicit, because XLA may skip the rounding within a chain of bfloat16 operations
        return jax.lax.reduce_precision(y, 8, 7) if x.dtype == jnp.bfloat16 else y

    centered = rounded(x.astype(jnp.float32) - rounded(mean(x.astype(jnp.float32))))
    return divide(centered, rounded(mean(jnp.square(centered)))).astype(x.dtype)


RIGHT = norm
MUTANTS = {
    "unbiased variance": Mutant(
        variant(variance=lambda x, centered: variance(x, centered) * x.shape[-1] / (x.shape[-1] - 1)),
        ["variance_is_one", "definition"],
        "harvardnlp/annotated-transformer#119",
    ),
    "eps is added to the standard deviation": Mutant(
        variant(divide=lambda centered, variance: centered / (jnp.sqrt(variance) + EPS)),
        ["definition", "gradient_at_constant_vectors"],
        "hkproj/pytorch-transformer#31",
    ),
    "no eps": Mutant(
        variant(divide=lambda centered, variance: centered / jnp.sqrt(variance)),
        ["constant_vectors", "definition"],
    ),
    "another eps": Mutant(
        variant(divide=lambda centered, variance: centered / jnp.sqrt(variance + 1e-3)),
        ["definition"],
    ),
    "the mean is not subtracted": Mutant(variant(mean=jnp.zeros_like), ["mean_is_zero", "shift_invariance"]),
    "the variance includes the mean": Mutant(
        variant(variance=lambda x, centered: mean(jnp.square(x))),
        ["shift_invariance", "variance_is_one"],
    ),
    "mean of squares minus square of the mean": Mutant(
        variant(variance=lambda x, centered: jnp.maximum(mean(jnp.square(x)) - jnp.square(mean(x)), 0)),
        ["large_mean"],
    ),
    "statistics in bfloat16": Mutant(in_input_dtype, ["statistics_are_float32"]),
    "over the positions": Mutant(over(1), ["vectors_are_independent", "mean_is_zero"]),
    "over the batch": Mutant(over(0), ["vectors_are_independent", "compiled_matches_eager"]),
    "over positions and elements": Mutant(over(1, 2), ["vectors_are_independent", "mean_is_zero"]),
    "divided by the variance": Mutant(
        variant(divide=lambda centered, variance: centered / (variance + EPS)),
        ["variance_is_one", "scale_invariance"],
    ),
    "the maximum is subtracted": Mutant(
        variant(mean=lambda x: x.max(-1, keepdims=True)),
        ["sign_equivariance", "mean_is_zero"],
    ),
    "the statistics have no gradient": Mutant(
        variant(
            mean=lambda x: jax.lax.stop_gradient(mean(x)),
            variance=lambda x, centered: jax.lax.stop_gradient(variance(x, centered)),
        ),
        ["gradients"],
    ),
    "the output is float32": Mutant(lambda x: norm(x.astype(jnp.float32)), ["dtype_is_preserved"]),
}
