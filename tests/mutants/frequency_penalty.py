"""Mutants of the frequency penalty."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import _penalties as penalties
from tests.mutants._mutant import Mutant


def cost(count, penalty):
    return penalty * count


def penalize(logits, tokens, penalty, *, counts=penalties.counts, cost=cost):
    count = counts(tokens, logits.shape[-1]).astype(jnp.float32)
    return (logits.astype(jnp.float32) - cost(count, penalty)).astype(logits.dtype)


def multiplied(logits, tokens, penalty):
    return logits * (1 - penalty) ** penalties.counts(tokens, logits.shape[-1]).astype(jnp.float32)


def variant(**parts):
    return functools.partial(penalize, **parts)


RIGHT = penalize
MUTANTS = {
    "once per token instead of per occurrence": Mutant(
        variant(cost=lambda count, penalty: penalty * jnp.minimum(count, 1)),
        ["penalty_times_count_is_subtracted", "proportional_to_count"],
    ),
    "the relative frequency instead of the count": Mutant(
        variant(cost=lambda count, penalty: penalty * count / jnp.maximum(count.sum(-1, keepdims=True), 1)),
        ["penalty_times_count_is_subtracted", "proportional_to_count"],
    ),
    "the penalty is added": Mutant(
        variant(cost=lambda count, penalty: -penalty * count), ["penalty_times_count_is_subtracted"]
    ),
    "the penalty is a factor": Mutant(
        multiplied, ["shift_equivariance", "penalty_times_count_is_subtracted"]
    ),
    "the output is log-probabilities": Mutant(
        lambda *args: jax.nn.log_softmax(penalize(*args)),
        ["shift_equivariance", "unseen_tokens_are_unchanged"],
    ),
    **penalties.mutants(penalize),
}
