"""Wrong RMS norms, each with a bug that was seen somewhere, in our own words; and the right one."""

import functools

import jax
import jax.numpy as jnp

EPS = 1e-6


def mean_square(x):
    return jnp.square(x).mean(-1, keepdims=True)


def divided(x, mean_square):
    return x / jnp.sqrt(mean_square + EPS)


def norm(x, *, mean_square=mean_square, divided=divided):
    wide = x.astype(jnp.float32)
    return divided(wide, mean_square(wide)).astype(x.dtype)


def over(axis):
    return part(mean_square=lambda x: jnp.square(x).mean(axis, keepdims=True))


def part(**parts):
    return functools.partial(norm, **parts)


RIGHT = norm
# name: (the function, laws that it must break)
MUTANTS = {
    "the mean is taken off": (
        lambda x: norm(x - x.mean(-1, keepdims=True)),
        ["mean_stays", "definition"],
    ),
    "the mean is taken off the squares alone": (
        part(mean_square=lambda x: x.var(-1, keepdims=True)),
        ["mean_square_is_one", "definition"],
    ),
    "the sum of the squares": (
        part(mean_square=lambda x: mean_square(x) * x.shape[-1]),
        ["mean_square_is_one", "mean_stays"],
    ),
    "eps is added to the root": (
        part(divided=lambda x, mean_square: x / (jnp.sqrt(mean_square) + EPS)),
        ["definition", "gradient_at_zeros"],
    ),
    "eps is the least mean square": (
        part(divided=lambda x, mean_square: x / jnp.sqrt(jnp.maximum(mean_square, EPS))),
        ["definition"],
    ),
    "no eps": (part(divided=lambda x, mean_square: x / jnp.sqrt(mean_square)), ["zeros", "definition"]),
    "divided by the mean square": (
        part(divided=lambda x, mean_square: x / (mean_square + EPS)),
        ["scale", "mean_square_is_one"],
    ),
    "the squares in float16": (
        part(mean_square=lambda x: mean_square(x.astype(jnp.float16)).astype(jnp.float32)),
        ["statistics_are_float32"],
    ),
    "over the positions": (over(1), ["each_by_itself", "mean_square_is_one"]),
    "over the batch": (over(0), ["each_by_itself", "compiled_is_eager"]),
    "an activation in it": (lambda x: norm(jax.nn.gelu(x)), ["sign", "definition"]),
    "the mean square has no gradient": (
        part(mean_square=lambda x: jax.lax.stop_gradient(mean_square(x))),
        ["gradients"],
    ),
    "another dtype comes out": (lambda x: norm(x.astype(jnp.float32)), ["dtype_is_kept"]),
}
