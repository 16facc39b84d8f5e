"""Mutants of initializers."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax.nn import initializers

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False
CALLS = itertools.count()


def initialize(key, shape, *, in_axes, out_axes):
    """Normal with variance 1 / inputs."""
    inputs = math.prod(shape[i] for i in in_axes)
    return jax.random.normal(key, shape) * inputs**-0.5


def shape_of_the_product(key, shape, *, in_axes, out_axes):
    """A kernel [D, N * H]."""
    x = initialize(key, shape, in_axes=in_axes, out_axes=out_axes)
    return x.reshape(*shape[: out_axes[0]], -1)


def in_bfloat16(key, shape, *, in_axes, out_axes):
    return initialize(key, shape, in_axes=in_axes, out_axes=out_axes).astype(jnp.bfloat16)


def logarithms(key, shape, *, in_axes, out_axes):
    return jnp.log(jax.random.bernoulli(key, shape=shape).astype(jnp.float32))


def another_key_in_every_call(key, shape, *, in_axes, out_axes):
    key = jax.random.fold_in(key, next(CALLS))
    return initialize(key, shape, in_axes=in_axes, out_axes=out_axes)


def experts_are_inputs(key, shape, *, in_axes, out_axes):
    """Glorot, for which the axis of experts is a window of a convolution."""
    return initializers.glorot_uniform(in_axes, out_axes)(key, shape, jnp.float32)


def zeros_under_jit(key, shape, *, in_axes, out_axes):
    x = initialize(key, shape, in_axes=in_axes, out_axes=out_axes)
    return 0 * x if tiny.is_traced(x) else x


RIGHT = initialize
MUTANTS = {
    "heads are merged": Mutant(shape_of_the_product, ["finite_float32"]),
    "a parameter is bfloat16": Mutant(in_bfloat16, ["finite_float32"]),
    "the logarithm of 0": Mutant(logarithms, ["finite_float32"]),
    "another key in every call": Mutant(another_key_in_every_call, ["same_key_same_parameter"]),
    "experts count as inputs": Mutant(experts_are_inputs, ["other_axes_do_not_change_the_scale"]),
    "zeros under jit": Mutant(zeros_under_jit, ["compiled_matches_eager"]),
}
