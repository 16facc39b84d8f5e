"""Mutants of the repetition penalty."""

import functools

import jax.numpy as jnp

from tests.mutants import _penalties as penalties
from tests.mutants._mutant import Mutant


def apply_penalty(logits, penalty):
    return jnp.where(logits > 0, logits / penalty, logits * penalty)


def penalize(logits, tokens, penalty, *, counts=penalties.counts, apply_penalty=apply_penalty):
    seen = counts(tokens, logits.shape[-1]) > 0
    wide = logits.astype(jnp.float32)
    return jnp.where(seen, apply_penalty(wide, penalty), wide).astype(logits.dtype)


def once_per_occurrence(logits, tokens, penalty):
    count = penalties.counts(tokens, logits.shape[-1]).astype(jnp.float32)
    return apply_penalty(logits, penalty**count)


def variant(**parts):
    return functools.partial(penalize, **parts)


RIGHT = penalize
MUTANTS = {
    "a negative logit is divided too": Mutant(
        variant(apply_penalty=lambda x, penalty: x / penalty),
        ["never_increases_logits", "divided_or_multiplied"],
        "huggingface/transformers#2302",
    ),
    "a positive logit is multiplied": Mutant(
        variant(apply_penalty=lambda x, penalty: jnp.where(x < 0, x / penalty, x * penalty)),
        ["never_increases_logits", "divided_or_multiplied"],
    ),
    "once per occurrence instead of per token": Mutant(
        once_per_occurrence, ["applied_once_per_token"], "ohdearquant/lattice#312"
    ),
    "the penalty is subtracted": Mutant(
        variant(apply_penalty=lambda x, penalty: x - penalty),
        ["divided_or_multiplied", "neutral_penalty_is_identity", "inverse_penalty_restores_logits"],
    ),
    "padding is penalized": Mutant(
        variant(counts=lambda tokens, V: penalties.counts(jnp.maximum(tokens, 0), V)),
        ["padding_is_ignored"],
        "huggingface/text-generation-inference#1765",
    ),
    "a penalty below 1 is ignored": Mutant(
        lambda x, tokens, penalty: penalize(x, tokens, jnp.maximum(penalty, 1)),
        ["inverse_penalty_restores_logits", "divided_or_multiplied"],
    ),
    "all tokens are penalized": Mutant(
        variant(counts=lambda tokens, V: penalties.counts(tokens, V) + 1),
        ["unseen_tokens_are_unchanged"],
    ),
    **penalties.mutants(penalize),
}
