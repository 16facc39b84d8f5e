"""Wrong layer norms, each with a bug that was seen somewhere, in our own words; and the right one."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants.mutant import Mutant

EPS = 1e-5


def mean(x):
    return x.mean(-1, keepdims=True)


def variance(x, centred):
    return mean(jnp.square(centred))


def divided(centred, variance):
    return centred / jnp.sqrt(variance + EPS)


def norm(x, *, mean=mean, variance=variance, divided=divided, wide=jnp.float32):
    dtype = x.dtype
    x = x.astype(wide or dtype)
    centred = x - mean(x)
    return divided(centred, variance(x, centred)).astype(dtype)


def over(*axes):
    average = lambda x: x.mean(axes, keepdims=True)
    return part(mean=average, variance=lambda x, centred: average(jnp.square(centred)))


def in_x_dtype(x):
    # To every step its own rounding, which XLA may leave out of a chain of bfloat16.
    rounded = lambda y: jax.lax.reduce_precision(y, 8, 7) if x.dtype == jnp.bfloat16 else y
    centred = rounded(x.astype(jnp.float32) - rounded(mean(x.astype(jnp.float32))))
    return divided(centred, rounded(mean(jnp.square(centred)))).astype(x.dtype)


def part(**parts):
    return functools.partial(norm, **parts)


RIGHT = norm
# name: (the function, laws that it must break)
MUTANTS = {
    "D - 1 in the variance": Mutant(
        part(variance=lambda x, centred: variance(x, centred) * x.shape[-1] / (x.shape[-1] - 1)),
        ["variance_is_one", "definition"],
        "harvardnlp/annotated-transformer#119",
    ),
    "eps is added to the deviation": Mutant(
        part(divided=lambda centred, variance: centred / (jnp.sqrt(variance) + EPS)),
        ["definition", "gradient_at_equal_elements"],
        "hkproj/pytorch-transformer#31",
    ),
    "no eps": (
        part(divided=lambda centred, variance: centred / jnp.sqrt(variance)),
        ["equal_elements", "definition"],
    ),
    "another library's eps": (
        part(divided=lambda centred, variance: centred / jnp.sqrt(variance + 1e-3)),
        ["definition"],
    ),
    "no mean is taken off": (part(mean=jnp.zeros_like), ["mean_is_zero", "shift"]),
    "the mean is taken off, the squares are those before": (
        part(variance=lambda x, centred: mean(jnp.square(x))),
        ["shift", "variance_is_one"],
    ),
    "mean of the squares less square of the mean": (
        part(variance=lambda x, centred: jnp.maximum(mean(jnp.square(x)) - jnp.square(mean(x)), 0)),
        ["large_mean"],
    ),
    "statistics in bfloat16": (in_x_dtype, ["statistics_are_float32"]),
    "over the positions": (over(1), ["each_by_itself", "mean_is_zero"]),
    "over the batch, as batch norm": (over(0), ["each_by_itself", "compiled_is_eager"]),
    "over positions and elements": (over(1, 2), ["each_by_itself", "mean_is_zero"]),
    "divided by the variance": (
        part(divided=lambda centred, variance: centred / (variance + EPS)),
        ["variance_is_one", "scale"],
    ),
    "the largest element is taken off": (
        part(mean=lambda x: x.max(-1, keepdims=True)),
        ["sign", "mean_is_zero"],
    ),
    "the statistics have no gradient": (
        part(
            mean=lambda x: jax.lax.stop_gradient(mean(x)),
            variance=lambda x, centred: jax.lax.stop_gradient(variance(x, centred)),
        ),
        ["gradients"],
    ),
    "another dtype comes out": (lambda x: norm(x.astype(jnp.float32)), ["dtype_is_kept"]),
}
