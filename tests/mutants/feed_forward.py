"""Wrong position-wise layers, each with a bug that was seen somewhere, in our own words; and a right one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_RNG = np.random.default_rng(0)
W_IN, W_OUT = _RNG.standard_normal((8, 11)) / 3, _RNG.standard_normal((11, 8)) / 3


def layer(x, *, before=lambda x: x, activation=jax.nn.relu):
    x = before(x)
    return activation(x @ W_IN.astype(x.dtype)) @ W_OUT.astype(x.dtype)


def window_of_two(x):
    return x + jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def with_places(x):
    return x + jnp.arange(x.shape[1]).astype(x.dtype)[None, :, None]


def batch_norm(hidden):
    return jax.nn.relu(hidden - hidden.mean((0, 1), keepdims=True))


def part(**parts):
    return functools.partial(layer, **parts)


RIGHT = layer
# name: (the function, laws that it must break)
MUTANTS = {
    "a convolution of width 2": (part(before=window_of_two), ["each_by_itself", "order_of_positions"]),
    "positions are added in it": (part(before=with_places), ["order_of_positions"]),
    "a softmax over the positions": (
        part(activation=functools.partial(jax.nn.softmax, axis=1)),
        ["each_by_itself"],
    ),
    "batch norm between the layers": (
        part(activation=batch_norm),
        ["each_by_itself", "rows_alike", "compiled_is_eager"],
    ),
    "the mean of the sequence is added": (
        part(before=lambda x: x + x.mean(1, keepdims=True)),
        ["each_by_itself"],
    ),
    "the batch is taken for the positions": (
        part(before=lambda x: x - x.max(0, keepdims=True)),
        ["rows_alike", "compiled_is_eager"],
    ),
    "another dtype comes out": (lambda x: layer(x.astype(jnp.float32)), ["dtype_is_kept"]),
}
