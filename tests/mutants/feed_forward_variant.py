"""Mutants of feed-forward variants: a mixture of two experts, with a balancing loss."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant
from tfm_jax import nn

JIT = False
E = 2
CALLS = itertools.count()


def balance(gates):
    """(sum, weight) of the squared distance of the gates [..., E] from 1 / E."""
    apart = jnp.square(gates.astype(jnp.float32) - 1 / E).sum(-1)
    return jnp.sum(apart), jnp.float32(apart.size)


class Experts(nnx.Module):
    """Every expert sees every vector, weighted by its gate."""

    def __init__(self, variant, config, *, rngs):
        self.variant, D, F = variant, config.d_model, config.d_ff
        dtype = variant.dtype or config.param_dtype

        def param(*shape):
            x = jax.random.normal(rngs.params(), shape) / 3
            return nnx.Param(x.astype(dtype))

        self.w_gate, self.w_in, self.w_out = param(D, E), param(E, D, F), param(E, F, D)

    def axes(self):
        return {"w_gate": "D E", "w_in": "E D F", "w_out": self.variant.letters}

    def __call__(self, x, *, key=None):
        x = self.variant.before(x)
        w_gate, w_in, w_out = (w[...].astype(x.dtype) for w in (self.w_gate, self.w_in, self.w_out))
        gates = self.variant.softmax(x @ w_gate)
        hidden = jax.nn.relu(jnp.einsum("...D,EDF->...EF", x, w_in))
        y = jnp.einsum("...E,...EF,EFD->...D", gates, hidden, w_out)
        return self.variant.after(y), self.variant.auxiliary(gates)


@dataclasses.dataclass(frozen=True)
class Variant(nn.FeedForward):
    before: Callable = lambda x: x
    softmax: Callable = jax.nn.softmax
    after: Callable = lambda y: y
    auxiliary: Callable = lambda gates: {"balance": balance(gates)}
    letters: str = "E F D"
    dtype: str | None = None

    def build(self, config, *, rngs):
        return Experts(self, config, rngs=rngs)


def convolution_of_2(x):
    return x if x.ndim < 3 else x + jnp.pad(x, ((0, 0),) * (x.ndim - 2) + ((1, 0), (0, 0)))[..., :-1, :]


def subtract_the_largest_of_the_batch(x):
    return x if x.ndim == 1 else x - x.max(0, keepdims=True)


def unstable_softmax(x):
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


def unit_vectors(y):
    return y / jnp.sqrt(jnp.square(y).sum(-1, keepdims=True))


def with_infinite_gradient(x):
    return x + 0 * jnp.sqrt(x - jax.lax.stop_gradient(x))


def twice_under_jit(y):
    return 2 * y if tiny.is_traced(y) else y


def bfloat16_loss(gates):
    return {"balance": (jnp.sum(gates), jnp.asarray(gates.size, gates.dtype))}


def logarithm_of_0(gates):
    return {"entropy": (jnp.sum(jnp.log(0 * gates.astype(jnp.float32))), jnp.float32(1))}


def mean_of_the_batch(gates):
    total, weight = balance(gates)
    return {"balance": (total / weight, jnp.float32(1))}


def twice_in_every_second_call(y):
    return y * (1 + next(CALLS) % 2)


RIGHT = Variant()
MUTANTS = {
    "a convolution of width 2": Mutant(
        Variant(before=convolution_of_2), ["vectors_are_independent", "permutation_equivariance"]
    ),
    "the largest of the batch is subtracted": Mutant(
        Variant(before=subtract_the_largest_of_the_batch),
        ["examples_are_independent", "leading_dims", "vectors_are_independent"],
    ),
    "the output is float32": Mutant(Variant(after=lambda y: y.astype(jnp.float32)), ["dtype_is_preserved"]),
    "unit vectors without eps": Mutant(Variant(after=unit_vectors), ["zero_vectors"]),
    "the softmax overflows": Mutant(Variant(softmax=unstable_softmax), ["large_vectors"]),
    "the gradient of a square root at 0": Mutant(
        Variant(before=with_infinite_gradient), ["gradients_are_finite", "zero_vectors"]
    ),
    "a loss without a weight": Mutant(
        Variant(auxiliary=lambda gates: {"balance": balance(gates)[0]}), ["auxiliary_is_sum_and_weight"]
    ),
    "a loss in the dtype of the vectors": Mutant(
        Variant(auxiliary=bfloat16_loss), ["auxiliary_is_sum_and_weight"]
    ),
    "the logarithm of 0": Mutant(Variant(auxiliary=logarithm_of_0), ["auxiliary_is_sum_and_weight"]),
    "a loss that is a mean": Mutant(Variant(auxiliary=mean_of_the_batch), ["auxiliary_adds_over_examples"]),
    "twice the output in every second call": Mutant(
        Variant(after=twice_in_every_second_call), ["scanned_matches_unrolled"]
    ),
    "axes in another order": Mutant(Variant(letters="E D F"), ["parameters"]),
    "the parameters are float32": Mutant(Variant(dtype="float32"), ["parameters"]),
    "twice the output under jit": Mutant(Variant(after=twice_under_jit), ["compiled_matches_eager"]),
}
