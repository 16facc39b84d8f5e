"""Mutants of a position-wise feed-forward layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants._mutant import Mutant

_RNG = np.random.default_rng(0)
W_IN, W_OUT = _RNG.standard_normal((8, 11)) / 3, _RNG.standard_normal((11, 8)) / 3


def layer(x, *, before=lambda x: x, activation=jax.nn.relu):
    x = before(x)
    return activation(x @ W_IN.astype(x.dtype)) @ W_OUT.astype(x.dtype)


def convolution_of_2(x):
    return x + jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def add_positions(x):
    return x + jnp.arange(x.shape[1]).astype(x.dtype)[None, :, None]


def batch_norm(hidden):
    return jax.nn.relu(hidden - hidden.mean((0, 1), keepdims=True))


def variant(**parts):
    return functools.partial(layer, **parts)


RIGHT = layer
MUTANTS = {
    "a convolution of width 2": Mutant(
        variant(before=convolution_of_2), ["vectors_are_independent", "permutation_equivariance"]
    ),
    "positions are added": Mutant(variant(before=add_positions), ["permutation_equivariance"]),
    "a softmax over the positions": Mutant(
        variant(activation=functools.partial(jax.nn.softmax, axis=1)),
        ["vectors_are_independent"],
    ),
    "batch norm between the layers": Mutant(
        variant(activation=batch_norm),
        ["vectors_are_independent", "examples_are_independent", "compiled_matches_eager"],
    ),
    "the mean of the sequence is added": Mutant(
        variant(before=lambda x: x + x.mean(1, keepdims=True)),
        ["vectors_are_independent"],
    ),
    "the maximum of the batch is subtracted": Mutant(
        variant(before=lambda x: x - x.max(0, keepdims=True)),
        ["examples_are_independent", "compiled_matches_eager"],
    ),
    "the output is float32": Mutant(lambda x: layer(x.astype(jnp.float32)), ["dtype_is_preserved"]),
}
