"""Mutants of an encoder."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False


def padding_mask(valid):
    return jnp.broadcast_to(valid[:, None, :], (*valid.shape, valid.shape[1]))


def no_mask(valid):
    return padding_mask(jnp.ones_like(valid))


def encode(
    tokens,
    valid,
    *,
    mask_of=padding_mask,
    positions_of=tiny.positions_of,
    add_positions=tiny.add_positions,
    norm=tiny.norm,
    softmax=tiny.softmax,
):
    x = add_positions(tiny.EMBED[tokens], positions_of(valid))
    return tiny.norm(tiny.layer(x, mask_of(valid), norm, softmax))


def infinite_mask_softmax(logits, mask):
    return jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=-1)


# Mutants of any encoder, with positions or without: the wrong parts and the violated laws.
PARTS = {
    "padding is attended to": (
        {"mask_of": no_mask},
        ["padding_is_ignored", "padding_length_does_not_matter"],
    ),
    "the mask is for queries instead of keys": (
        {"mask_of": lambda valid: jnp.swapaxes(padding_mask(valid), 1, 2)},
        ["padding_is_ignored", "padding_length_does_not_matter"],
    ),
    "logits of padding are only lowered": ({"softmax": tiny.soft_mask_softmax}, ["padding_is_ignored"]),
    "a causal mask": ({"mask_of": tiny.causal}, ["context_matters"]),
    "tokens attend only to themselves": (
        {"mask_of": lambda valid: jnp.eye(valid.shape[1], dtype=bool)[None]},
        ["context_matters"],
    ),
    "a fully masked row is NaN": ({"softmax": infinite_mask_softmax}, ["fully_padded_examples"]),
    "batch norm instead of layer norm": (
        {"norm": tiny.batch_norm},
        ["examples_are_independent", "padding_is_ignored"],
    ),
    "the mask of the first example serves all": (
        {"mask_of": lambda valid: padding_mask(jnp.broadcast_to(valid[:1], valid.shape))},
        ["examples_are_independent", "fully_padded_examples"],
    ),
    "dropout is always on": ({"norm": tiny.norm_with_dropout}, ["deterministic"]),
    "padding is attended to under jit": (
        {"mask_of": lambda valid: no_mask(valid) if tiny.is_traced(valid) else padding_mask(valid)},
        ["compiled_matches_eager"],
    ),
}


def mutants(**parts):
    """The mutants of an encoder with these parts."""
    return {
        name: Mutant(functools.partial(encode, **parts, **wrong), violates)
        for name, (wrong, violates) in PARTS.items()
    }


RIGHT = encode
MUTANTS = {
    **mutants(),
    "no positions": Mutant(functools.partial(encode, add_positions=tiny.no_positions), ["positions_matter"]),
    "positions count from the end of the padding": Mutant(
        functools.partial(
            encode, positions_of=lambda valid: tiny.positions_of(jnp.ones_like(valid))[:, ::-1]
        ),
        ["padding_length_does_not_matter"],
    ),
}
