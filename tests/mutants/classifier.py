"""Wrong classifiers."""

import functools

import jax.numpy as jnp

from tests.mutants import tiny
from tests.mutants.encoder import encode, keys

JIT = False
HEAD = tiny.draw(8, tiny.D, 3)


def mean(x, valid):
    return jnp.where(valid[..., None], x, 0).sum(1) / counted(valid)


def counted(valid):
    return jnp.maximum(valid.astype(jnp.float32).sum(1, keepdims=True), 1)


def classify(tokens, valid, *, pool=mean, **parts):
    return pool(encode(tokens, valid, **parts), valid) @ HEAD


def part(**parts):
    return functools.partial(classify, **parts)


def only_where_it_is_known(tokens, valid):
    return classify(tokens, valid, pool=(lambda x, valid: x.mean(1)) if tiny.is_traced(valid) else mean)


RIGHT = classify
MUTANTS = {
    "the mean counts padding": (
        part(pool=lambda x, valid: x.mean(1)),
        ["padding_is_not_read", "more_padding"],
    ),
    "the sum is divided by the length of the batch": (
        part(pool=lambda x, valid: mean(x, valid) * counted(valid) / valid.shape[1]),
        ["more_padding"],
    ),
    "the last position is pooled, padding or not": (
        part(pool=lambda x, valid: x[:, -1]),
        ["padding_is_not_read", "more_padding"],
    ),
    "padding is attended to": (
        part(see=lambda valid: keys(jnp.ones_like(valid))),
        ["padding_is_not_read", "more_padding"],
    ),
    "the first vector is pooled, and has seen nothing": (
        part(pool=lambda x, valid: x[:, 0], see=tiny.causal),
        ["every_token_counts"],
    ),
    "the mean is over the batch too": (
        part(pool=lambda x, valid: mean(x, valid) * 0 + mean(x, valid).mean(0, keepdims=True)),
        ["rows_of_a_batch"],
    ),
    "dropout stays on": (part(norm=tiny.left_on), ["same_twice"]),
    "valid is not read under jit": (only_where_it_is_known, ["compiled_is_eager"]),
}
