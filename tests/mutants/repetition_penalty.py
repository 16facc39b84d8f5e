"""Wrong repetition penalties."""

import functools

import jax.numpy as jnp

from tests.mutants import penalties
from tests.mutants.mutant import Mutant


def penalty_of(wide, penalty):
    return jnp.where(wide > 0, wide / penalty, wide * penalty)


def penalised(logits, tokens, penalty, *, counts=penalties.counts, penalty_of=penalty_of):
    seen = counts(tokens, logits.shape[-1]) > 0
    wide = logits.astype(jnp.float32)
    return jnp.where(seen, penalty_of(wide, penalty), wide).astype(logits.dtype)


def once_an_occurrence(logits, tokens, penalty):
    count = penalties.counts(tokens, logits.shape[-1]).astype(jnp.float32)
    return penalty_of(logits, penalty**count)


def part(**parts):
    return functools.partial(penalised, **parts)


RIGHT = penalised
MUTANTS = {
    "a negative logit is divided too": Mutant(
        part(penalty_of=lambda x, penalty: x / penalty),
        ["never_likelier", "divided_or_multiplied"],
        "huggingface/transformers#2302",
    ),
    "a positive logit is multiplied": (
        part(penalty_of=lambda x, penalty: jnp.where(x < 0, x / penalty, x * penalty)),
        ["never_likelier", "divided_or_multiplied"],
    ),
    "once an occurrence instead of once a token": Mutant(
        once_an_occurrence, ["once_a_token"], "ohdearquant/lattice#312"
    ),
    "the penalty is taken off": (
        part(penalty_of=lambda x, penalty: x - penalty),
        ["divided_or_multiplied", "no_penalty", "there_and_back"],
    ),
    "padding is penalised": Mutant(
        part(counts=lambda tokens, V: penalties.counts(jnp.maximum(tokens, 0), V)),
        ["holes_are_no_tokens"],
        "huggingface/text-generation-inference#1765",
    ),
    "a penalty below 1 is taken for none": (
        lambda x, tokens, penalty: penalised(x, tokens, jnp.maximum(penalty, 1)),
        ["there_and_back", "divided_or_multiplied"],
    ),
    "all tokens are penalised": (
        part(counts=lambda tokens, V: penalties.counts(tokens, V) + 1),
        ["others_stay"],
    ),
    **penalties.mutants(penalised),
}
