"""Mutants of a top-k router."""

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant

JIT = False  # k is a Python number


def route(logits, k, *, before=lambda x: x, softmax=jax.nn.softmax, order=lambda e: e, dtype=jnp.float32):
    logits = before(logits.astype(dtype))
    chosen, experts = jax.lax.top_k(logits, k)
    return order(experts), softmax(chosen)


def variant(**parts):
    return lambda logits, k: route(logits, k, **parts)


def of_all(logits, k):
    experts, _ = route(logits, k)
    return experts, jnp.take_along_axis(jax.nn.softmax(logits.astype(jnp.float32)), experts, -1)


def last_of_a_tie(logits, k):
    experts, gates = route(logits[..., ::-1], k)
    return logits.shape[-1] - 1 - experts, gates


def overflowing(chosen):
    e = jnp.exp(chosen)
    return e / e.sum(-1, keepdims=True)


def prefers_the_first(logits):
    return logits - jnp.arange(logits.shape[-1], dtype=logits.dtype)[None]


def share(chosen):
    positive = jnp.abs(chosen) + 1e-3
    return positive / positive.sum(-1, keepdims=True)


RIGHT = route
MUTANTS = {
    "the last of a tie": Mutant(last_of_a_tie, ["ties_by_index"]),
    "the least likely first": Mutant(
        variant(order=lambda e: e[..., ::-1]), ["most_likely_experts", "ties_by_index"]
    ),
    "an aid for the first experts": Mutant(
        variant(before=prefers_the_first), ["most_likely_experts", "permutation_equivariance"]
    ),
    "gates of the softmax over all": Mutant(of_all, ["gates_are_probabilities"]),
    "the logits as gates": Mutant(variant(softmax=share), ["gates_are_probabilities", "shift_invariance"]),
    "the softmax overflows": Mutant(variant(softmax=overflowing), ["large_logits"]),
    "the router in bfloat16": Mutant(
        lambda logits, k: route(logits, k, dtype=logits.dtype), ["gates_in_float32"]
    ),
}
