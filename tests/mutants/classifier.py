"""Mutants of a classifier."""

import functools

import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant
from tests.mutants.encoder import encode, no_mask

JIT = False
HEAD = tiny.random_array(8, tiny.D, 3)


def mean(x, valid):
    return jnp.where(valid[..., None], x, 0).sum(1) / length_of(valid)


def length_of(valid):
    return jnp.maximum(valid.astype(jnp.float32).sum(1, keepdims=True), 1)


def mean_with_padding(x, valid):
    return x.mean(1)


def classify(tokens, valid, *, pool=mean, **parts):
    return pool(encode(tokens, valid, **parts), valid) @ HEAD


def variant(**parts):
    return functools.partial(classify, **parts)


RIGHT = classify
MUTANTS = {
    "the mean includes padding": Mutant(
        variant(pool=mean_with_padding),
        ["padding_is_ignored", "padding_length_does_not_matter"],
    ),
    "the sum is divided by the padded length": Mutant(
        variant(pool=lambda x, valid: mean(x, valid) * length_of(valid) / valid.shape[1]),
        ["padding_length_does_not_matter"],
    ),
    "the last position is pooled, padding or not": Mutant(
        variant(pool=lambda x, valid: x[:, -1]),
        ["padding_is_ignored", "padding_length_does_not_matter"],
    ),
    "padding is attended to": Mutant(
        variant(mask_of=no_mask),
        ["padding_is_ignored", "padding_length_does_not_matter"],
    ),
    "the first vector is pooled under a causal mask": Mutant(
        variant(pool=lambda x, valid: x[:, 0], mask_of=tiny.causal),
        ["every_token_counts"],
    ),
    "the mean is over the batch too": Mutant(
        variant(pool=lambda x, valid: mean(x, valid) * 0 + mean(x, valid).mean(0, keepdims=True)),
        ["examples_are_independent"],
    ),
    "dropout is always on": Mutant(variant(norm=tiny.norm_with_dropout), ["deterministic"]),
    "the mean includes padding under jit": Mutant(
        lambda tokens, valid: classify(
            tokens, valid, pool=mean_with_padding if tiny.is_traced(valid) else mean
        ),
        ["compiled_matches_eager"],
    ),
}
