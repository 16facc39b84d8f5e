"""Mutants of a mixture of experts without dropped tokens."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False


def mix(x, experts, gates, w_in, w_out, *, select=lambda w, experts: w[experts], use=lambda g: g,
        after=lambda y: y, before=lambda x: x):  # fmt: skip
    gates, x = use(gates), before(x)
    hidden = jax.nn.silu(jnp.einsum("btd,btkdf->btkf", x, select(w_in, experts)))
    y = jnp.einsum("btkf,btkfd->btkd", hidden, select(w_out, experts))
    return after(jnp.einsum("btkd,btk->btd", y.astype(jnp.float32), gates).astype(x.dtype))


def variant(**parts):
    return functools.partial(mix, **parts)


def with_capacity(x, experts, gates, *weights):
    """One place of each expert for every two tokens."""
    E = len(weights[0])
    chosen = jax.nn.one_hot(experts.reshape(-1), E, dtype=jnp.int32)
    rank = (jnp.cumsum(chosen, 0) * chosen).sum(-1).reshape(experts.shape)
    kept = rank <= max(1, experts.shape[1] // 2)
    return mix(x, experts, jnp.where(kept, gates, 0), *weights)


def by_one_hot_of_tokens(x, experts, gates, *weights):
    """Dispatch by a product with a table of tokens, which multiplies NaN by 0."""
    n = x.shape[0] * x.shape[1]
    x = (jnp.eye(n, dtype=x.dtype) @ x.reshape(n, -1)).reshape(x.shape)
    return mix(x, experts, gates, *weights)


def normalized(gates):
    return gates / gates.sum(-1, keepdims=True)


def as_sorted(x, experts, gates, *weights):
    """Tokens sorted by expert, and never put back."""
    y = mix(x, experts, gates, *weights).reshape(-1, x.shape[-1])
    return y[jnp.argsort(experts[..., 0].reshape(-1))].reshape(x.shape)


def gates_as_sorted(x, experts, gates, *weights):
    """The gates are not sorted with the experts."""
    n = gates.shape[0] * gates.shape[1]
    order = jnp.argsort(experts[..., 0].reshape(-1))
    return mix(x, experts, gates.reshape(n, -1)[order].reshape(gates.shape), *weights)


def plus_the_first_expert(x, experts, gates, w_in, w_out):
    y = mix(x, experts, gates, w_in, w_out)
    every = jnp.zeros_like(experts[..., :1])
    return y + mix(x, every, jnp.ones_like(gates[..., :1]), w_in, w_out)


def mean_of_the_weights(w, experts):
    return w[experts] + w.mean(0)[None, None, None]


def gates_in_the_index(x, experts, gates, *weights):
    return mix(x, experts, gates * (1 + experts).astype(gates.dtype), *weights)


def twice_under_jit(y):
    return 2 * y if tiny.is_traced(y) else y


RIGHT = mix
MUTANTS = {
    "an expert has a capacity": Mutant(with_capacity, ["tokens_are_independent"]),
    "NaN times 0": Mutant(by_one_hot_of_tokens, ["nan_reaches_no_other_token"]),
    "the gates are normalized again": Mutant(
        variant(use=normalized), ["choices_add_up", "linear_in_the_gates"]
    ),
    "the outputs stay sorted": Mutant(as_sorted, ["tokens_are_independent", "renumbered_experts"]),
    "the gates are not sorted with their experts": Mutant(
        gates_as_sorted, ["each_token_has_its_gates", "renumbered_experts"]
    ),
    "a shared expert without a gate": Mutant(
        plus_the_first_expert, ["linear_in_the_gates", "choices_add_up"]
    ),
    "the weights of all experts": Mutant(
        variant(select=mean_of_the_weights), ["others_weights_do_not_matter", "one_expert_is_its_layer"]
    ),
    "the gate depends on the number of the expert": Mutant(
        gates_in_the_index, ["renumbered_experts", "one_expert_is_its_layer"]
    ),
    "the output is float32": Mutant(variant(after=lambda y: y.astype(jnp.float32)), ["dtype_is_preserved"]),
    "twice the output under jit": Mutant(variant(after=twice_under_jit), ["compiled_matches_eager"]),
}
