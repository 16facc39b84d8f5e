"""Mutants of a language model."""

import functools

import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False  # the bug of one mutant shows only under jit


def model(
    tokens,
    *,
    mask_of=tiny.causal,
    positions_of=tiny.positions_of,
    add_positions=tiny.add_positions,
    norm=tiny.norm,
    softmax=tiny.softmax,
    shift=lambda tokens: tokens,
    logits=tiny.logits_of,
):
    valid = jnp.ones_like(tokens, bool)
    x = add_positions(tiny.EMBED[shift(tokens)], positions_of(valid))
    return logits(tiny.layer(x, mask_of(valid), norm, softmax))


def variant(**parts):
    return functools.partial(model, **parts)


def no_mask(valid):
    return jnp.ones((*valid.shape, valid.shape[1]), bool)


def next_token_unmasked(valid):
    return jnp.tri(valid.shape[1], k=1, dtype=bool)[None] & valid[:, None]


def segments_of_one_token(valid):
    segments = jnp.cumsum(valid, 1)
    return tiny.causal(valid) & (segments[:, :, None] == segments[:, None])


RIGHT = model
MUTANTS = {
    "no causal mask": Mutant(variant(mask_of=no_mask), ["causality", "prefix_consistency"]),
    "the causal mask shows the next token": Mutant(
        variant(mask_of=next_token_unmasked), ["causality", "prefix_consistency"]
    ),
    "masked logits are only lowered": Mutant(variant(softmax=tiny.soft_mask_softmax), ["causality"]),
    "inputs are shifted twice": Mutant(
        variant(shift=lambda tokens: jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))),
        ["own_token_matters"],
    ),
    "every token is a segment": Mutant(
        variant(mask_of=segments_of_one_token), ["previous_token_matters", "order_matters"]
    ),
    "no positions": Mutant(variant(add_positions=tiny.no_positions), ["order_matters"]),
    "positions count from the end": Mutant(
        variant(positions_of=lambda valid: tiny.positions_of(valid)[:, ::-1]), ["prefix_consistency"]
    ),
    "batch norm instead of layer norm": Mutant(
        variant(norm=tiny.batch_norm),
        ["examples_are_independent", "causality", "prefix_consistency"],
    ),
    "positions continue from example to example": Mutant(
        variant(positions_of=lambda valid: jnp.arange(valid.size).reshape(valid.shape)),
        ["examples_are_independent"],
    ),
    "dropout is always on": Mutant(variant(norm=tiny.norm_with_dropout), ["deterministic"]),
    "the logits are bfloat16": Mutant(
        variant(logits=lambda x: tiny.logits_of(x).astype(jnp.bfloat16)),
        ["logits_are_finite_float32"],
    ),
    "no causal mask under jit": Mutant(
        lambda tokens: model(tokens, mask_of=no_mask if tiny.is_traced(tokens) else tiny.causal),
        ["compiled_matches_eager"],
    ),
}
