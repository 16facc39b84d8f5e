"""Wrong frequency penalties."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import penalties


def taken(count, penalty):
    return penalty * count


def penalised(logits, tokens, penalty, *, counts=penalties.counts, taken=taken):
    count = counts(tokens, logits.shape[-1]).astype(jnp.float32)
    return (logits.astype(jnp.float32) - taken(count, penalty)).astype(logits.dtype)


def part(**parts):
    return functools.partial(penalised, **parts)


RIGHT = penalised
MUTANTS = {
    "once a token instead of once an occurrence": (
        part(taken=lambda count, penalty: penalty * jnp.minimum(count, 1)),
        ["as_often_as_it_is_there", "every_time"],
    ),
    "the share of the row instead of the count": (
        part(taken=lambda count, penalty: penalty * count / jnp.maximum(count.sum(-1, keepdims=True), 1)),
        ["as_often_as_it_is_there", "every_time"],
    ),
    "the penalty is added": (
        part(taken=lambda count, penalty: -penalty * count),
        ["as_often_as_it_is_there"],
    ),
    "the penalty is a factor": (
        lambda x, tokens, penalty: (
            x * (1 - penalty) ** penalties.counts(tokens, x.shape[-1]).astype(jnp.float32)
        ),
        ["shift", "as_often_as_it_is_there"],
    ),
    "log-probabilities come out": (
        lambda *args: jax.nn.log_softmax(penalised(*args)),
        ["shift", "others_stay"],
    ),
    **penalties.mutants(penalised),
}
