"""Mutants of a decoder of left-padded prompts."""

import functools

import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False


def model(
    tokens,
    valid,
    *,
    mask_of=tiny.causal,
    positions_of=tiny.positions_of,
    norm=tiny.norm,
    softmax=tiny.softmax,
):
    x = tiny.add_positions(tiny.EMBED[tokens], positions_of(valid))
    return tiny.logits_of(tiny.layer(x, mask_of(valid), norm, softmax))


def variant(**parts):
    return functools.partial(model, **parts)


def indices(valid):
    return jnp.broadcast_to(jnp.arange(valid.shape[1])[None], valid.shape)


RIGHT = model
MUTANTS = {
    "padding counts in the positions": Mutant(
        variant(positions_of=indices), ["padding_length_does_not_matter"]
    ),
    "padding is attended to": Mutant(
        variant(mask_of=lambda valid: tiny.causal(jnp.ones_like(valid))),
        ["padding_is_ignored", "padding_length_does_not_matter"],
    ),
    "the mask is for queries instead of keys": Mutant(
        variant(mask_of=lambda valid: tiny.causal(jnp.ones_like(valid)) & valid[:, :, None]),
        ["padding_is_ignored"],
    ),
    "token 0 counts as padding": Mutant(
        lambda tokens, valid: model(tokens, tokens != 0), ["padding_is_ignored"]
    ),
    "positions of the first example serve all": Mutant(
        variant(positions_of=lambda valid: jnp.broadcast_to(tiny.positions_of(valid[:1]), valid.shape)),
        ["examples_are_independent"],
    ),
    "logits of padding are only lowered": Mutant(
        variant(softmax=tiny.soft_mask_softmax), ["padding_is_ignored"]
    ),
    "dropout is always on": Mutant(variant(norm=tiny.norm_with_dropout), ["deterministic"]),
    "padding counts in the positions under jit": Mutant(
        lambda tokens, valid: model(
            tokens, valid, positions_of=indices if tiny.is_traced(valid) else tiny.positions_of
        ),
        ["compiled_matches_eager"],
    ),
}
